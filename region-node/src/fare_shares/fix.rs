//! The end of a ride: what shares come to, and whose they are in the end.

use shared::{
    ids::{RiderId, ShareId},
    tenant_config::TenantConfig,
};
use time::OffsetDateTime;

use super::{machine::divide, store, view};
use crate::{
    app::App,
    db::TenantTx,
    http::Problem,
    payments::{self, FixedShare},
    rides::{PaymentMethod, Ride},
    trips::Trip,
};

/// Fixes the shares of a held ride's fare with the end of its trip, and begins their payments; how much of the fare, in minor
/// units, that is.
pub(crate) async fn fix(
    app: &App,
    tx: &mut TenantTx,
    config: &TenantConfig,
    ride: &Ride,
    trip: &Trip,
) -> Result<i64, Problem> {
    let Some(fare) = &trip.fare else { return Ok(0) };
    store::hold_riders(tx, ride.id).await?;
    let accepted = store::accepted_of_ride(tx, ride.id).await?;
    let asked: Vec<_> = accepted.iter().map(|share| share.asked_amount).collect();
    let amounts = divide(fare.total, &asked);
    let fixed = accepted.into_iter().zip(amounts).filter(|(_, amount)| *amount > 0);
    let fixed: Vec<_> = fixed
        .map(|(share, amount)| FixedShare { id: share.id, rider_id: share.rider_id, method: share.method, amount })
        .collect();
    let ended = store::fix(tx, ride.id, &fixed, trip.updated_at).await?;
    payments::charge_shares(app, tx, config, ride, trip, &fixed).await?;
    for share in ended {
        view::tell(tx, ride.id, share).await?;
    }
    Ok(fixed.iter().map(|share| share.amount).sum())
}

/// Who pays a share that has fallen back: the ride's rider, by what the ride was to be paid with.
pub(crate) struct FellBack {
    pub(crate) rider_id: RiderId,
    pub(crate) method: PaymentMethod,
}

/// Has a share whose payment was declined fall back to the ride's rider; none if it has before, so that this was his own.
pub(crate) async fn fall_back(
    tx: &mut TenantTx,
    id: ShareId,
    now: OffsetDateTime,
) -> Result<Option<FellBack>, Problem> {
    let Some((ride, rider_id, method)) = store::fall_back(tx, id, now).await? else { return Ok(None) };
    view::tell(tx, ride, id).await?;
    metrics::counter!("region_node_shares_fallen_back_total", "tenant" => tx.tenant().to_string()).increment(1);
    tracing::info!(share.id = %id, "share {id} falls back to the ride's rider");
    Ok(Some(FellBack { rider_id, method }))
}
