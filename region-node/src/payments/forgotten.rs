//! Payouts, and movements of wallets, that a region has forgotten, since its database was taken back to an old backup, and other
//! regions remember.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering::Relaxed},
};

use shared::ids::{DriverId, RiderId};

use super::{payout, store, wallet};
use crate::{app::App, http::Problem, serve::every};

const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// Whose account has moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Driver(DriverId),
    Rider(RiderId),
}

/// Books what other regions tell of accounts here and is unknown here until the node stops.
pub async fn book_forgotten(app: App) {
    let position = Arc::new(AtomicI64::new(0));
    every(app, LOOK_EVERY, move |app| {
        let position = position.clone();
        async move {
            loop {
                let before = position.load(Relaxed);
                let until = run_due(&app, before).await?;
                if until == before {
                    return Ok(());
                }
                position.store(until, Relaxed);
            }
        }
    })
    .await;
}

/// Books what is forgotten and whose facts came after `position`; says up to which they were looked at. An account that is not
/// here, since its holder lives where the tenant was at home before, can move nothing here either.
pub(super) async fn run_due(app: &App, position: i64) -> Result<i64, Problem> {
    let mut tx = app.db.system().await?;
    let (holders, until) = store::holders_forgotten(&mut tx, &app.region, position).await?;
    tx.commit().await?;
    for (tenant, holder) in holders {
        let (mut tx, now) = (app.db.begin(&tenant).await?, app.clock.now());
        match holder {
            Holder::Driver(driver) if store::lock_driver(&mut tx, driver).await? => {
                payout::book_forgotten(&mut tx, driver, now).await?;
            }
            Holder::Rider(rider) if store::is_rider(&mut tx, rider).await? => {
                wallet::book_forgotten(&mut tx, rider, now).await?;
            }
            Holder::Driver(_) | Holder::Rider(_) => {}
        }
        tx.commit().await?;
    }
    Ok(until)
}
