//! Starting a node, its background work, and stopping it in order.

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context;
use axum::{Router, routing::get};
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::Value;
use shared::{clock::Clock, ids::TenantId};
use sqlx::postgres::PgListener;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Parts},
    config::{Config, FullConfig, HttpConfig},
    db, dispatch, drivers,
    http::{self, DRAIN, Problem, forget_old_answers, router},
    identity, payments, redis, retention, rides, surge,
    tenants::{self, RegionEntry},
    travel, zones,
};

/// A missed notification is made up for this soon.
const POLL_DIRECTORY: Duration = Duration::from_secs(5);
const DIRECTORY_CHANGED: &str = "directory_changed";
/// Notifications looked at together, and tenants of which each is read by itself; of more all are.
const TOLD_TOGETHER: usize = 1000;
const TAKEN_UP_SINGLY: usize = 32;
const PUBLISH_DRAFTS: Duration = Duration::from_secs(2);
/// What is known without a query.
const REPORT: Duration = Duration::from_secs(1);
const REPORT_RIDES: Duration = Duration::from_secs(15);
const SWEEP: Duration = Duration::from_secs(600);

/// Serves a full node until `stop`.
pub async fn serve(config: Config, metrics: PrometheusHandle, stop: CancellationToken) -> anyhow::Result<()> {
    let FullConfig { database_url, system_url, master_key } = config.full()?;
    if let Some(url) = &config.database.migrate_url {
        db::migrate(url).await?;
    }
    let app_pool = db::connect(&database_url, "database.url", &config.database).await?;
    db::must_be_migrated(&app_pool).await?;
    let parts = Parts {
        app_pool,
        system_pool: db::connect(&system_url, "database.system_url", &config.database).await?,
        redis: redis::connect(&config.redis).await?,
        master_key,
        clock: Clock::system(),
    };
    let (app, receiver) = App::assemble(config, parts).await?;
    announce(&app).await?;
    start_background_work(&app);
    drivers::start(&app).await?;
    travel::start(&app);
    zones::start(&app);
    surge::start(&app);
    dispatch::start(&app);
    retention::start(&app);
    let service = router::router(&app, receiver).await?;
    let own = Router::new().route("/metrics", get(move || std::future::ready(metrics.render())));
    let (service, internal) = match app.config.http.internal_listen {
        None => (service.merge(own), Router::new()),
        Some(_) => (service, router::internal(&app).merge(own)),
    };
    let stop_app = app.stop.clone();
    let watch_stop = stop.clone();
    app.tasks.spawn(async move {
        watch_stop.cancelled().await;
        stop_app.cancel();
    });
    listen(service, internal, &app.config.http, &stop).await?;
    app.stop.cancel();
    app.tasks.close();
    if tokio::time::timeout(DRAIN, app.tasks.wait()).await.is_err() {
        tracing::warn!("some background work did not end in time");
    }
    Ok(())
}

/// Serves `service`, and `internal` if it has an address of its own, until `stop`; then lets running calls end.
pub async fn listen(
    service: Router,
    internal: Router,
    config: &HttpConfig,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = bind(config.listen, "http.listen").await?;
    let serving = http::serve(listener, service, config.clone(), stop.clone());
    match config.internal_listen {
        None => serving.await,
        Some(address) => {
            let listener = bind(address, "http.internal_listen").await?;
            tokio::join!(serving, http::serve(listener, internal, config.clone(), stop.clone()));
        }
    }
    Ok(())
}

async fn bind(address: SocketAddr, setting: &str) -> anyhow::Result<TcpListener> {
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another program using it? Set {setting} to a free address")
    })?;
    tracing::info!(%address, "listening");
    Ok(listener)
}

/// Tells the other regions where this one is and which keys it signs with, and reads what they say.
pub(crate) async fn announce(app: &App) -> anyhow::Result<()> {
    enter_directory(app).await.context("the region could not be announced")?;
    app.tenants.refresh().await.context("the directory could not be read")
}

/// Writes this region's entry of the directory, which the other regions are told of if it is new.
async fn enter_directory(app: &App) -> sqlx::Result<()> {
    let entry = RegionEntry {
        base_url: app.config.http.public_url.as_str().trim_end_matches('/').to_owned(),
        quic_addr: app.config.sync.quic_addr.as_ref().map(ToString::to_string).unwrap_or_default(),
        jwks: own_jwks(app),
        state: "active".to_owned(),
    };
    tenants::announce_region(app.db.app_pool(), &app.region, &entry).await
}

/// The keys tokens are checked with, and the one that tenants' keys are wrapped for.
fn own_jwks(app: &App) -> Value {
    let mut jwks = app.tokens.own_jwks();
    jwks["keys"].as_array_mut().expect("a JWK set has a list of keys").push(app.tenant_keys.jwk());
    jwks
}

fn start_background_work(app: &App) {
    app.spawn(follow_directory(app.clone()));
    app.spawn(payments::resume_payments(app.clone()));
    app.spawn(payments::reconcile_due(app.clone()));
    app.spawn(payments::pay_out_daily(app.clone()));
    app.spawn(payments::book_forgotten(app.clone()));
    app.spawn(payments::close_ledgers(app.clone()));
    app.spawn(every(app.clone(), REPORT, async |app| {
        app.db.report();
        app.tenants.directory_cell().report();
        Ok(())
    }));
    let reported = Arc::new(rides::Reported::default());
    app.spawn(every(app.clone(), REPORT_RIDES, move |app| {
        let reported = reported.clone();
        async move { rides::report_open(&app, &reported).await }
    }));
    app.spawn(every(app.clone(), PUBLISH_DRAFTS, async |app| tenants::publish_due_drafts(&app).await));
    app.spawn(every(app.clone(), SWEEP, async |app| {
        forget_old_answers(&app.db, app.clock.now()).await?;
        identity::forget_expired(&app).await?;
        payments::forget_webhooks(&app.db, app.clock.now()).await?;
        Ok(())
    }));
}

/// Runs `work` again and again; a failure is logged and the next time may do better.
pub(crate) async fn every<F>(app: App, period: Duration, work: impl Fn(App) -> F)
where
    F: Future<Output = Result<(), Problem>>,
{
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(problem) = work(app.clone()).await {
            tracing::warn!(%problem, "background work failed and will be tried again");
        }
    }
}

/// Reads the directory and config again when replication or another node changed them, and enters the region anew when another
/// life of it has begun.
pub(crate) async fn follow_directory(app: App) {
    loop {
        if let Err(error) = listen_for_changes(&app).await {
            tracing::warn!(%error, "notifications are interrupted; polling meanwhile");
        }
        if let Err(error) = refresh(&app).await {
            tracing::warn!(%error, "the directory could not be read; what is known goes on being served");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn listen_for_changes(app: &App) -> Result<(), Problem> {
    let mut listener = PgListener::connect_with(app.db.app_pool()).await?;
    listener.listen_all([DIRECTORY_CHANGED, "config_changed"]).await?;
    loop {
        refresh(app).await?;
        // A quiet listener may have lost its connection without noticing: poll beside it.
        let polled = tokio::time::Instant::now() + POLL_DIRECTORY;
        while let Ok(received) = tokio::time::timeout_at(polled, listener.recv()).await {
            // What has come together is taken up together.
            let mut told = vec![received?];
            while told.len() < TOLD_TOGETHER
                && let Some(more) = listener.next_buffered()
            {
                told.push(more);
            }
            let tenants: BTreeSet<TenantId> = told.iter().filter_map(|told| told.payload().parse().ok()).collect();
            if told.iter().any(|told| told.channel() == DIRECTORY_CHANGED) || tenants.len() > TAKEN_UP_SINGLY {
                break;
            }
            app.tenants.take_up(&tenants).await?;
        }
    }
}

async fn refresh(app: &App) -> Result<(), Problem> {
    if tenants::begins_anew(app.db.app_pool()).await? {
        enter_directory(app).await?;
    }
    app.tenants.refresh().await?;
    app.learn_keys();
    Ok(())
}
