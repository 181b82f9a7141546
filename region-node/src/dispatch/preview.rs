//! What the live policy would do, without doing it: for operators who try a policy and for simulators.

use axum::{Json, body::Body, extract::State, http::HeaderMap};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{claims::Role, geo::Point, tenant_config::DispatchPolicy};
use time::OffsetDateTime;

use super::{
    acceptance,
    cost::{Costs, Person},
    gate::takes_too_long,
    group::groups,
    plan::{LOOKED_AT, choices},
    policy::{Candidate, Matching, Request, assign},
};
use crate::{
    app::App,
    drivers::{self, Record},
    http::{Problem, ProblemBody, read_json},
    identity::Caller,
    rides::Place,
    travel::TravelTimes,
};

const MOST_REQUESTS: usize = 1_000;
const MOST_DRIVERS: usize = 3_000;

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
}

/// A driver without work.
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
    /// All drivers are too far away.
    TooFar,
    /// Those near enough are for others.
    NoDriverLeft,
}

/// Matches the given requests and drivers as the tenant's live policy would. Nothing is stored and nobody is asked.
#[utoipa::path(post, path = "/v1/dispatch/preview", tag = "dispatch", security(("bearer" = [])),
    request_body = PreviewRequest, params(("X-Tenant-Id" = String, Header)),
    responses((status = 200, body = Preview), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "dispatch.preview", skip_all)]
pub(super) async fn preview(
    State(app): State<App>,
    caller: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Preview>, Problem> {
    caller.must_be(&[Role::TenantAdmin, Role::Operator])?;
    // As large as its matrix, which is far larger than what other calls may say.
    let mut request: PreviewRequest = read_json(&headers, body, app.config.dispatch.preview_limit_bytes).await?;
    let published = app.tenants.config(caller.tenant()).await?;
    let rules = &published.config.dispatch;
    request.sort();
    let matching = request.matching(&app.travel.of(caller.tenant()), rules).await;
    let (matching, chosen) = assign(rules.mode, matching).await;
    // A ride that has been offered to nobody yet.
    let most = rules.group_size.min(rules.max_offers).try_into().unwrap_or(usize::MAX);
    let groups = groups(rules.mode, &matching, &chosen, &vec![most; chosen.len()]);
    Ok(Json(request.answer(&matching, &groups)))
}

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

    async fn matching(&self, travel: &impl TravelTimes, rules: &DispatchPolicy) -> Matching {
        let mut matching = Matching::default();
        let known = self.drivers.iter().filter_map(|driver| driver.earned).collect();
        let median_earned = self.median_earned.unwrap_or_else(|| drivers::median(known));
        let costs = Costs { rules, median_earned };
        let most = choices(self.requests.iter().map(|request| request.pickup.point()));
        for ((row, request), most) in self.requests.iter().enumerate().zip(most) {
            let etas = match &self.costs_s {
                // Seconds beyond what fits are far enough; a cast from a float saturates.
                Some(ways_s) => {
                    let known = |(column, way_s): (usize, &Option<f64>)| Some((column, way_s.as_ref()?.round() as u32));
                    let pickup = request.pickup.point();
                    let wants = |(column, _): &(usize, u32)| self.drivers[*column].wants(pickup);
                    let mut etas: Vec<(usize, u32)> =
                        ways_s[row].iter().enumerate().filter_map(known).filter(wants).collect();
                    let rank = |column: usize, eta_s| {
                        costs.rank_s(eta_s, self.drivers[column].person(median_earned, self.now))
                    };
                    etas.sort_by_cached_key(|(column, eta_s)| (rank(*column, *eta_s), *column));
                    etas.truncate(most);
                    etas
                }
                None => self.etas(travel, request.pickup.point(), costs, most).await,
            };
            let candidate = |(driver, eta_s): (usize, u32)| {
                let cost_s = costs.cost_s(eta_s, self.drivers[driver].person(median_earned, self.now));
                Candidate { driver, eta_s, cost_s }
            };
            let etas = etas.into_iter().filter(|(_, eta_s)| !takes_too_long(*eta_s, rules));
            let candidates = etas.map(candidate).collect();
            matching.requests.push(Request { waited: self.now - request.requested_at, candidates });
        }
        matching
    }

    /// The drivers among whom the live dispatcher would choose, and how long they need.
    async fn etas(&self, travel: &impl TravelTimes, pickup: Point, costs: Costs<'_>, most: usize) -> Vec<(usize, u32)> {
        let radius_m = f64::from(costs.rules.radius_m);
        let away = self.drivers.iter().enumerate().filter(|(_, driver)| driver.wants(pickup));
        let away = away.map(|(column, driver)| (driver.place().distance_m(pickup), column));
        let mut near: Vec<(f64, usize)> = away.filter(|(distance_m, _)| *distance_m <= radius_m).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        near.truncate(LOOKED_AT * most);
        let person = |column: usize| self.drivers[column].person(costs.median_earned, self.now);
        near.sort_by_cached_key(|(distance_m, column)| costs.guess_s(*distance_m, person(*column)));
        near.truncate(most);
        let places: Vec<Point> = near.iter().map(|(_, column)| self.drivers[*column].place()).collect();
        let etas = travel.to_pickup(&places, pickup, self.now).await;
        near.into_iter().map(|(_, column)| column).zip(etas).collect()
    }

    fn answer(self, matching: &Matching, groups: &[Vec<usize>]) -> Preview {
        let mut preview = Preview { assignments: Vec::new(), unassigned: Vec::new() };
        for ((request, Request { candidates, .. }), group) in
            self.requests.into_iter().zip(&matching.requests).zip(groups)
        {
            let name = |index: &usize| self.drivers[candidates[*index].driver].id.clone();
            match group.split_first() {
                Some((first, others)) => preview.assignments.push(PreviewAssignment {
                    request_id: request.id,
                    driver_id: name(first),
                    eta_s: candidates[*first].eta_s,
                    also_asked: others.iter().map(name).collect(),
                }),
                None => {
                    let reason = match (self.drivers.is_empty(), candidates.is_empty()) {
                        (true, _) => UnassignedReason::NoDrivers,
                        (false, true) => UnassignedReason::TooFar,
                        (false, false) => UnassignedReason::NoDriverLeft,
                    };
                    preview.unassigned.push(PreviewUnassigned { request_id: request.id, reason });
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
    fn wants(&self, pickup: Point) -> bool {
        self.max_pickup_m.is_none_or(|most_m| self.place().distance_m(pickup) <= f64::from(most_m))
    }

    fn person(&self, median_earned: f64, now: OffsetDateTime) -> Person {
        Person {
            idle: now - self.idle_since.unwrap_or(now),
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
