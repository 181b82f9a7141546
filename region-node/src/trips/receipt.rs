//! The receipt of a trip, completed or cancelled at a cost, as JSON, HTML or PDF by the Accept header.

use axum::{
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use shared::{
    ids::{PaymentId, RideId, ShareId, TenantId, TripId},
    money::Money,
};
use time::OffsetDateTime;

use super::{Trip, TripError, TripStatus, get, receipt_html, receipt_pdf, store};
use crate::{
    app::App,
    db::TenantTx,
    fare_shares::{self, FareShare, ShareStatus},
    http::{Path, Problem, ProblemBody, preferred},
    identity::{self, Caller, Subject, Vehicle},
    payments::{Dispute, PaymentKind, PaymentStatus, RefundStatus, RefundTo},
    pricing::{Fare, FareLine, LineCode, Surge},
    rides::{self, Place, Ride},
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
    /// What the receipt is for.
    pub kind: PaymentKind,
    /// Missing where nothing was driven: what was cancelled has neither a start nor a length.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub started_at: Option<OffsetDateTime>,
    #[serde(with = "time::serde::rfc3339")]
    pub ended_at: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distance_m: Option<i64>,
    /// From start to end, pauses included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<i64>,
    pub paused_s: i64,
    pub lines: Vec<FareLine>,
    /// The sum of the lines.
    pub total: Money,
    /// The tax the lines contain, where prices are with tax; otherwise it has a line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub included_tax: Option<Money>,
    /// What others pay of the total; missing where nobody does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ReceiptShare>,
    /// What is left of it for the rider, where others pay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rider_part: Option<Money>,
    /// Beside the total: what the rider gave the driver.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tip: Option<Money>,
    /// Missing from a cancellation's: no tariff makes its fee.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tariff_version: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub surge_multiplier: Option<Surge>,
    /// How amounts are rounded.
    pub rounding: &'static str,
    /// Of the rider's part, or of the reader's share; missing until it was begun.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payment: Option<ReceiptPayment>,
    /// Every payment of the trip the reader may see, oldest first: parts of the fare, tips, and what came of each.
    pub payments: Vec<ReceiptPart>,
}

/// What somebody else pays of a fare.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ReceiptShare {
    /// First name.
    pub name: String,
    pub amount: Money,
    /// `fixed`, or `fallen_back`: the rider pays it.
    pub status: ShareStatus,
}

/// How a trip was paid.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ReceiptPayment {
    pub status: String,
    /// `card`, `cash` or `wallet`.
    pub method: String,
    pub amount: Money,
    pub refunded: Money,
    /// The latest dispute about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dispute: Option<Dispute>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<OffsetDateTime>,
}

/// A payment of a trip.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct ReceiptPart {
    pub id: PaymentId,
    pub kind: PaymentKind,
    /// The share of the fare it pays; missing where it is the rider's own part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_id: Option<ShareId>,
    /// First name of whose share that is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub share_of: Option<String>,
    pub status: PaymentStatus,
    /// `card`, `cash` or `wallet`.
    pub method: String,
    pub amount: Money,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<OffsetDateTime>,
    /// Oldest first.
    pub refunds: Vec<ReceiptRefund>,
    /// Oldest first.
    pub disputes: Vec<Dispute>,
}

/// What goes back of a payment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub(super) struct ReceiptRefund {
    pub status: RefundStatus,
    pub amount: Money,
    pub to: RefundTo,
}

/// How a receipt is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Html,
    Pdf,
}

const OFFERED: [(Format, &str); 3] =
    [(Format::Json, "application/json"), (Format::Html, "text/html"), (Format::Pdf, "application/pdf")];

/// The receipt of a completed trip, or of a cancellation that cost, for its rider, its driver, who pays a share of its fare, and
/// the tenant's back office.
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
    let published = app.tenants.config(caller.tenant()).await?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let (trip, shares) = visible(&mut tx, &caller, id).await?;
    let format = preferred(&headers, &OFFERED).ok_or(TripError::NotAcceptable)?;
    let own = shares.iter().find(|share| caller.subject == Subject::Rider(share.rider_id));
    let payment_id = own.map_or(trip.payment_id, |share| share.payment.map(|payment| payment.id));
    let trip = Trip { payment_id, ..trip };
    let receipt = receipt(&mut tx, &published.config.name, trip, &shares, &caller.subject).await?;
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

/// The trip, if there is a receipt of it for the caller, and the shares of its fare that were fixed.
async fn visible(tx: &mut TenantTx, caller: &Caller, id: TripId) -> Result<(Trip, Vec<FareShare>), Problem> {
    let trip = store::load(tx, id).await?.ok_or(TripError::NotFound(id))?;
    let mut shares = match trip.shared {
        Some(_) => fare_shares::of_rides(tx, &[trip.ride_id]).await?,
        None => Vec::new(),
    };
    shares.retain(|share| matches!(share.status, ShareStatus::Fixed | ShareStatus::FallenBack));
    let has_share = shares.iter().any(|share| caller.subject == Subject::Rider(share.rider_id));
    if has_share || get::is_own(&trip, caller) { Ok((trip, shares)) } else { Err(TripError::NotFound(id).into()) }
}

async fn receipt(
    tx: &mut TenantTx,
    company: &str,
    trip: Trip,
    shares: &[FareShare],
    reader: &Subject,
) -> Result<Receipt, Problem> {
    let ride = rides::load(tx, trip.ride_id).await?.ok_or(TripError::NoReceipt(trip.id))?;
    let (Some(ended_at), Some(Charged { kind, lines, total, fare })) = (trip.ended_at, Charged::of(&trip, &ride))
    else {
        return Err(TripError::NoReceipt(trip.id).into());
    };
    let tip = store::tip(tx, trip.id).await?;
    let mut payments = store::payments(tx, trip.id, reader).await?;
    for part in &mut payments {
        let share = shares.iter().find(|share| Some(share.id) == part.share_id);
        part.share_of = share.map(|share| share.rider.clone());
    }
    let shares = shares.iter().filter_map(|share| {
        Some(ReceiptShare { name: share.rider.clone(), amount: share.amount?, status: share.status })
    });
    let (driver, rider) = identity::parties(tx, trip.driver_id, trip.rider_id).await?.unzip();
    let payment = match trip.payment_id {
        Some(id) => store::payment(tx, id).await?,
        None => None,
    };
    Ok(Receipt {
        trip_id: trip.id,
        ride_id: trip.ride_id,
        tenant: tx.tenant().clone(),
        company: if company.is_empty() { tx.tenant().to_string() } else { company.to_owned() },
        rider: rider.unwrap_or_default(),
        driver: driver.as_ref().map(|driver| driver.name.clone()).unwrap_or_default(),
        vehicle: driver.map(|driver| driver.vehicle),
        kind,
        pickup: trip.pickup,
        dropoff: trip.dropoff,
        started_at: trip.started_at,
        ended_at,
        distance_m: trip.distance_m,
        duration_s: trip.duration_s,
        paused_s: trip.paused_s,
        lines,
        total,
        shares: shares.collect(),
        rider_part: trip.shared.map(|shared| Money::new(total.amount - shared.amount, total.currency)),
        tip: tip.map(|amount| Money::new(amount, total.currency)),
        included_tax: fare.as_ref().and_then(|fare| fare.included_tax),
        tariff_version: fare.as_ref().map(|fare| fare.tariff_version),
        surge_multiplier: fare.map(|fare| fare.surge_multiplier),
        rounding: ROUNDING,
        payment: payment.map(|payment| ReceiptPayment {
            status: payment.status,
            method: payment.method["type"].as_str().unwrap_or_default().to_owned(),
            amount: Money::new(payment.amount, total.currency),
            refunded: Money::new(payment.refunded_amount, total.currency),
            dispute: payment.dispute.map(|dispute| dispute.0),
            settled_at: payment.settled_at,
        }),
        payments,
    })
}

impl Receipt {
    /// What stands below the total.
    pub(super) fn beside_total(&self) -> Vec<(String, Money)> {
        let mut notes = Vec::new();
        let mut note = |name: String, amount: Option<Money>| notes.extend(amount.map(|amount| (name, amount)));
        note("Tax included in the total".to_owned(), self.included_tax);
        note(format!("Part of {}", named(&self.rider)), self.rider_part);
        for share in &self.shares {
            let payer = match share.status {
                ShareStatus::FallenBack => format!(", paid by {}", named(&self.rider)),
                _ => String::new(),
            };
            note(format!("Share of {}{payer}", named(&share.name)), Some(share.amount));
        }
        note("Tip for the driver".to_owned(), self.tip);
        notes
    }
}

/// A first name, where there still is one.
pub(super) fn named(name: &str) -> &str {
    if name.is_empty() { "a rider" } else { name }
}

/// What there is a receipt of.
struct Charged {
    kind: PaymentKind,
    lines: Vec<FareLine>,
    total: Money,
    /// Of what was driven.
    fare: Option<Fare>,
}

impl Charged {
    fn of(trip: &Trip, ride: &Ride) -> Option<Self> {
        match (trip.status, &trip.fare, ride.cancellation_fee) {
            (TripStatus::Completed, Some(fare), _) => {
                let (lines, total) = (fare.lines.clone(), fare.total);
                Some(Self { kind: PaymentKind::Fare, lines, total, fare: Some(fare.clone()) })
            }
            (TripStatus::Cancelled, _, Some(fee)) if ride.trip_id == Some(trip.id) => {
                let kind = PaymentKind::of_fee(ride.cancelled_by);
                let (code, description) = match kind {
                    PaymentKind::NoShowFee => (LineCode::NoShowFee, "No-show fee: nobody came to the pick-up"),
                    PaymentKind::CancellationFee | PaymentKind::Fare | PaymentKind::Tip | PaymentKind::TopUp => {
                        (LineCode::CancellationFee, "Cancellation fee: called off too late")
                    }
                };
                let total = Money::new(fee, ride.quote.currency);
                let line = FareLine { code, description: description.to_owned(), amount: total };
                Some(Self { kind, lines: vec![line], total, fare: None })
            }
            _ => None,
        }
    }
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

    /// A receipt of a ride the rider called off too late, with what cannot be charged.
    pub(in crate::trips) fn cancelled() -> Receipt {
        let fee = Money::new(500, shared::money::Currency::USD);
        let description = "Cancellation fee: called off too late".into();
        Receipt {
            kind: PaymentKind::CancellationFee,
            started_at: None,
            distance_m: None,
            duration_s: None,
            paused_s: 0,
            lines: vec![FareLine { code: LineCode::CancellationFee, description, amount: fee }],
            total: fee,
            included_tax: None,
            shares: Vec::new(),
            rider_part: None,
            tip: None,
            tariff_version: None,
            surge_multiplier: None,
            payment: None,
            payments: Vec::new(),
            ..example()
        }
    }

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
            kind: PaymentKind::Fare,
            started_at: Some(datetime!(2026-03-01 12:00 UTC)),
            ended_at: datetime!(2026-03-01 12:21:30 UTC),
            distance_m: Some(7_930),
            duration_s: Some(1_290),
            paused_s: 65,
            lines: fare.lines,
            total: fare.total,
            included_tax: fare.included_tax,
            shares: Vec::new(),
            rider_part: None,
            tip: None,
            tariff_version: Some(fare.tariff_version),
            surge_multiplier: Some(fare.surge_multiplier),
            rounding: ROUNDING,
            payment: Some(ReceiptPayment {
                status: "settled".into(),
                method: "card".into(),
                amount: fare.total,
                refunded: Money::new(0, fare.total.currency),
                dispute: None,
                settled_at: Some(datetime!(2026-03-01 12:22 UTC)),
            }),
            payments: vec![ReceiptPart {
                id: PaymentId(uuid::Uuid::from_u128(0x0195_5b2e_7000_7000_8000_0000_0000_0003)),
                kind: PaymentKind::Fare,
                share_id: None,
                share_of: None,
                status: PaymentStatus::Settled,
                method: "card".into(),
                amount: fare.total,
                settled_at: Some(datetime!(2026-03-01 12:22 UTC)),
                refunds: Vec::new(),
                disputes: Vec::new(),
            }],
        }
    }
}
