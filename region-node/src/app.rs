//! What every feature works with.

use std::{ops::Deref, sync::Arc, time::Duration};

use anyhow::Context;
use fred::prelude::Client as Redis;
use shared::{clock::Clock, ids::RegionName};
use sqlx::PgPool;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::Config,
    db::Db,
    dispatch::{Due, Previews},
    drivers::Drivers,
    identity::{self, Sealer, TenantKeys, Tokens},
    payments::PspRegistry,
    realtime::{self, EventReceiver, EventSender},
    tenants::Tenants,
    travel::Travel,
    zones::Zones,
};

/// A node's parts; cheap to clone.
#[derive(Clone)]
pub struct App(Arc<AppInner>);

/// The parts themselves.
pub struct AppInner {
    pub config: Config,
    pub region: RegionName,
    pub clock: Clock,
    pub db: Db,
    /// May be down at any time; losing it costs speed, never truth.
    pub redis: Redis,
    pub tenants: Tenants,
    /// Seals what belongs to the region; what belongs to a tenant is sealed with [`crate::db::TenantTx::sealer`].
    pub sealer: Sealer,
    /// The keys of the tenants at home here.
    pub tenant_keys: TenantKeys,
    pub tokens: Tokens,
    pub events: EventSender,
    /// Where every driver of the region is.
    pub drivers: Drivers,
    /// Moves the money.
    pub psp: PspRegistry,
    /// Who has rides to dispatch.
    pub dispatch_due: Due,
    /// How many previews of dispatch are under way.
    pub previews: Previews,
    /// How long ways take.
    pub travel: Travel,
    /// Which queue a place belongs to.
    pub zones: Zones,
    /// Calls other programs: other regions, global-sync.
    pub http: reqwest::Client,
    /// Background work runs on this, so that shutdown waits for it.
    pub tasks: TaskTracker,
    /// Cancelled when the node stops.
    pub stop: CancellationToken,
}

impl Deref for App {
    type Target = AppInner;
    fn deref(&self) -> &AppInner {
        &self.0
    }
}

/// What an [`App`] is made of besides its settings.
pub struct Parts {
    /// Sees one tenant at a time.
    pub app_pool: PgPool,
    /// Sees all tenants.
    pub system_pool: PgPool,
    pub redis: Redis,
    pub master_key: [u8; 32],
    pub clock: Clock,
}

impl App {
    /// Puts a node together: loads its signing key and the directory. What it tells comes out of the receiver.
    pub async fn assemble(config: Config, parts: Parts) -> anyhow::Result<(Self, EventReceiver)> {
        let Parts { app_pool, system_pool, redis, master_key, clock } = parts;
        let region = config.region.name.clone();
        let sealer = Sealer::new(&master_key);
        let signing = identity::load_or_create_key(&app_pool, &sealer, &clock, &region).await?;
        let (ttl, cluster) = (config.tokens.access_ttl, config.region.cluster_id.clone());
        let tokens = Tokens::new(&cluster, region.clone(), ttl, clock.clone(), Some(signing));
        let (drivers, dispatch_due) = (Drivers::new(&config.drivers, &cluster), Due::default());
        let (events, receiver) = realtime::channel(drivers.clone(), dispatch_due.clone());
        let tenant_keys = TenantKeys::new(region.clone(), sealer.clone());
        let db = Db::new(app_pool, system_pool, region.clone(), events.clone(), tenant_keys.clone());
        let tenants =
            Tenants::load(db.clone(), tenant_keys.clone()).await.context("the directory could not be read")?;
        let http = http_client(config.edge.connect_timeout)?;
        let app = Self(Arc::new(AppInner {
            psp: PspRegistry::new(&config.psp, db.clone(), clock.clone(), &http, tenants.clone())?,
            db,
            travel: Travel::new(&config.travel, http.clone())
                .context("travel.road_graph must name a folder with road_nodes.csv and road_edges.csv")?,
            http,
            zones: Zones::default(),
            dispatch_due,
            previews: Previews::default(),
            drivers,
            config,
            region,
            clock,
            redis,
            tenants,
            sealer,
            tenant_keys,
            tokens,
            events,
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }));
        app.learn_keys();
        Ok((app, receiver))
    }

    /// Takes over the directory's token keys.
    pub fn learn_keys(&self) {
        let directory = self.tenants.directory();
        self.tokens.learn(directory.regions.values().map(|region| &region.jwks));
    }

    /// Runs `work` until it ends or the node stops, and lets shutdown wait for it.
    pub fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(work).await;
        });
    }
}

/// A client for calls to other programs. Time-outs of whole calls are set per call.
pub fn http_client(connect_timeout: Duration) -> anyhow::Result<reqwest::Client> {
    reqwest::Client::builder()
        .connect_timeout(connect_timeout)
        .pool_idle_timeout(Duration::from_secs(30))
        .http1_only()
        .redirect(reqwest::redirect::Policy::none())
        .build()
        .context("the HTTP client could not be made")
}
