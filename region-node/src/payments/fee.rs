//! What a rider owes for giving up a ride too late.

use shared::{ids::PaymentId, money::Money, tenant_config::PspAccount};

use super::{
    PaymentKind, Split,
    record::{PaymentRecord, automatic},
    store,
};
use crate::{app::App, db::TenantTx, http::Problem, rides::Ride};

/// Records a cancellation fee with the cancellation it is for; [`super::resume`] charges it. A ride costs to give up only
/// once a driver had accepted it, so it has a trip; without one there is nothing to pay for. `psp` is the tenant's account.
pub async fn charge_cancellation_fee(
    app: &App,
    tx: &mut TenantTx,
    psp: &PspAccount,
    ride: &Ride,
    fee: Money,
) -> Result<(), Problem> {
    let Some(trip_id) = ride.trip_id else { return Ok(()) };
    let now = app.clock.now();
    let (provider, method, sequence) = automatic(app, tx.tenant(), psp, ride.payment_method.clone(), now);
    let payment = PaymentRecord {
        id: PaymentId::new(),
        ride_id: Some(ride.id),
        trip_id: Some(trip_id),
        rider_id: ride.rider_id,
        driver_id: ride.driver_id,
        share_id: None,
        kind: PaymentKind::of_fee(ride.cancelled_by),
        method,
        amount: fee,
        refunded_amount: 0,
        split: Split::of_cancellation_fee(fee.amount, ride.driver_id),
        provider,
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
