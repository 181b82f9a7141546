//! The price of a ride before it is asked for.

use axum::{Json, extract::State};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{
    geo::Point,
    ids::{RiderId, TenantId},
    money::Money,
    tariff::Tariff,
};
use time::OffsetDateTime;

use super::{Place, RideError, promotion};
use crate::{
    app::App,
    dispatch,
    drivers::{Found, Standing},
    http::{Problem, ProblemBody, Question},
    identity::Caller,
    pricing::{Promise, Quote, Surge, quote::SIGNING_PURPOSE},
    surge::{self, Scarcity},
    tenants::PublishedConfig,
    travel::{TravelTimes, Way},
};

/// A ride to price.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct EstimateRequest {
    #[garde(dive)]
    pickup: Place,
    #[garde(dive)]
    dropoff: Place,
    /// One of the tenant's vehicle classes.
    #[garde(length(min = 1, max = 30))]
    vehicle_class: String,
    /// When to be picked up, if not now: nights may cost more.
    #[garde(skip)]
    #[serde(default, with = "time::serde::rfc3339::option")]
    scheduled_at: Option<OffsetDateTime>,
    /// Of a promotion of the tenant, in capitals or not.
    #[garde(length(max = 20))]
    #[serde(default)]
    promotion_code: Option<String>,
}

/// A price, held for the rider until it expires.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Estimate {
    /// Opaque; a ride requested with it costs this price.
    quote_id: String,
    /// What the rider pays.
    fare: Money,
    /// What the promotion takes off; missing without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    discount: Option<Money>,
    surge_multiplier: Surge,
    distance_m: i64,
    duration_s: i64,
    /// How far the nearest free driver is; null while there is none near.
    pickup_eta_s: Option<i64>,
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// Prices a ride; nothing is stored, so a repetition needs no idempotency key.
#[utoipa::path(post, path = "/v1/rides/estimate", tag = "rides", security(("bearer" = [])), request_body = EstimateRequest,
    params(("X-Tenant-Id" = String, Header)),
    responses((status = 200, body = Estimate), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "rides.estimate", skip_all)]
pub(super) async fn estimate_ride(
    State(app): State<App>,
    caller: Caller,
    Question(asked): Question<EstimateRequest>,
) -> Result<Json<Estimate>, Problem> {
    let rider = caller.rider()?;
    let EstimateRequest { pickup, dropoff, vehicle_class, scheduled_at, promotion_code } = &asked;
    let published = app.tenants.config(caller.tenant()).await?;
    let (pickup, dropoff) = (pickup.point(), dropoff.point());
    let promotion_code = promotion_code.as_deref();
    let wish = Wish { rider, pickup, dropoff, vehicle_class, scheduled_at: *scheduled_at, promotion_code };
    let scarcity = match surge::is_on(&published.config) {
        true => surge::at(&app, &mut app.db.read(caller.tenant()).await?, wish.pickup, vehicle_class).await?,
        false => Scarcity::NONE,
    };
    let (way, pickup_eta_s) =
        tokio::join!(way(&app, caller.tenant(), wish), pickup_eta_s(&app, caller.tenant(), &published, wish));
    let quote = quote(&app, &published, wish, way, scarcity)?;
    if let Some(Promise { code, .. }) = &quote.promotion {
        promotion::check_uses(&mut app.db.read(caller.tenant()).await?, &published.config, code, rider).await?;
    }
    let fare = quote.fare();
    let sealer = app.db.sealer(caller.tenant()).await?;
    Ok(Json(Estimate {
        quote_id: quote.token(caller.tenant(), |bytes| sealer.sign(SIGNING_PURPOSE, bytes)),
        fare: fare.total,
        discount: quote.promotion.as_ref().map(|_| Money::new(fare.promotion(), quote.currency)),
        surge_multiplier: quote.surge,
        distance_m: quote.distance_m,
        duration_s: quote.duration_s,
        pickup_eta_s,
        expires_at: quote.expires_at,
    }))
}

/// What somebody would like to have driven.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish<'a> {
    pub(super) rider: RiderId,
    pub(super) pickup: Point,
    pub(super) dropoff: Point,
    pub(super) vehicle_class: &'a str,
    /// When to be picked up; none: now.
    pub(super) scheduled_at: Option<OffsetDateTime>,
    pub(super) promotion_code: Option<&'a str>,
}

/// The way of a ride at the time it is to be driven; none if that is farther than any ride may go. A routing engine may be
/// waited for, so this is no part of a transaction.
pub(super) async fn way(app: &App, tenant: &TenantId, wish: Wish<'_>) -> Option<Way> {
    let longest_m = app.config.rides.max_distance_km * 1000;
    // No road is shorter, so nobody has to be asked how much longer it is.
    if wish.pickup.distance_m(wish.dropoff) > longest_m as f64 {
        return None;
    }
    let at = wish.scheduled_at.unwrap_or_else(|| app.clock.now());
    let way = app.travel.of(tenant).way(wish.pickup, wish.dropoff, at).await;
    (way.distance_m <= longest_m).then_some(way)
}

/// Today's price of a ride along this way.
pub(super) fn quote(
    app: &App,
    published: &PublishedConfig,
    wish: Wish<'_>,
    way: Option<Way>,
    scarcity: Scarcity,
) -> Result<Quote, RideError> {
    let config = &published.config;
    if !config.vehicle_classes.contains(wish.vehicle_class) {
        let known = config.vehicle_classes.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        return Err(RideError::UnknownVehicleClass { known });
    }
    let limits = &app.config.rides;
    let way = way.ok_or(RideError::TooFar { km: limits.max_distance_km })?;
    let now = app.clock.now();
    let tariff = config.tariff(wish.vehicle_class);
    let pickup_at = wish.scheduled_at.unwrap_or(now);
    let of_ride = tariff.of_ride(&config.zones, wish.pickup, wish.dropoff, pickup_at, &config.timezone);
    let promotion = wish.promotion_code.map(|code| promotion::promise(config, code, now)).transpose()?;
    let commission_percent = Some(tariff.commission_percent.unwrap_or(config.commission_percent));
    Ok(Quote {
        rider_id: wish.rider,
        pickup: wish.pickup,
        dropoff: wish.dropoff,
        vehicle_class: wish.vehicle_class.to_owned(),
        scheduled_at: wish.scheduled_at.map(whole_seconds),
        tariff_version: published.version,
        tariff: Tariff { commission_percent, ..of_ride },
        surge: scarcity.surge,
        surge_cell: scarcity.cell,
        currency: config.currency,
        cancellation: Some(config.cancellation),
        promotion,
        distance_m: way.distance_m,
        duration_s: way.duration_s,
        reprice_percent: limits.reprice_percent,
        same_dropoff_m: limits.same_dropoff_m,
        expires_at: whole_seconds(now + limits.quote_ttl),
    })
}

/// What a quote's token can hold of a time.
pub(super) fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).expect("0 is a valid nanosecond")
}

/// How long the nearest free driver would take to the pick-up; none while there is none near.
async fn pickup_eta_s(app: &App, tenant: &TenantId, published: &PublishedConfig, wish: Wish<'_>) -> Option<i64> {
    let nearest = free_drivers(app, tenant, published, wish, 1).pop()?;
    let (from, now) = ([nearest.position.point], app.clock.now());
    let etas = app.travel.of(tenant).to_pickup(&from, wish.pickup, now).await;
    etas.first().map(|eta_s| i64::from(*eta_s))
}

/// The nearest drivers who could be asked, at most `limit`.
fn free_drivers(app: &App, tenant: &TenantId, published: &PublishedConfig, wish: Wish<'_>, limit: usize) -> Vec<Found> {
    let (now, rules) = (app.clock.now(), &published.config.dispatch);
    let radius_m = f64::from(rules.radius_m);
    let could_come = |standing: &Standing, distance_m: f64| {
        dispatch::may_be_asked(standing, distance_m, wish.vehicle_class, rules, now)
    };
    app.drivers.live.fleet(tenant).search(wish.pickup, radius_m, limit, now, could_come)
}
