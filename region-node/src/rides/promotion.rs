//! Promotion codes: what a rider's code is worth, and how often it may still be used.
//!
//! A use is a ride that was not given up, counted in the rides themselves: nothing has to be given back when one is
//! cancelled. Whoever asks for a ride with a code holds a lock on it from the count to the commit, so that uses never pass
//! their limits.

use shared::{ids::RiderId, promotion::Promotion, tenant_config::TenantConfig};
use time::OffsetDateTime;

use super::{RideError, store};
use crate::{db::TenantTx, pricing::Promise};

/// A code as the tenant's config writes it, however a rider does.
pub(super) fn normal(code: &str) -> String {
    code.trim().to_uppercase()
}

/// What a code is worth to a ride asked for at `now`.
pub(super) fn promise(config: &TenantConfig, code: &str, now: OffsetDateTime) -> Result<Promise, RideError> {
    let code = normal(code);
    match config.promotions.get(&code) {
        Some(promotion) if promotion.is_valid(now) => Ok(Promise { code, worth: promotion.worth }),
        _ => Err(RideError::NoPromotion),
    }
}

/// Whether `rider` has a use of it left. Only for the price to be shown: it decides nothing.
pub(super) async fn check_uses(
    tx: &mut TenantTx,
    config: &TenantConfig,
    code: &str,
    rider: RiderId,
) -> Result<(), RideError> {
    let Some(Promotion { uses_per_rider, uses, .. }) = config.promotions.get(code) else { return Ok(()) };
    let used = store::promotion_uses(tx, code, rider, uses.is_some()).await?;
    let has_left = used.by_rider < i64::from(*uses_per_rider) && uses.is_none_or(|uses| used.by_all < i64::from(uses));
    if has_left { Ok(()) } else { Err(RideError::PromotionUsedUp) }
}

/// Takes a use of it for a ride that this transaction inserts; others wait until it has ended.
pub(super) async fn take_use(
    tx: &mut TenantTx,
    config: &TenantConfig,
    code: &str,
    rider: RiderId,
) -> Result<(), RideError> {
    let is_limited = config.promotions.get(code).is_some_and(|promotion| promotion.uses.is_some());
    store::lock_promotion(tx, code, rider, is_limited).await?;
    check_uses(tx, config, code, rider).await
}

#[cfg(test)]
mod tests;
