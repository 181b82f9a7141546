//! Asking for a ride, now or for later.

use axum::{extract::State, http::StatusCode, response::Response};
use garde::Validate;
use rand::RngExt;
use serde::Deserialize;
use shared::ids::RideId;
use time::{Duration, OffsetDateTime, UtcOffset};

use super::{
    PaymentMethod, Place, RIDES, Ride, RideConfig, RideError, RideStatus, RideView, Viewer, announce,
    estimate::{self, Wish},
    promotion, store,
};
use crate::{
    app::App,
    http::{Command, ProblemBody, Stop},
    identity::Caller,
    pricing::{
        Promise, Quote, QuoteError,
        quote::{SIGNING_PURPOSE, Wanted},
    },
    realtime::Event,
    surge::{self, Scarcity},
};

/// A ride to be driven.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct RideRequest {
    #[garde(dive)]
    pickup: Place,
    #[garde(dive)]
    dropoff: Place,
    /// One of the tenant's vehicle classes.
    #[garde(length(min = 1, max = 30))]
    vehicle_class: String,
    #[garde(skip)]
    payment_method: PaymentMethod,
    /// Of an estimate of this ride, whose price then holds; without one the ride is priced now.
    #[garde(length(max = 8000))]
    #[serde(default)]
    quote_id: Option<String>,
    /// When to be picked up, some minutes ahead at least; missing: now.
    #[garde(skip)]
    #[serde(default, with = "time::serde::rfc3339::option")]
    scheduled_at: Option<OffsetDateTime>,
    /// Of a promotion of the tenant; with a `quote_id` the quote's holds.
    #[garde(length(max = 20))]
    #[serde(default)]
    promotion_code: Option<String>,
}

/// When a ride is dispatched and when given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Schedule {
    dispatch_at: OffsetDateTime,
    expires_at: OffsetDateTime,
}

/// Requests a ride. One booked ahead waits until shortly before its time, and then until its rider has no other ride;
/// every other one is dispatched at once. A rider has one ride at a time and a limited number booked ahead.
#[utoipa::path(post, path = "/v1/rides", tag = "rides", security(("bearer" = [])), request_body = RideRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header)),
    responses((status = 201, body = RideView), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "rides.request", skip_all)]
pub(super) async fn request_ride(
    State(app): State<App>,
    caller: Caller,
    command: Command<RideRequest>,
) -> Result<Response, Stop> {
    let rider = caller.rider()?;
    let published = app.tenants.config(caller.tenant()).await?;
    let asked = &command.body;
    let wish = Wish {
        rider,
        pickup: asked.pickup.point(),
        dropoff: asked.dropoff.point(),
        vehicle_class: &asked.vehicle_class,
        scheduled_at: asked.scheduled_at.map(as_stored),
        promotion_code: asked.promotion_code.as_deref(),
    };
    let way = match &asked.quote_id {
        Some(_) => None,
        None => estimate::way(&app, caller.tenant(), wish).await,
    };
    let mut tx = command.begin(&app, &caller).await?;

    if !published.config.flags.dispatch {
        return Err(RideError::DispatchOff.into());
    }
    let now = app.clock.now();
    let scheduled_at = wish.scheduled_at;
    let expire_after = Duration::seconds(published.config.dispatch.expire_after_s.into());
    let schedule = schedule(&app.config.rides, expire_after, scheduled_at, now)?;
    let most = app.config.rides.max_bookings;
    if scheduled_at.is_some() && store::count_bookings(&mut tx, rider).await? >= most {
        return Err(RideError::TooManyBookings(most).into());
    }
    let quote = match &asked.quote_id {
        Some(token) => {
            let Wish { pickup, dropoff, vehicle_class, promotion_code, .. } = wish;
            let wanted = Wanted { rider_id: rider, pickup, dropoff, vehicle_class };
            let sealer = tx.sealer().await?;
            let sign = |bytes: &[u8]| sealer.sign(SIGNING_PURPOSE, bytes);
            let quote = Quote::redeem(token, caller.tenant(), wanted, now, sign).map_err(RideError::from)?;
            // What the quote promises holds, also once the promotion has ended: the code alone is compared.
            let promised = quote.promotion.as_ref().map(|promise| promise.code.as_str());
            if promotion_code.is_some_and(|code| promised != Some(promotion::normal(code).as_str())) {
                return Err(RideError::OtherPromotion.into());
            }
            // It is good for another time than it was asked for, unless that hour has a price of its own: by the tariff, or since
            // roads are faster at the hour that the quote names.
            if quote.scheduled_at != scheduled_at.map(estimate::whole_seconds) {
                let (config, pickup_at) = (&published.config, scheduled_at.unwrap_or(now));
                let tariff = config.tariff(vehicle_class);
                let is_other_hour = |named: OffsetDateTime| hour_of(named) != hour_of(pickup_at);
                if tariff.night_rule(pickup_at, &config.timezone) != quote.tariff.night.first()
                    || quote.scheduled_at.is_some_and(is_other_hour)
                {
                    return Err(RideError::from(QuoteError::OtherTime).into());
                }
            }
            quote
        }
        None => {
            let scarcity = match surge::is_on(&published.config) {
                true => surge::at(&app, &mut tx, wish.pickup, wish.vehicle_class).await?,
                false => Scarcity::NONE,
            };
            estimate::quote(&app, &published, wish, way, scarcity)?
        }
    };

    if let Some(Promise { code, .. }) = &quote.promotion {
        promotion::take_use(&mut tx, &published.config, code, rider).await?;
    }

    let is_for_now = schedule.dispatch_at <= now;
    let dispatch_at = match is_for_now {
        true => {
            let window = std::time::Duration::from_millis(published.config.dispatch.window_ms.into());
            app.dispatch_due.windows.due_at(caller.tenant(), wish.pickup, window, now)
        }
        false => schedule.dispatch_at,
    };
    let RideRequest { pickup, dropoff, vehicle_class, payment_method, .. } = command.body;
    let ride = Ride {
        id: RideId::new(),
        tenant: caller.tenant().clone(),
        rider_id: rider,
        driver_id: None,
        trip_id: None,
        status: RideStatus::Requested,
        pickup,
        dropoff,
        vehicle_class,
        payment_method,
        quote,
        pin: format!("{:04}", rand::rng().random_range(0..10_000)),
        scheduled_at,
        requested_at: now,
        dispatch_at: Some(dispatch_at),
        expires_at: schedule.expires_at,
        offers_made: 0,
        rounds: 0,
        pickup_eta_s: None,
        accepted_at: None,
        after_trip_id: None,
        ended_at: None,
        cancelled_by: None,
        cancel_reason: None,
        cancellation_fee: None,
        updated_at: now,
        driver: None,
        rider: None,
    };
    store::insert(&mut tx, &ride).await?;
    if is_for_now {
        tx.tell(Event::DispatchDue { tenant: ride.tenant.clone(), ride_id: ride.id, at: dispatch_at });
    }
    let ride = announce(&mut tx, ride).await?;
    tx.count(RIDES, "requested");
    tracing::info!(ride.id = %ride.id, "ride {} requested", ride.id);
    tx.finish(StatusCode::CREATED, &ride.seen_by(Viewer::Rider)).await
}

fn schedule(
    config: &RideConfig,
    expire_after: Duration,
    scheduled_at: Option<OffsetDateTime>,
    now: OffsetDateTime,
) -> Result<Schedule, RideError> {
    let Some(at) = scheduled_at else { return Ok(Schedule { dispatch_at: now, expires_at: now + expire_after }) };
    let days = config.schedule_days_ahead;
    if at < now + config.schedule_min_ahead || at > now + Duration::days(days) {
        // Rounded up: what this says must be enough.
        return Err(RideError::BadSchedule { minutes: config.schedule_min_ahead.as_secs().div_ceil(60), days });
    }
    let dispatch_at = (at - config.schedule_lead).max(now);
    Ok(Schedule { dispatch_at, expires_at: at.max(dispatch_at) + expire_after })
}

/// Speeds are learned by the hour.
fn hour_of(at: OffsetDateTime) -> u8 {
    at.to_offset(UtcOffset::UTC).hour()
}

/// In UTC and to the microsecond, as it is read back.
fn as_stored(at: OffsetDateTime) -> OffsetDateTime {
    let at = at.to_offset(UtcOffset::UTC);
    at.replace_nanosecond(at.nanosecond() / 1_000 * 1_000).expect("rounding down keeps it below a second")
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-03-01 12:00 UTC);
    const EXPIRE_AFTER: Duration = Duration::minutes(3);
    const CONFIG: RideConfig = RideConfig {
        quote_ttl: std::time::Duration::from_secs(300),
        schedule_lead: std::time::Duration::from_secs(600),
        schedule_days_ahead: 30,
        schedule_min_ahead: std::time::Duration::from_secs(300),
        max_bookings: 5,
        max_distance_km: 1_000,
        reprice_percent: 150,
        same_dropoff_m: 500,
    };

    fn at(scheduled_at: Option<OffsetDateTime>) -> Result<Schedule, RideError> {
        schedule(&CONFIG, EXPIRE_AFTER, scheduled_at, NOW)
    }

    #[test]
    fn a_ride_for_now_is_dispatched_now() {
        let now = Schedule { dispatch_at: NOW, expires_at: NOW + EXPIRE_AFTER };
        assert_eq!(at(None).unwrap(), now);
    }

    #[test]
    fn a_ride_booked_ahead_waits_until_shortly_before_its_time() {
        let pickup_at = NOW + Duration::hours(2);
        let later = Schedule { dispatch_at: pickup_at - Duration::minutes(10), expires_at: pickup_at + EXPIRE_AFTER };
        assert_eq!(at(Some(pickup_at)).unwrap(), later);
        let soon = NOW + Duration::minutes(6);
        assert_eq!(at(Some(soon)).unwrap(), Schedule { dispatch_at: NOW, expires_at: soon + EXPIRE_AFTER });
    }

    #[test]
    fn a_ride_booked_ahead_is_for_neither_the_past_nor_at_once_nor_next_year() {
        let too_soon = NOW + Duration::minutes(5) - Duration::SECOND;
        for bad in [NOW, NOW - Duration::SECOND, too_soon, NOW + Duration::days(30) + Duration::SECOND] {
            assert!(matches!(at(Some(bad)), Err(RideError::BadSchedule { .. })), "{bad}");
        }
        assert!(at(Some(NOW + Duration::days(30))).is_ok() && at(Some(NOW + Duration::minutes(5))).is_ok());
    }
}
