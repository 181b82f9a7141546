use shared::{
    ids::{DriverId, TenantId},
    local_time,
    tenant_config::TenantConfig,
};
use time::{Date, Duration};
use uuid::Uuid;

use super::{Reading, Wish, make, note};
use crate::{
    app::App,
    http::Problem,
    payments::{PaymentError, store},
    serve::every,
};

const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(30);
/// Whoever makes a day's payouts has so long for each page of drivers.
const HOLD: Duration = Duration::minutes(2);
/// Drivers of a page.
const PAGE: i64 = 100;

/// Makes the daily payouts of tenants that want them until the node stops.
pub async fn pay_out_daily(app: App) {
    every(app, LOOK_EVERY, async |app| run_due(&app).await.map(drop)).await;
}

/// Makes the payouts of the days that have begun in their tenants' cities; says how many.
pub(in crate::payments) async fn run_due(app: &App) -> Result<u64, Problem> {
    let now = app.clock.now();
    let mut days = Vec::new();
    for tenant in app.tenants.directory().at_home_in(&app.region) {
        match app.tenants.config(tenant).await {
            Ok(published) if published.config.payouts.daily => {
                days.push((tenant.clone(), local_time::local(now, &published.config.timezone).date()));
            }
            Ok(_) => {}
            Err(problem) => tracing::warn!(%problem, %tenant, "whether there are daily payouts could not be read"),
        }
    }
    if days.is_empty() {
        return Ok(0);
    }
    let mut tx = app.db.system().await?;
    let due = store::without_run(&mut tx, &days, now).await?;
    tx.commit().await?;
    let mut made = 0;
    for (tenant, day) in due {
        match run(app, &tenant, day).await {
            Ok(payouts) => made += payouts,
            Err(problem) => {
                tracing::warn!(%problem, %tenant, %day, "daily payouts are interrupted; any node goes on with them")
            }
        }
    }
    Ok(made)
}

/// Makes a tenant's payouts of a day, page by page of its drivers; says how many.
async fn run(app: &App, tenant: &TenantId, day: Date) -> Result<u64, Problem> {
    let published = app.tenants.config(tenant).await?;
    let now = app.clock.now();
    let mut tx = app.db.begin(tenant).await?;
    let claimed = store::claim_run(&mut tx, day, now, now + HOLD).await?;
    tx.commit().await?;
    let Some(mut run) = claimed else { return Ok(0) };
    let mut made = 0;
    loop {
        let drivers = page(app, tenant, run.after_driver).await?;
        let Some(last) = drivers.last().copied() else { break };
        for driver in drivers {
            made += u64::from(pay(app, tenant, &published.config, driver, day).await?);
        }
        let mut tx = app.db.begin(tenant).await?;
        let held_on = store::advance_run(&mut tx, &run, last, app.clock.now() + HOLD).await?;
        tx.commit().await?;
        // None: it was too slow, and somebody else holds them by now.
        run = match held_on {
            Some(run) => run,
            None => return Ok(made),
        };
    }
    let mut tx = app.db.begin(tenant).await?;
    store::finish_run(&mut tx, day, app.clock.now()).await?;
    tx.commit().await?;
    tracing::info!(%tenant, %day, payouts = made, "the day's payouts are made");
    Ok(made)
}

async fn page(app: &App, tenant: &TenantId, after: Option<Uuid>) -> Result<Vec<DriverId>, Problem> {
    let mut tx = app.db.read(tenant).await?;
    Ok(store::drivers_with_balances(&mut tx, after, PAGE).await?)
}

/// Pays a driver all he can be paid, if that is worth a payout and he was not paid for this day; says whether he was.
async fn pay(
    app: &App,
    tenant: &TenantId,
    config: &TenantConfig,
    driver: DriverId,
    day: Date,
) -> Result<bool, Problem> {
    let reading = Reading { region: &app.region, hold_until_durable: config.payouts.hold_until_durable };
    let wish = Wish {
        driver,
        currency: config.currency,
        amount: None,
        at_least: config.payouts.minimum,
        day: Some(day),
        made_by: "schedule".to_owned(),
    };
    let mut tx = app.db.begin(tenant).await?;
    match make(&mut tx, wish, reading, app.clock.now()).await? {
        Ok(payout) => {
            tx.commit().await?;
            note(&payout, tenant, "daily");
            Ok(true)
        }
        Err(PaymentError::NothingToPayOut(_)) => {
            tx.rollback().await?;
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}
