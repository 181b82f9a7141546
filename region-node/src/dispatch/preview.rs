//! What the live policy would do, without doing it: for operators who try a policy and for simulators.
//!
//! Whatever is not said of a request or a driver does not count: any class of vehicle fits, nobody was asked before, nobody waits
//! in a zone's queue or is on a trip.
//!
//! A moment may be large and take seconds: it is read and matched on a thread that serves nobody, and few are at a time.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    thread::available_parallelism,
};

use axum::{Json, body::Body, extract::State, http::HeaderMap};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{geo::Point, problem::Code, tenant_config::DispatchPolicy};
use time::OffsetDateTime;
use tokio::{
    runtime::Handle,
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tracing::Instrument;

use super::{
    acceptance,
    cost::{Costs, Person},
    gate::takes_too_long,
    group::groups,
    plan::{ARRIVING, LOOKED_AT, choices},
    policy::{Candidate, Matching, Request, assign},
};
use crate::{
    app::App,
    drivers::{self, Record},
    http::{Problem, ProblemBody, read_body, valid_json},
    identity::{BACK_OFFICE, Caller},
    rides::Place,
    travel::TravelTimes,
    zones::ZoneMap,
};

const MOST_REQUESTS: usize = 1_000;
const MOST_DRIVERS: usize = 3_000;
/// Previews let in at once, those that wait for their turn included: their bodies are in memory.
const MOST_LET_IN: usize = 8;

/// The previews under way on a node.
pub struct Previews {
    let_in: Arc<Semaphore>,
    computing: Arc<Semaphore>,
}

impl Default for Previews {
    fn default() -> Self {
        // Half of the cores are left to those who are served.
        let cores = available_parallelism().map_or(1, usize::from);
        Self { let_in: Arc::new(Semaphore::new(MOST_LET_IN)), computing: Arc::new(Semaphore::new(cores.div_ceil(2))) }
    }
}

impl Previews {
    /// Lets one more in, or tells its caller to come back.
    pub(super) fn let_in(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.let_in.clone().try_acquire_owned().map_err(|_| {
            Problem::new(Code::Unavailable, "too many previews are computed right now; try again").retry_after(1)
        })
    }

    /// Does the work of one that was let in when its turn comes, on a thread that serves nobody.
    async fn compute<T: Send + 'static>(
        &self,
        let_in: OwnedSemaphorePermit,
        work: impl Future<Output = Result<T, Problem>> + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = self.computing.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (runtime, work) = (Handle::current(), work.in_current_span());
        let computed = tokio::task::spawn_blocking(move || {
            // Until the work has ended, though its caller may have gone away before.
            let _kept = (let_in, turn);
            runtime.block_on(work)
        });
        computed.await.unwrap_or_else(|error| {
            tracing::error!(%error, "a preview could not be computed");
            Err(Problem::internal())
        })
    }
}

/// A moment to be dispatched.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct PreviewRequest {
    /// The moment.
    #[garde(skip)]
    #[serde(with = "time::serde::rfc3339")]
    now: OffsetDateTime,
    /// Who waits, at most 1000.
    #[garde(length(max = MOST_REQUESTS), dive)]
    requests: Vec<PreviewRide>,
    /// Who could drive, at most 3000.
    #[garde(length(max = MOST_DRIVERS), dive)]
    drivers: Vec<PreviewDriver>,
    /// Seconds from each driver (column) to each request (row); null where there is no way. With it, it alone says who is
    /// too far; without it the tenant's radius does and times are those of the live dispatcher.
    #[garde(custom(is_matrix(self.requests.len(), self.drivers.len())))]
    #[serde(default)]
    costs_s: Option<Vec<Vec<Option<f64>>>>,
    /// What half of the fleet's drivers have not earned more than lately; missing: the median of the given drivers who say.
    #[garde(range(min = 0.0, max = 1e15))]
    #[serde(default)]
    median_earned: Option<f64>,
}

/// A ride that waits.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct PreviewRide {
    /// Any name; comes back in the answer.
    #[garde(length(min = 1, max = 100))]
    id: String,
    /// From where.
    #[garde(dive)]
    pickup: Place,
    /// Where to.
    #[garde(dive)]
    dropoff: Place,
    /// Since when.
    #[garde(skip)]
    #[serde(with = "time::serde::rfc3339")]
    requested_at: OffsetDateTime,
    /// In what; missing: in anything.
    #[garde(length(min = 1, max = 100))]
    #[serde(default)]
    vehicle_class: Option<String>,
    /// Drivers who were asked before and are not asked again.
    #[garde(length(max = MOST_DRIVERS))]
    #[serde(default)]
    excluded: HashSet<String>,
}

/// A driver without work, or about to be.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct PreviewDriver {
    /// Any name; comes back in the answer.
    #[garde(length(min = 1, max = 100))]
    id: String,
    /// Degrees north.
    #[garde(range(min = -90.0, max = 90.0))]
    lat: f64,
    /// Degrees east.
    #[garde(range(min = -180.0, max = 180.0))]
    lng: f64,
    /// Since when without work; missing: just now.
    #[garde(skip)]
    #[serde(default, with = "time::serde::rfc3339::option")]
    idle_since: Option<OffsetDateTime>,
    /// How likely the driver is to accept; missing: as somebody nothing is known of.
    #[garde(range(min = 0.01, max = 1.0))]
    #[serde(default)]
    acceptance: Option<f64>,
    /// What the driver earned lately; missing: as much as the median.
    #[garde(range(min = 0.0, max = 1e15))]
    #[serde(default)]
    earned: Option<f64>,
    /// The driver's own limit to how far off a pick-up may be, as the crow flies; missing: none.
    #[garde(skip)]
    #[serde(default)]
    max_pickup_m: Option<u32>,
    /// What the driver drives; missing: whatever is asked for.
    #[garde(length(min = 1, max = 100))]
    #[serde(default)]
    vehicle_class: Option<String>,
    /// The driver's place in the queue of the zone he waits in; missing: in none.
    #[garde(dive)]
    #[serde(default)]
    queue: Option<PreviewQueue>,
    /// Seconds until the driver's trip ends, there where `lat` and `lng` are; missing: the driver is free.
    #[garde(skip)]
    #[serde(default)]
    free_in_s: Option<u32>,
}

/// A place in a zone's queue.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct PreviewQueue {
    /// Which zone's.
    #[garde(length(min = 1, max = 100))]
    zone_id: String,
    /// The lowest is asked first.
    #[garde(skip)]
    place: u32,
}

/// Who would be asked to take what.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Preview {
    /// Each request at most once, each driver at most once.
    assignments: Vec<PreviewAssignment>,
    /// The rest.
    unassigned: Vec<PreviewUnassigned>,
}

/// One driver for one request.
#[derive(Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct PreviewAssignment {
    /// Which request.
    request_id: String,
    /// Who.
    driver_id: String,
    /// To the pick-up.
    eta_s: u32,
    /// Who would be asked at the same time, where the tenant offers rides to several drivers at once.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    also_asked: Vec<String>,
}

/// A request nobody would be asked to take.
#[derive(Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct PreviewUnassigned {
    /// Which request.
    request_id: String,
    /// Why.
    reason: UnassignedReason,
}

/// Why nobody would be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum UnassignedReason {
    /// There are no drivers.
    NoDrivers,
    /// No driver drives what is asked for, has not been asked before, and is free or soon will be.
    NobodyFits,
    /// All drivers are too far away.
    TooFar,
    /// Those near enough are for others.
    NoDriverLeft,
}

/// Matches the given requests and drivers as the tenant's live policy would. Nothing is stored and nobody is asked.
#[utoipa::path(post, path = "/v1/dispatch/preview", tag = "dispatch", security(("bearer" = [])),
    request_body = PreviewRequest, params(("X-Tenant-Id" = String, Header)),
    responses((status = 200, body = Preview), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 422, body = ProblemBody), (status = 503, body = ProblemBody)))]
#[tracing::instrument(name = "dispatch.preview", skip_all)]
pub(super) async fn preview(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Preview>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let let_in = app.previews.let_in()?;
    // As large as its matrix, which is far larger than what other calls may say.
    let bytes = read_body(body, app.config.dispatch.preview_limit_bytes).await?;
    let published = app.tenants.config(caller.tenant()).await?;
    let map = app.zones.of(caller.tenant(), &published);
    let travel = app.travel.of(caller.tenant());
    let preview = async move {
        let request: PreviewRequest = valid_json(&headers, &bytes)?;
        Ok(request.decide(&map, &travel, &published.config.dispatch).await)
    };
    app.previews.compute(let_in, preview).await.map(Json)
}

/// Who would be asked first to take a request, and how long he needs; and who else.
type Asked = (usize, u32, Vec<usize>);

impl PreviewRequest {
    /// In order of arrival, as the live dispatcher has them. The rows of the matrix move with their requests.
    fn sort(&mut self) {
        let mut order: Vec<usize> = (0..self.requests.len()).collect();
        order.sort_by_key(|index| self.requests[*index].requested_at);
        if let Some(costs) = &mut self.costs_s {
            *costs = order.iter().map(|index| std::mem::take(&mut costs[*index])).collect();
        }
        self.requests.sort_by_key(|request| request.requested_at);
    }

    /// Does what one look of the live dispatcher does: the queues first, then all others together.
    async fn decide(mut self, map: &ZoneMap, travel: &impl TravelTimes, rules: &DispatchPolicy) -> Preview {
        self.sort();
        let mut asked = self.line_up(map, travel, rules).await;
        let given: HashSet<usize> = asked.iter().flatten().map(|(driver, ..)| *driver).collect();
        let others: Vec<usize> = (0..asked.len()).filter(|row| asked[*row].is_none()).collect();
        let (matching, numbered) = self.matching(travel, rules, &others, &given).await;
        let (matching, chosen) = assign(rules.mode, matching).await;
        // Rides that have been offered to nobody yet.
        let most = rules.group_size.min(rules.max_offers).try_into().unwrap_or(usize::MAX);
        let groups = groups(rules.mode, &matching, &chosen, &vec![most; chosen.len()]);
        let mut is_near = vec![false; asked.len()];
        for ((row, Request { candidates, .. }), group) in others.into_iter().zip(&matching.requests).zip(groups) {
            let was_near = |column: &usize| {
                self.drivers[*column].fits(&self.requests[row]) && self.is_within_reach(row, *column, rules)
            };
            is_near[row] = !candidates.is_empty() || given.iter().any(was_near);
            asked[row] = group.split_first().map(|(first, also)| {
                let Candidate { driver, eta_s, .. } = candidates[*first];
                (numbered[driver], eta_s, also.iter().map(|index| numbered[candidates[*index].driver]).collect())
            });
        }
        self.answer(asked, &is_near)
    }

    /// By request, whom of the queue where it begins it goes to. Who is given one gets no other.
    async fn line_up(&self, map: &ZoneMap, travel: &impl TravelTimes, rules: &DispatchPolicy) -> Vec<Option<Asked>> {
        let mut given: HashSet<usize> = HashSet::new();
        let mut asked = Vec::with_capacity(self.requests.len());
        for (row, request) in self.requests.iter().enumerate() {
            let Some(zone) = map.queue_at(request.pickup.point()) else {
                asked.push(None);
                continue;
            };
            let place = |(column, driver): (usize, &PreviewDriver)| {
                let queue = driver.queue.as_ref().filter(|queue| queue.zone_id == zone.id)?;
                Some((queue.place, column))
            };
            let mut in_line: Vec<_> = self.drivers.iter().enumerate().filter_map(place).collect();
            in_line.sort_unstable();
            let may_go = |column: usize| {
                let driver = &self.drivers[column];
                driver.free_in_s.is_none()
                    && !given.contains(&column)
                    && !request.excluded.contains(&driver.id)
                    && driver.fits(request)
                    && self.is_within_reach(row, column, rules)
            };
            let first = in_line.into_iter().map(|(_, column)| column).find(|column| may_go(*column));
            let eta_s = match first {
                Some(column) => self.ways_s(travel, row, &[column]).await.first().copied(),
                None => None,
            };
            given.extend(first);
            asked.push(first.zip(eta_s).map(|(column, eta_s)| (column, eta_s, Vec::new())));
        }
        asked
    }

    /// Not too far for the tenant, nor for the driver.
    fn is_within_reach(&self, row: usize, column: usize, rules: &DispatchPolicy) -> bool {
        let distance_m = self.drivers[column].place().distance_m(self.requests[row].pickup.point());
        let is_near = match &self.costs_s {
            Some(costs_s) => costs_s[row][column].is_some(),
            None => distance_m <= f64::from(rules.radius_m),
        };
        is_near && self.drivers[column].wants(distance_m)
    }

    /// Seconds from these drivers to a request, from where each is or will be.
    async fn ways_s(&self, travel: &impl TravelTimes, row: usize, columns: &[usize]) -> Vec<u32> {
        match &self.costs_s {
            // Seconds beyond what fits are far enough; a cast from a float saturates.
            Some(costs_s) => columns
                .iter()
                .map(|column| costs_s[row][*column].map_or(u32::MAX, |way_s| way_s.round() as u32))
                .collect(),
            None => {
                let places: Vec<Point> = columns.iter().map(|column| self.drivers[*column].place()).collect();
                travel.to_pickup(&places, self.requests[row].pickup.point(), self.now).await
            }
        }
    }

    /// The `rows` and who of those not `given` to others may take each; and which driver is which number: they are numbered as
    /// the live dispatcher numbers them, so that of equals the same are chosen.
    async fn matching(
        &self,
        travel: &impl TravelTimes,
        rules: &DispatchPolicy,
        rows: &[usize],
        given: &HashSet<usize>,
    ) -> (Matching, Vec<usize>) {
        let (mut matching, mut numbered) = (Matching::default(), Vec::new());
        let mut numbers: HashMap<usize, usize> = HashMap::new();
        let known = self.drivers.iter().filter_map(|driver| driver.earned).collect();
        let median_earned = self.median_earned.unwrap_or_else(|| drivers::median(known));
        let costs = Costs { rules, median_earned };
        let most = choices(rows.iter().map(|row| self.requests[*row].pickup.point()));
        for (row, most) in rows.iter().zip(most) {
            let request = &self.requests[*row];
            let (mut free, soon) = self.around(*row, costs, most, given);
            free.truncate(most);
            let columns: Vec<usize> = free.into_iter().chain(soon).collect();
            let ways_s = self.ways_s(travel, *row, &columns).await;
            let candidate = |(column, eta_s): (usize, u32)| {
                let driver = &self.drivers[column];
                let cost_s = costs.cost_s(eta_s, driver.person(median_earned, self.now));
                let number = *numbers.entry(column).or_insert_with(|| {
                    numbered.push(column);
                    numbered.len() - 1
                });
                Candidate { driver: number, eta_s, cost_s }
            };
            let ways = columns.into_iter().zip(ways_s);
            let ways = ways.map(|(column, way_s)| {
                (column, self.drivers[column].free_in_s.unwrap_or_default().saturating_add(way_s))
            });
            let candidates = ways.filter(|(_, eta_s)| !takes_too_long(*eta_s, rules)).map(candidate).collect();
            matching.requests.push(Request { waited: self.now - request.requested_at, candidates });
        }
        (matching, numbered)
    }

    /// The drivers among whom the live dispatcher would choose for a request, the likeliest first: those who are free, and the
    /// nearest of those who soon will be.
    fn around(&self, row: usize, costs: Costs<'_>, most: usize, given: &HashSet<usize>) -> (Vec<usize>, Vec<usize>) {
        let request = &self.requests[row];
        let was_asked = |column: usize| given.contains(&column) || request.excluded.contains(&self.drivers[column].id);
        let asked = (0..self.drivers.len()).filter(|column| was_asked(*column)).count();
        let may =
            |column: &usize| self.drivers[*column].fits(request) && self.is_within_reach(row, *column, costs.rules);
        let distance_m = |column: usize| self.drivers[column].place().distance_m(request.pickup.point());
        let mut nearest: Vec<(f64, usize)> =
            (0..self.drivers.len()).filter(may).map(|column| (distance_m(column), column)).collect();
        nearest.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let (soon, mut free): (Vec<_>, Vec<_>) =
            nearest.into_iter().partition(|(_, column)| self.drivers[*column].free_in_s.is_some());
        let person = |column: usize| self.drivers[column].person(costs.median_earned, self.now);
        match &self.costs_s {
            // A matrix says more than distances do.
            Some(costs_s) => free.sort_by_cached_key(|(_, column)| {
                let way_s = costs_s[row][*column].map_or(u32::MAX, |way_s| way_s.round() as u32);
                (costs.rank_s(way_s, person(*column)), *column)
            }),
            None => {
                free.truncate(LOOKED_AT * most + asked);
                free.sort_by_cached_key(|(distance_m, column)| costs.guess_s(*distance_m, person(*column)));
            }
        }
        let ends_in_time =
            |column: &usize| self.drivers[*column].free_in_s.is_some_and(|s| s <= costs.rules.chain_within_s);
        let may_follow = |column: &usize| costs.rules.chain_within_s > 0 && ends_in_time(column);
        let columns =
            |of: Vec<(f64, usize)>| of.into_iter().map(|(_, column)| column).filter(|column| !was_asked(*column));
        (columns(free).collect(), columns(soon).filter(may_follow).take(ARRIVING).collect())
    }

    fn answer(self, asked: Vec<Option<Asked>>, is_near: &[bool]) -> Preview {
        let mut preview = Preview { assignments: Vec::new(), unassigned: Vec::new() };
        let name = |column: usize| self.drivers[column].id.clone();
        let fits = |request: &PreviewRide| {
            self.drivers.iter().any(|driver| driver.fits(request) && !request.excluded.contains(&driver.id))
        };
        for ((request, asked), is_near) in self.requests.iter().zip(asked).zip(is_near) {
            let request_id = request.id.clone();
            match asked {
                Some((first, eta_s, also)) => preview.assignments.push(PreviewAssignment {
                    request_id,
                    driver_id: name(first),
                    eta_s,
                    also_asked: also.into_iter().map(name).collect(),
                }),
                None => {
                    let reason = match (self.drivers.is_empty(), fits(request), is_near) {
                        (true, ..) => UnassignedReason::NoDrivers,
                        (false, false, _) => UnassignedReason::NobodyFits,
                        (false, true, false) => UnassignedReason::TooFar,
                        (false, true, true) => UnassignedReason::NoDriverLeft,
                    };
                    preview.unassigned.push(PreviewUnassigned { request_id, reason });
                }
            }
        }
        preview
    }
}

impl PreviewDriver {
    fn place(&self) -> Point {
        Point::new(self.lat, self.lng)
    }

    /// As far off as the driver wants to go.
    fn wants(&self, distance_m: f64) -> bool {
        self.max_pickup_m.is_none_or(|most_m| distance_m <= f64::from(most_m))
    }

    fn fits(&self, request: &PreviewRide) -> bool {
        match (&self.vehicle_class, &request.vehicle_class) {
            (Some(drives), Some(wants)) => drives == wants,
            (None, _) | (_, None) => true,
        }
    }

    fn person(&self, median_earned: f64, now: OffsetDateTime) -> Person {
        Person {
            // Who is yet to end a trip is not idle.
            idle: now - self.idle_since.filter(|_| self.free_in_s.is_none()).unwrap_or(now),
            acceptance: self.acceptance.unwrap_or_else(|| acceptance::probability(&Record::NONE)),
            earned: self.earned.unwrap_or(median_earned),
        }
    }
}

fn is_matrix(rows: usize, columns: usize) -> impl FnOnce(&Option<Vec<Vec<Option<f64>>>>, &()) -> garde::Result {
    move |costs, ()| {
        let Some(costs) = costs else { return Ok(()) };
        if costs.len() != rows || costs.iter().any(|row| row.len() != columns) {
            return Err(garde::Error::new(format!("must have {rows} rows of {columns} columns")));
        }
        if costs.iter().flatten().flatten().any(|cost| !(0.0..=1e6).contains(cost)) {
            return Err(garde::Error::new("must hold seconds from 0 to 1000000, or null"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
