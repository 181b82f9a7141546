//! One type per id, so that a ride is never looked up by a trip's id.
//!
//! Ids are UUIDv7: they sort by time of creation, which is what makes `ORDER BY id` a page order. Tenants and regions are
//! named by people, so theirs are slugs.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

macro_rules! uuid_ids {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id; ids made later sort after it.
            #[expect(clippy::new_without_default, reason = "a new id is an event, not a default value")]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl From<$name> for Uuid {
            fn from(id: $name) -> Uuid {
                id.0
            }
        }
    )*};
}

uuid_ids! {
    /// A rider's account.
    RiderId,
    /// A driver's account.
    DriverId,
    /// What a rider asks for.
    RideId,
    /// A ride put to one driver for a while.
    OfferId,
    /// What a driver drives.
    TripId,
    /// A price shown before a ride was asked for.
    QuoteId,
    /// A part of a ride's fare that another rider is asked to pay.
    ShareId,
    /// Money asked of a rider for one trip.
    PaymentId,
    /// Money given back.
    RefundId,
    /// Money paid to a driver.
    PayoutId,
    /// Money given to a rider into his wallet.
    CreditId,
    /// A dispute whose payment is not here.
    StrayDisputeId,
    /// One comparison with a payment service's books.
    ReconciliationId,
    /// One entry of the replicated ledger.
    FactId,
}

/// A name that is not `[a-z0-9-]{2,40}`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a name of 2 to 40 lower-case letters, digits and hyphens")]
pub struct InvalidSlug(String);

fn check_slug(text: &str) -> Result<(), InvalidSlug> {
    let fits = (2..=40).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && text.bytes().any(|b| b != b'-');
    if fits { Ok(()) } else { Err(InvalidSlug(text.chars().take(60).collect())) }
}

macro_rules! slugs {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(try_from = "String", into = "String")]
        #[schema(value_type = String, pattern = "^[a-z0-9-]{2,40}$")]
        pub struct $name(std::sync::Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = InvalidSlug;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                check_slug(text).map(|()| Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidSlug;
            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }
    )*};
}

slugs! {
    /// A ride company.
    TenantId,
    /// A region, such as `us-east`.
    RegionName,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slug_is_short_lower_case_and_not_only_hyphens() {
        for good in ["us-east", "a1", "manhattan-cabs"] {
            assert!(good.parse::<TenantId>().is_ok(), "{good}");
        }
        for bad in ["", "a", "-", "--", "Us", "a b", "a_b", "ü1", &"x".repeat(41)] {
            assert!(bad.parse::<TenantId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ids_made_later_sort_later() {
        let first = RideId::new();
        let second = RideId::new();
        assert!(first < second);
    }
}
