//! Taking positions, over REST and from sockets.

use std::sync::Arc;

use axum::{Json, extract::State, http::StatusCode};
use serde::Serialize;
use shared::ids::{DriverId, TenantId};
use time::OffsetDateTime;

use super::{Duty, Fleet, LIFE, Observed, Position, PositionsInput, breadcrumbs::Batch, store};
use crate::{
    app::App,
    http::{Command, Path, Problem, ProblemBody},
    identity::Caller,
    realtime::Event,
};

/// How many positions were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub struct Taken {
    /// Positions received.
    pub accepted: usize,
    /// Whether riders can find the driver there: offline drivers are found nowhere.
    pub online: bool,
    /// Seconds since the newest was recorded, if that is too long for anybody to find the driver there: it was sent late, or the
    /// device's clock is behind. A clock that stays behind by as much is put right within a minute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub late_s: Option<i64>,
    /// With which the trace of the trip they are of goes to Postgres.
    #[serde(skip)]
    trace: Option<Batch>,
}

impl Taken {
    /// They are of a running trip, and whoever acknowledges them has to wait until they are kept.
    pub fn is_of_trip(&self) -> bool {
        self.trace.is_some()
    }

    /// Returns once those of a running trip are in Postgres: what was acknowledged outlives this node, but for what made room
    /// while Postgres was away.
    pub async fn keep(&self, app: &App) -> Result<(), Problem> {
        match self.trace {
            // On the heap: few drivers are on a trip, and the future of every other report would be several times as large.
            Some(batch) => Box::pin(app.drivers.breadcrumbs.keep(app, batch)).await,
            None => Ok(()),
        }
    }
}

/// Takes a driver's position, or an array of 1 to 100 of them; the newest counts, and all of them while on a trip, of which
/// they are stored before this answers. What was not answered can be sent again: of one time one position is kept.
#[utoipa::path(post, path = "/v1/drivers/{id}/location", tag = "drivers", security(("bearer" = [])),
    request_body = PositionsInput,
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path)),
    responses((status = 202, body = Taken), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
pub(super) async fn take_location(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
    command: Command<PositionsInput>,
) -> Result<(StatusCode, Json<Taken>), Problem> {
    let id = caller.driver_is(id)?;
    let now = app.clock.now();
    let mut positions = command.body.received_at(now);
    let reporter = Reporter::new(&app, caller.tenant(), id);
    let taken = reporter.take(&app, &mut positions, now).await?;
    taken.keep(&app).await?;
    app.drivers.taken.rest.increment(positions.len() as u64);
    Ok((StatusCode::ACCEPTED, Json(taken)))
}

/// A driver who is signed in, and the fleet he reports to.
#[derive(Clone)]
pub struct Reporter {
    tenant: TenantId,
    fleet: Arc<Fleet>,
    driver_id: DriverId,
}

impl Reporter {
    /// Looks the fleet up, once for many reports.
    pub fn new(app: &App, tenant: &TenantId, driver_id: DriverId) -> Self {
        Self { tenant: tenant.clone(), fleet: app.drivers.live.fleet(tenant), driver_id }
    }

    /// Takes validated positions, oldest first, in memory alone; none if this node knows nothing of the driver yet.
    pub fn take_known(&self, app: &App, positions: &mut [Position], now: OffsetDateTime) -> Option<Taken> {
        let (duty, online, moved, before) = match self.fleet.observe(self.driver_id, positions, now) {
            Observed::Known { duty, online, moved, before } => (duty, online, moved.len(), before),
            Observed::Stranger => return None,
        };
        let late_s = if moved == 0 { note_unused(positions, now) } else { None };
        let trace = self.follow(app, positions, duty, moved, &before);
        Some(Taken { accepted: positions.len(), online, late_s, trace })
    }

    /// Takes validated positions, oldest first, and looks up first who the driver is if this node does not know.
    pub async fn take(&self, app: &App, positions: &mut [Position], now: OffsetDateTime) -> Result<Taken, Problem> {
        loop {
            if let Some(taken) = self.take_known(app, positions, now) {
                return Ok(taken);
            }
            // On the heap: it happens once, and would make the future of every other report several times as large.
            Box::pin(self.look_up(app, now)).await?;
        }
    }

    async fn look_up(&self, app: &App, now: OffsetDateTime) -> Result<(), Problem> {
        let mut tx = app.db.begin(&self.tenant).await?;
        let standing = store::standing(&mut tx, self.driver_id, now).await?;
        tx.commit().await?;
        let nobody = || Problem::not_found(format!("no driver {}", self.driver_id));
        self.fleet.learn(self.driver_id, standing.ok_or_else(nobody)?);
        Ok(())
    }

    /// What a running trip needs of the positions: its trace whole, and its rider shown each of the `moved` newest. With which
    /// batch the trace is written.
    fn follow(
        &self,
        app: &App,
        positions: &[Position],
        duty: Duty,
        moved: usize,
        before: &[Position],
    ) -> Option<Batch> {
        let Self { tenant, driver_id, .. } = self;
        match duty {
            Duty::OnTrip { ride_id, rider_id } => {
                if !before.is_empty() {
                    app.drivers.breadcrumbs.drop_all(tenant, *driver_id, before);
                }
                let batch = app.drivers.breadcrumbs.drop_all(tenant, *driver_id, positions);
                for position in &positions[positions.len() - moved..] {
                    let (tenant, position) = (tenant.clone(), *position);
                    app.events.tell(Event::DriverMoved { tenant, ride_id, rider_id, position });
                }
                Some(batch)
            }
            // Postgres will know whether there is a trip this node has not heard of.
            Duty::Free | Duty::Offered { .. } if !app.drivers.is_sharing() => {
                app.drivers.breadcrumbs.drop_all(tenant, *driver_id, positions);
                None
            }
            Duty::Free | Duty::Offered { .. } => None,
        }
    }
}

/// Counts positions none of which brought anything new; how late the newest is, in seconds, if that is why.
fn note_unused(positions: &[Position], now: OffsetDateTime) -> Option<i64> {
    let late = now - positions.last()?.recorded_at;
    let is_over = late >= LIFE;
    let reason = if is_over { "too_old" } else { "overtaken" };
    metrics::counter!("region_node_positions_unused_total", "reason" => reason).increment(positions.len() as u64);
    is_over.then(|| late.whole_seconds())
}
