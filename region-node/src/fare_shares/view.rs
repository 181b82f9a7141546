//! What people see of a share.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use shared::{
    ids::{PaymentId, RideId, RiderId, ShareId},
    money::Money,
};
use time::OffsetDateTime;

use super::{
    ShareStatus,
    machine::divide,
    store::{self, ShareRow},
};
use crate::{
    db::TenantTx,
    identity::{self, Sealer},
    payments::PaymentStatus,
    realtime::Event,
};

/// A part of a ride's fare that somebody is asked to pay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FareShare {
    pub id: ShareId,
    pub ride_id: RideId,
    /// Who is asked to pay it.
    pub rider_id: RiderId,
    /// His first name.
    pub rider: String,
    /// First name of whose ride it is.
    pub invited_by: String,
    pub status: ShareStatus,
    /// What he was asked for; missing where it is as much as everybody else without an amount.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Money>,
    /// What it comes to. Until the trip ends: by the quoted fare, if nobody else declines. Missing once it costs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub amount: Option<Money>,
    /// Of it, once the trip has ended: his, or, after it has fallen back, the ride's rider's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<SharePayment>,
    #[serde(with = "time::serde::rfc3339")]
    pub invited_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub answered_at: Option<OffsetDateTime>,
}

/// How far a share's payment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SharePayment {
    pub id: PaymentId,
    pub status: PaymentStatus,
}

/// All shares of some rides, oldest first.
pub async fn of_rides(tx: &mut TenantTx, rides: &[RideId]) -> sqlx::Result<Vec<FareShare>> {
    let sealer = tx.sealer().await?;
    Ok(views(&sealer, &store::of_rides(tx, rides).await?))
}

/// Tells both riders how a share stands now, once the transaction has committed.
pub async fn tell(tx: &mut TenantTx, ride: RideId, share: ShareId) -> sqlx::Result<FareShare> {
    let rows = store::of_rides(tx, &[ride]).await?;
    let at = rows.iter().position(|row| row.id == share).ok_or(sqlx::Error::RowNotFound)?;
    let view = views(&tx.sealer().await?, &rows).swap_remove(at);
    for rider_id in [rows[at].ride_rider_id, view.rider_id] {
        tx.tell(Event::ShareChanged { tenant: tx.tenant().clone(), rider_id, share: Box::new(view.clone()) });
    }
    Ok(view)
}

/// `rows` are all shares of their rides: what one comes to depends on the others.
fn views(sealer: &Sealer, rows: &[ShareRow]) -> Vec<FareShare> {
    let mut open: BTreeMap<RideId, Vec<&ShareRow>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.status.is_open()) {
        open.entry(row.ride_id).or_default().push(row);
    }
    let mut expected = BTreeMap::new();
    for shares in open.values() {
        let asked: Vec<_> = shares.iter().map(|share| share.asked_amount).collect();
        let amounts = divide(shares[0].quoted, &asked);
        expected.extend(shares.iter().map(|share| share.id).zip(amounts));
    }
    let view = |row: &ShareRow| {
        let money = |amount| Money::new(amount, row.quoted.currency);
        FareShare {
            id: row.id,
            ride_id: row.ride_id,
            rider_id: row.rider_id,
            rider: identity::first_name(sealer, row.rider_id, row.rider_name.as_deref()),
            invited_by: identity::first_name(sealer, row.ride_rider_id, row.ride_rider_name.as_deref()),
            status: row.status,
            asked: row.asked_amount.map(money),
            amount: row.amount.or_else(|| expected.get(&row.id).copied()).map(money),
            payment: row.payment,
            invited_at: row.invited_at,
            answered_at: row.answered_at,
        }
    };
    rows.iter().map(view).collect()
}
