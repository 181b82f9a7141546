//! The receipt of a completed trip, as JSON, HTML or PDF by the Accept header.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use shared::{
    ids::{RideId, TenantId, TripId},
    money::Money,
};
use time::OffsetDateTime;

use super::{Trip, TripError, TripStatus, get, receipt_html, receipt_pdf, store};
use crate::{
    app::App,
    db::TenantTx,
    http::{Path, Problem, ProblemBody},
    identity::{self, Caller, Vehicle},
    pricing::{Fare, FareLine},
    rides::Place,
};

/// What every receipt says about its arithmetic (pricing/tariff.rs keeps to it).
pub(super) const ROUNDING: &str =
    "Each line is rounded half up to the smallest unit of the currency; the total is the sum of the lines.";

/// A receipt.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Receipt {
    pub trip_id: TripId,
    pub ride_id: RideId,
    pub tenant: TenantId,
    /// The company's name.
    pub company: String,
    /// First name.
    pub rider: String,
    /// First name.
    pub driver: String,
    pub vehicle: Option<Vehicle>,
    pub pickup: Place,
    pub dropoff: Place,
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
    pub distance_m: i64,
    /// From start to end, pauses included.
    pub duration_s: i64,
    pub paused_s: i64,
    pub lines: Vec<FareLine>,
    /// The sum of the lines.
    pub total: Money,
    pub tariff_version: i64,
    pub surge_multiplier: crate::pricing::Surge,
    /// How amounts are rounded.
    pub rounding: &'static str,
    /// Missing until a payment was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<ReceiptPayment>,
}

/// How a trip was paid.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ReceiptPayment {
    pub status: String,
    /// `card`, `cash` or `wallet`.
    pub method: String,
    pub amount: Money,
    pub refunded: Money,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<OffsetDateTime>,
}

/// How a receipt is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Html,
    Pdf,
}

/// The receipt of a completed trip, for its rider, its driver and the tenant's back office.
#[utoipa::path(get, path = "/v1/trips/{id}/receipt", tag = "trips", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = TripId, Path),
           ("Accept" = Option<String>, Header, description = "application/json, text/html or application/pdf")),
    responses((status = 200, content((Receipt = "application/json"), (String = "text/html"), (Vec<u8> = "application/pdf"))),
              (status = 401, body = ProblemBody), (status = 404, body = ProblemBody), (status = 406, body = ProblemBody)))]
#[tracing::instrument(name = "trips.receipt", skip_all, fields(trip.id = %id))]
pub(super) async fn get_receipt(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<TripId>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let mut tx = app.db.read(caller.tenant()).await?;
    let trip = get::visible(&mut tx, &caller, id).await?;
    let accepts: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = negotiate(&accepts.join(",")).ok_or(TripError::NotAcceptable)?;
    let receipt = receipt(&app, &mut tx, trip).await?;
    let (kind, body) = match format {
        Format::Json => ("application/json", serde_json::to_vec(&receipt).expect("a receipt is plain data")),
        Format::Html => ("text/html; charset=utf-8", receipt_html::render(&receipt).into_bytes()),
        Format::Pdf => ("application/pdf", receipt_pdf::render(&receipt)),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if format == Format::Pdf {
        let name = format!("inline; filename=\"receipt-{id}.pdf\"");
        headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_str(&name).expect("an id is ASCII"));
    }
    Ok(response)
}

async fn receipt(app: &App, tx: &mut TenantTx, trip: Trip) -> Result<Receipt, Problem> {
    let (Some(fare), Some(started_at), Some(ended_at), TripStatus::Completed) =
        (&trip.fare, trip.started_at, trip.ended_at, trip.status)
    else {
        return Err(TripError::NoReceipt(trip.id).into());
    };
    let Fare { total, lines, tariff_version, surge_multiplier, .. } = fare.clone();
    let driver = identity::driver_profile(tx, &app.sealer, trip.driver_id).await?;
    let rider = identity::rider_first_name(tx, &app.sealer, trip.rider_id).await?;
    let payment = match trip.payment_id {
        Some(id) => store::payment(tx, id).await?,
        None => None,
    };
    let config = app.tenants.config(tx.tenant()).await?;
    let company = if config.config.name.is_empty() { tx.tenant().to_string() } else { config.config.name.clone() };
    Ok(Receipt {
        trip_id: trip.id,
        ride_id: trip.ride_id,
        tenant: tx.tenant().clone(),
        company,
        rider: rider.unwrap_or_default(),
        driver: driver.as_ref().map(|driver| driver.name.clone()).unwrap_or_default(),
        vehicle: driver.map(|driver| driver.vehicle),
        pickup: trip.pickup,
        dropoff: trip.dropoff,
        started_at,
        ended_at,
        distance_m: trip.distance_m.unwrap_or_default(),
        duration_s: trip.duration_s.unwrap_or_default(),
        paused_s: trip.paused_s,
        lines,
        total,
        tariff_version,
        surge_multiplier,
        rounding: ROUNDING,
        payment: payment.map(|payment| ReceiptPayment {
            status: payment.status,
            method: payment.method["type"].as_str().unwrap_or_default().to_owned(),
            amount: Money::new(payment.amount, total.currency),
            refunded: Money::new(payment.refunded_amount, total.currency),
            settled_at: payment.settled_at,
        }),
    })
}

/// The format an Accept header asks for (RFC 9110, 12.5.1): the highest weight wins, then our own order. A range's weight
/// counts for a format only if no more specific range names it.
fn negotiate(accept: &str) -> Option<Format> {
    const OFFERED: [(Format, &str, &str); 3] =
        [(Format::Json, "application", "json"), (Format::Html, "text", "html"), (Format::Pdf, "application", "pdf")];
    if accept.trim().is_empty() {
        return Some(Format::Json);
    }
    let ranges: Vec<(String, f32)> = accept
        .split(',')
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            (name, weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
        })
        .collect();
    let weight = |kind: &str, subtype: &str| {
        let names = [format!("{kind}/{subtype}"), format!("{kind}/*"), "*/*".to_owned()];
        names.iter().find_map(|name| ranges.iter().find(|(range, _)| range == name)).map_or(0.0, |(_, weight)| *weight)
    };
    let mut best = None;
    for (format, kind, subtype) in OFFERED {
        let weight = weight(kind, subtype);
        if weight > best.map_or(0.0, |(_, best)| best) {
            best = Some((format, weight));
        }
    }
    best.map(|(format, _)| format)
}

/// `1 March 2026, 12:00 UTC`.
pub(super) fn written(at: OffsetDateTime) -> String {
    let at = at.to_offset(time::UtcOffset::UTC);
    format!("{} {} {}, {:02}:{:02} UTC", at.day(), at.month(), at.year(), at.hour(), at.minute())
}

/// A place for people: its address, else its coordinates.
pub(super) fn address(place: &Place) -> String {
    place.address.clone().unwrap_or_else(|| coordinates(place))
}

/// `40.75800, -73.98550`.
pub(super) fn coordinates(place: &Place) -> String {
    format!("{:.5}, {:.5}", place.lat, place.lng)
}

#[cfg(test)]
pub(super) mod tests {
    use time::macros::datetime;

    use super::*;
    use crate::rides::tests::ride;

    /// A receipt with something of everything.
    pub(in crate::trips) fn example() -> Receipt {
        let ride = ride();
        let fare = ride.quote.fare();
        Receipt {
            trip_id: TripId(uuid::Uuid::from_u128(0x0195_5b2e_7000_7000_8000_0000_0000_0001)),
            ride_id: RideId(uuid::Uuid::from_u128(0x0195_5b2e_7000_7000_8000_0000_0000_0002)),
            tenant: ride.tenant,
            company: "Cabs & Söhne".into(),
            rider: "Ada".into(),
            driver: "Grace".into(),
            vehicle: Some(Vehicle {
                class: "standard".into(),
                plate: "NY 1<2".into(),
                model: "Toyota Prius".into(),
                seats: 4,
            }),
            pickup: Place { address: Some("Times Square, New York".into()), ..ride.pickup },
            dropoff: Place { address: Some("ಬೆಂಗಳೂರು".into()), ..ride.dropoff },
            started_at: datetime!(2026-03-01 12:00 UTC),
            ended_at: datetime!(2026-03-01 12:21:30 UTC),
            distance_m: 7_930,
            duration_s: 1_290,
            paused_s: 65,
            lines: fare.lines,
            total: fare.total,
            tariff_version: fare.tariff_version,
            surge_multiplier: fare.surge_multiplier,
            rounding: ROUNDING,
            payment: Some(ReceiptPayment {
                status: "settled".into(),
                method: "card".into(),
                amount: fare.total,
                refunded: Money::new(0, fare.total.currency),
                settled_at: Some(datetime!(2026-03-01 12:22 UTC)),
            }),
        }
    }

    #[test]
    fn the_accept_header_chooses_the_format() {
        for (accept, format) in [
            ("", Some(Format::Json)),
            ("*/*", Some(Format::Json)),
            ("application/json", Some(Format::Json)),
            ("application/pdf", Some(Format::Pdf)),
            ("TEXT/HTML", Some(Format::Html)),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some(Format::Html)),
            ("application/json;q=0.5, application/pdf;q=0.9", Some(Format::Pdf)),
            ("application/*", Some(Format::Json)),
            ("*/*, application/json;q=0", Some(Format::Html)),
            ("image/png", None),
            ("application/pdf;q=0", None),
            ("nonsense", None),
        ] {
            assert_eq!(negotiate(accept), format, "{accept}");
        }
    }
}
