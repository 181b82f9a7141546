//! Who is asked to take which ride.
//!
//! [`policy`] matches, [`mod@plan`] looks around in the live table and says why or why not; both are pure. [`run`] does for one
//! tenant what is due, [`worker`] says when, [`answer`] is what drivers say. Postgres decides each race: one live offer per
//! driver and one trip per driver and per ride are unique indexes; a ride's row is locked by whoever changes its offers.
//!
//! ```text
//!   request ──► due ──► claimed (lease) ──► offered ──► accepted
//!                ▲           │                 │
//!                └─ retry ◄──┘                 └─► declined, expired, withdrawn ──► due
//! ```

mod acceptance;
mod answer;
mod chain;
mod config;
mod cost;
mod error;
mod gate;
mod group;
mod line;
mod offer;
mod plan;
mod policy;
mod preview;
mod reason;
mod run;
mod store;
mod story;
mod window;
mod worker;

use utoipa_axum::{router::OpenApiRouter, routes};

pub use answer::{AnswerRequest, accept_from_socket, decline_from_socket, withdraw_from, withdraw_offers};
pub use chain::Arriving;
pub use config::DispatchConfig;
pub use error::OfferError;
pub use gate::may_be_asked;
pub use offer::{OfferStatus, OfferView};
pub use plan::{Ask, Plan, Verdict, Wanted, plan};
pub use policy::{Candidate, Matching, Request, assign};
pub use preview::Previews;
pub use reason::Reason;
pub(crate) use store::decline_accepted_offer;
pub use window::Windows;
pub use worker::Due;
#[cfg(test)]
pub(crate) use worker::run_due;

use crate::app::App;

/// Offers made, and what became of them.
const OFFERS: &str = "region_node_offers_total";

/// Endpoints of dispatch.
pub fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(answer::get_offers))
        .routes(routes!(answer::accept_offer))
        .routes(routes!(answer::decline_offer))
        .routes(routes!(preview::preview))
        .routes(routes!(story::get_story))
}

/// Dispatches until the node stops.
pub fn start(app: &App) {
    app.spawn(worker::work(app.clone()));
}

#[cfg(test)]
mod chain_model;
#[cfg(test)]
mod chain_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
pub(crate) mod tests;
