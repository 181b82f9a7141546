//! Payouts a region has forgotten, since its database was taken back to an old backup, and other regions remember.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering::Relaxed},
};

use shared::ids::DriverId;
use time::OffsetDateTime;

use crate::{app::App, db::TenantTx, http::Problem, payments::store, serve::every};

const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// Books what other regions tell of payouts that are unknown here until the node stops.
pub async fn book_forgotten_payouts(app: App) {
    let position = Arc::new(AtomicI64::new(0));
    every(app, LOOK_EVERY, move |app| {
        let position = position.clone();
        async move {
            let newest = run_due(&app, position.load(Relaxed)).await?;
            position.store(newest, Relaxed);
            Ok(())
        }
    })
    .await;
}

/// Books forgotten payouts whose facts came after `position`; says up to which they were looked at.
pub(in crate::payments) async fn run_due(app: &App, position: i64) -> Result<i64, Problem> {
    let mut tx = app.db.system().await?;
    let (drivers, newest) = store::drivers_with_forgotten_payouts(&mut tx, &app.region, position).await?;
    tx.commit().await?;
    for (tenant, driver) in drivers {
        let mut tx = app.db.begin(&tenant).await?;
        // A driver who is not here, since he lives where the tenant was at home before, can be paid nothing here either.
        if store::lock_driver(&mut tx, driver).await? {
            book(&mut tx, driver, app.clock.now()).await?;
            tx.commit().await?;
        }
    }
    Ok(newest)
}

/// Books a driver's forgotten payouts; his row is held. They are posted now, since statements of the time they were made in are
/// out, and told to nobody, since every region has them.
pub(super) async fn book(tx: &mut TenantTx, driver: DriverId, now: OffsetDateTime) -> sqlx::Result<()> {
    for payout in store::forgotten_payouts(tx, driver).await? {
        store::insert_payout(tx, &payout).await?;
        store::book(tx, &payout.entry(now), None).await?;
        tracing::warn!(payout.id = %payout.id, driver.id = %driver, "payout {} was forgotten here and is booked anew", payout.id);
    }
    Ok(())
}
