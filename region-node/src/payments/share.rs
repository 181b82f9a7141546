//! Shares of a fare, charged when the trip has ended.

use shared::{
    ids::{PaymentId, RiderId, ShareId},
    money::Money,
    tenant_config::{PspAccount, TenantConfig},
};
use time::OffsetDateTime;

use super::{
    PaymentError, PaymentKind, Split, Step,
    ledger::derived,
    pay::usable_account,
    record::{PaymentRecord, automatic},
    store,
};
use crate::{
    app::App,
    db::TenantTx,
    fare_shares::{self, FellBack},
    http::Problem,
    identity::Caller,
    rides::{PaymentMethod, Ride},
    trips::Trip,
};

/// A share of a fare that somebody has accepted, with what it came to in minor units.
#[derive(Clone, Debug)]
pub struct FixedShare {
    pub id: ShareId,
    pub rider_id: RiderId,
    pub method: PaymentMethod,
    pub amount: i64,
}

/// The token by which a payment service would charge a rider: the one given if it can know it, else the usual one. Refused where
/// nobody could be charged through the tenant's account.
pub fn usable_token(app: &App, psp: &PspAccount, caller: &Caller, given: Option<&str>) -> Result<String, PaymentError> {
    app.psp.get(&usable_account(app, psp, caller)?)?.token(given)
}

/// Records a payment for each share of a fare with the end of its trip; [`super::resume`] charges them. Each has its part of tax,
/// commission and promotion; what is left of those is paid with the ride's rider's own part.
pub async fn charge_shares(
    app: &App,
    tx: &mut TenantTx,
    config: &TenantConfig,
    ride: &Ride,
    trip: &Trip,
    shares: &[FixedShare],
) -> Result<(), Problem> {
    let Some(fare) = &trip.fare else { return Ok(()) };
    let commission_percent = ride.quote.tariff.commission_percent.unwrap_or(config.commission_percent);
    let amounts: Vec<_> = shares.iter().map(|share| share.amount).collect();
    let (parts, _) = Split::of(fare, commission_percent).shared(&amounts);
    for (share, split) in shares.iter().zip(parts) {
        let (provider, method, sequence) =
            automatic(app, tx.tenant(), &config.psp, share.method.clone(), trip.updated_at);
        let payment = PaymentRecord {
            id: id_of("share", share.id),
            ride_id: Some(ride.id),
            trip_id: Some(trip.id),
            rider_id: share.rider_id,
            driver_id: Some(trip.driver_id),
            share_id: Some(share.id),
            kind: PaymentKind::Fare,
            method,
            amount: Money::new(share.amount, fare.total.currency),
            refunded_amount: 0,
            split,
            provider,
            sequence,
            asked_by: None,
            created_at: trip.updated_at,
            settled_at: None,
            remote_durable_at: None,
            dispute: None,
        };
        store::insert_payment(tx, &payment).await?;
        fall_back_if_failed(app, tx, &payment, &config.psp, trip.updated_at).await?;
    }
    Ok(())
}

/// Has the ride's rider pay a share whose payment has failed for good, with the transaction in which it does; `psp` is the tenant's
/// account.
pub(super) async fn fall_back_if_failed(
    app: &App,
    tx: &mut TenantTx,
    payment: &PaymentRecord,
    psp: &PspAccount,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    let Some(share) = payment.share_id.filter(|_| payment.sequence.step == Step::Failed) else { return Ok(()) };
    let Some(FellBack { rider_id, method }) = fare_shares::fall_back(tx, share, now).await? else {
        return Ok(());
    };
    let (provider, method, sequence) = automatic(app, tx.tenant(), psp, method, now);
    let payment = PaymentRecord {
        id: id_of("share fallen back", share),
        rider_id,
        method,
        provider,
        sequence,
        created_at: now,
        ..payment.clone()
    };
    store::insert_payment(tx, &payment).await?;
    Ok(())
}

/// The only id the payment can have that is begun by itself for a share: made again, since an old backup was restored, it is the
/// same order to the payment service.
fn id_of(kind: &str, share: ShareId) -> PaymentId {
    derived(kind, share.0).0.into()
}
