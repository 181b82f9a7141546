//! What a rider owes for giving up a ride too late.

use shared::{ids::PaymentId, money::Money};

use super::{
    PaymentKind, Sequence, Split,
    record::{NO_PSP, PaymentRecord, is_chargeable},
    store,
};
use crate::{app::App, db::TenantTx, http::Problem, rides::Ride};

/// Failure of a fee that cannot be charged: the rider would have paid in cash.
const NO_PAYMENT_METHOD: &str = "no_payment_method";
/// Failure of a fee that cannot be charged: the PSP cannot know the ride's token.
const UNUSABLE_TOKEN: &str = "unusable_token";

/// Records a cancellation fee with the cancellation it is for; [`super::resume`] charges it. A ride costs to give up only
/// once a driver had accepted it, so it has a trip; without one there is nothing to pay for. `psp` is the tenant's provider.
pub async fn charge_cancellation_fee(
    app: &App,
    tx: &mut TenantTx,
    psp: &str,
    ride: &Ride,
    fee: Money,
) -> Result<(), Problem> {
    let Some(trip_id) = ride.trip_id else { return Ok(()) };
    let now = app.clock.now();
    let mut method = ride.payment_method.clone();
    let (provider, sequence) = match is_chargeable(&method) {
        false => (NO_PSP, Sequence::refused(NO_PAYMENT_METHOD)),
        true => match app.psp.get(psp).and_then(|psp| psp.token(method.token.as_deref())) {
            Ok(token) => {
                method.token = Some(token);
                (psp, Sequence::left_for(now))
            }
            Err(_) => (psp, Sequence::refused(UNUSABLE_TOKEN)),
        },
    };
    let payment = PaymentRecord {
        id: PaymentId::new(),
        ride_id: ride.id,
        trip_id,
        rider_id: ride.rider_id,
        driver_id: ride.driver_id,
        kind: PaymentKind::CancellationFee,
        method,
        amount: fee,
        refunded_amount: 0,
        split: Split::of_cancellation_fee(fee.amount, ride.driver_id),
        provider: provider.to_owned(),
        sequence,
        asked_by: None,
        created_at: now,
        settled_at: None,
        remote_durable_at: None,
        dispute: None,
    };
    store::insert_payment(tx, &payment).await?;
    Ok(())
}
