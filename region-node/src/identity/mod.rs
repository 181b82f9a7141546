//! Who calls: accounts of riders and drivers, sign-in, tokens that every region's edge accepts, and erasure.
//!
//! Accounts live in the tenant's home region alone. Back offices' secrets are part of the replicated config and operators'
//! are configured in each region, so both sign in anywhere, even through a partition. A token is signed with the region's
//! Ed25519 key; the other regions know it from the directory.

mod accounts;
mod caller;
mod erase;
mod keys;
mod password;
mod refresh;
mod register;
mod sealer;
mod sign_in;
mod tenant_keys;
#[cfg(test)]
mod tests;
mod tokens;

use utoipa_axum::{router::OpenApiRouter, routes};

pub use accounts::{DriverProfile, SealedParties, Vehicle, first_name, hold_rider, parties, rider_by_phone};
pub(crate) use caller::claims;
pub use caller::{BACK_OFFICE, Caller, Operator, Subject, verify};
pub use keys::{SigningKey, load_or_create as load_or_create_key};
pub use password::hash_secret;
use password::verify_secret;
pub(crate) use refresh::{KnownIn, forget_expired};
pub use sealer::Sealer;
pub use tenant_keys::{TenantKeys, Unusable};
pub use tokens::Tokens;

use crate::app::App;

/// Endpoints of sign-in and accounts.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(sign_in::token))
        .routes(routes!(sign_in::jwks))
        .routes(routes!(register::register_rider))
        .routes(routes!(register::register_driver))
        .routes(routes!(erase::erase_rider))
        .routes(routes!(erase::erase_driver))
}
