//! Drivers: whether they take rides, and where they are.
//!
//! A position comes in over REST or a socket ([`location`]), is made sane ([`position`]) and goes into the live table
//! ([`table`]); from there it spreads to the other nodes ([`share`]) and, far slower, to Postgres ([`background`]). Those of
//! running trips are also kept one by one ([`breadcrumbs`]). The table believes, Postgres knows: who is online and who is on
//! a trip is decided there, and [`background`] corrects the table where the two differ.

mod background;
mod breadcrumbs;
mod cells;
mod config;
mod device_clock;
mod documents;
mod earnings;
mod keys;
mod location;
mod nearby;
mod position;
mod preferences;
mod record;
mod share;
mod standing;
mod status;
mod store;
mod table;
mod terms;
mod wire;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use shared::ids::{DriverId, TenantId};
use time::OffsetDateTime;
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use cells::{area_of, cell_of};
pub use config::DriversConfig;
pub(crate) use earnings::median;
pub use keys::Keys;
pub use location::{Reporter, Taken};
pub use position::{MAX_POSITIONS, Position, PositionInput, PositionsInput};
pub use record::{Addition, Record};
pub use standing::{Duty, Standing};
pub use store::{DriverStatus, note_idle};
pub use table::{Census, Fleet, Found, LIFE, LiveTable, Observed, Search, ShareRule, Sighting};
pub use terms::{DocumentFault, Terms};

use crate::{app::App, db::TenantTx, http::Problem, realtime::Event, redis};

/// What a node keeps of live drivers; cheap to clone.
#[derive(Clone)]
pub struct Drivers {
    /// Where everybody is.
    pub live: LiveTable,
    /// Traces on their way to Postgres.
    breadcrumbs: breadcrumbs::Breadcrumbs,
    /// Positions counted; looking a counter up by name costs as much as taking a position.
    pub taken: TakenCounters,
    sharing: share::Sharing,
    /// Nodes hear each other. While they don't, a driver's trip may have begun on another node.
    is_sharing: Arc<AtomicBool>,
}

/// How many positions came in, by the way they came.
#[derive(Clone)]
pub struct TakenCounters {
    /// Over REST.
    pub rest: metrics::Counter,
    /// Over sockets.
    pub socket: metrics::Counter,
}

impl Drivers {
    /// Knows nobody yet.
    pub fn new(config: &DriversConfig, cluster_id: &str) -> Self {
        Self {
            live: LiveTable::new(config.share_rule()),
            breadcrumbs: breadcrumbs::Breadcrumbs::new(config.breadcrumbs_held),
            taken: TakenCounters {
                rest: metrics::counter!("region_node_positions_total", "source" => "rest"),
                socket: metrics::counter!("region_node_positions_total", "source" => "socket"),
            },
            sharing: share::Sharing::new(cluster_id),
            is_sharing: Arc::default(),
        }
    }

    /// Notes what a driver is doing since `as_of`; a hint, the truth having been committed.
    pub fn set_duty(&self, tenant: &TenantId, driver_id: DriverId, duty: Duty, as_of: OffsetDateTime) {
        self.live.fleet(tenant).set_duty(driver_id, duty, as_of);
    }

    /// Notes how a driver answers and earns by now; the same.
    pub fn set_record(&self, tenant: &TenantId, driver_id: DriverId, record: Record) {
        self.live.fleet(tenant).set_record(driver_id, record);
    }

    /// Notes that a driver has no offer any more since `as_of`; he may be on a trip all the same.
    pub fn end_offer(&self, tenant: &TenantId, driver_id: DriverId, as_of: OffsetDateTime) {
        let fleet = self.live.fleet(tenant);
        let is_on_trip = |sighting: Sighting| matches!(sighting.standing.duty, Duty::OnTrip { .. });
        if !fleet.sighting(driver_id, as_of).is_some_and(is_on_trip) {
            fleet.set_duty(driver_id, Duty::Free, as_of);
        }
    }

    fn set_sharing(&self, is_sharing: bool) {
        self.is_sharing.store(is_sharing, Ordering::Relaxed);
    }

    fn is_sharing(&self) -> bool {
        self.is_sharing.load(Ordering::Relaxed)
    }
}

/// Takes over what Postgres says of drivers the table was wrong about.
pub async fn correct(app: &App, tx: &mut TenantTx, drivers: &[DriverId], now: OffsetDateTime) -> sqlx::Result<()> {
    let fleet = app.drivers.live.fleet(tx.tenant());
    for driver_id in drivers {
        match store::standing(tx, *driver_id, now).await? {
            // Nothing is later than what this transaction reads, but for what the table hears after it.
            Some(standing) => fleet.correct(*driver_id, Standing { as_of: now, duty_as_of: now, ..standing }),
            None => fleet.forget(*driver_id),
        }
    }
    Ok(())
}

/// Keeps in mind, as part of a transaction, what drivers did. It takes no lock of a driver's own row, and is called with the
/// rides in question held.
pub async fn note(tx: &mut TenantTx, drivers: &[DriverId], what: Addition, now: OffsetDateTime) -> sqlx::Result<()> {
    let records = store::add_to_records(tx, drivers, what, false, now).await?;
    tell_records(tx, records);
    Ok(())
}

/// Keeps in mind what a driver earned with a trip that ends, and that he is idle from now on if he goes on with no other.
pub async fn note_trip_ended(
    tx: &mut TenantTx,
    driver_id: DriverId,
    earned: Addition,
    is_idle: bool,
    now: OffsetDateTime,
) -> sqlx::Result<()> {
    let records = store::add_to_records(tx, &[driver_id], earned, is_idle, now).await?;
    tell_records(tx, records);
    Ok(())
}

fn tell_records(tx: &mut TenantTx, records: Vec<(DriverId, Record)>) {
    let tenant = tx.tenant().clone();
    for (driver_id, record) in records {
        tx.tell(Event::RecordChanged { tenant: tenant.clone(), driver_id, record });
    }
}

/// Takes over what a transaction left behind that changed a driver's terms.
fn relearn(app: &App, tenant: &TenantId, driver_id: DriverId, changed: Option<Standing>) {
    if let Some(standing) = changed {
        let as_of = app.clock.now();
        app.drivers.live.fleet(tenant).correct(driver_id, Standing { as_of, ..standing });
    }
}

/// Endpoints of drivers.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(status::set_status))
        .routes(routes!(documents::set_documents, documents::get_documents))
        .routes(routes!(preferences::set_preferences, preferences::get_preferences))
        .routes(routes!(location::take_location))
        .routes(routes!(nearby::nearby))
}

/// Fills the live table and keeps it fresh, shared and stored until the node stops.
pub async fn start(app: &App) -> anyhow::Result<()> {
    let subscriber = redis::subscriber(&app.config.redis)?;
    let listening = share::listen(app, subscriber).await;
    app.spawn(share::hear_others(app.clone(), listening));
    share::rebuild(app).await;
    app.spawn(share::tell_others(app.clone()));
    background::start(app);
    Ok(())
}

/// Brings what is still on its way of running trips' traces to Postgres: this node's, and the other nodes'. Called before a
/// fare is made of a trace, outside the transaction that reads it.
pub async fn flush_breadcrumbs(app: &App) -> Result<(), Problem> {
    let (own, ()) = tokio::join!(app.drivers.breadcrumbs.flush(app), app.drivers.sharing.others_write_breadcrumbs(app));
    own
}

#[cfg(test)]
mod tests;
