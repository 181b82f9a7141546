//! A ride's fare, shared between riders of the tenant.
//!
//! The ride's rider invites others, for equal parts or for an amount; each accepts, with a card of their own, or declines until
//! the trip ends. The transaction that ends it [`fix`](fix())es what each share comes to and begins a payment for every one
//! (`payments/share.rs`). All else is the ride's rider's own part: what nobody accepted, what rounding leaves, and, by
//! [`fall_back`], a share whose payment was declined.
//!
//! [`machine`] decides which step is legal and who pays how much, and knows no database; [`store`] holds all SQL. A share
//! changes only under its ride's lock, so whoever accepts while the trip ends is either counted or refused. Riders are held
//! before shares: erasing somebody holds him and then declines what he has not paid.

mod answer;
mod error;
mod fix;
mod invite;
mod list;
mod machine;
mod store;
#[cfg(test)]
mod tests;
mod view;

use utoipa_axum::{router::OpenApiRouter, routes};

pub use error::FareShareError;
pub(crate) use fix::{FellBack, fall_back, fix};
pub use machine::ShareStatus;
pub use view::{FareShare, SharePayment, of_rides, tell};

use crate::app::App;

/// Riders a ride's fare can be shared with.
pub const MAX_SHARES: usize = 7;

/// Endpoints of shared fares.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(invite::invite_to_share, list::list_ride_shares))
        .routes(routes!(list::list_shares))
        .routes(routes!(answer::accept_share))
        .routes(routes!(answer::decline_share))
        .routes(routes!(answer::withdraw_share))
}
