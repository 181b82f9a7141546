//! A typed client of the public REST API.
//!
//! [`Client`] is the wire: headers, idempotency keys, signing in again, trying again. `calls` has one method per endpoint;
//! [`model`] is what comes back, read with tolerance: a client knows the fields it needs and no others.

mod calls;
mod client;
pub mod model;
mod problem;

pub use calls::{location_update, payment_request, ride_request};
pub use client::{Answer, Call, Client, Credentials, Patience};
pub use model::*;
pub use problem::{ApiError, FieldError, Problem};
