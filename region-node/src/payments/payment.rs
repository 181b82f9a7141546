//! A payment and a refund, as clients see them.

use serde::{Deserialize, Serialize};
use shared::{
    ids::{PaymentId, RefundId, RideId, ShareId, TripId},
    money::{Currency, Money},
    tariff::MAX_TARIFF_AMOUNT,
};
use time::OffsetDateTime;

use super::PaymentError;
use crate::{
    http::Problem,
    rides::{CancelledBy, MethodType},
};

/// An enum whose names in SQL, JSON, its schema and metrics are the same. A name is a token, not a `literal`, which the derived
/// schema would not see.
macro_rules! named {
    ($(#[$doc:meta])* $vis:vis $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:tt),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
        $vis enum $name { $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)* }

        impl $name {
            /// Its name in SQL, JSON and metrics.
            $vis fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            /// The one of that name.
            $vis fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$variant),)* _ => None }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

pub(super) use named;

named! {
    /// How far a payment is.
    pub PaymentStatus {
        /// The intent is recorded; the PSP may or may not have been asked.
        Pending = "pending",
        /// The PSP has agreed; the ledger is next.
        Authorized = "authorized",
        /// The money is in the ledger.
        Settled = "settled",
        /// The PSP has refused; the trip may be paid anew.
        Failed = "failed",
        /// The PSP did not answer; only asking it resolves this.
        Unknown = "unknown",
        /// All of it went back.
        Refunded = "refunded",
        /// A part of it went back.
        PartiallyRefunded = "partially_refunded",
    }
}

named! {
    /// How far a refund is.
    pub RefundStatus {
        /// The intent is recorded; the PSP may or may not have been asked.
        Pending = "pending",
        /// The PSP has agreed; the ledger is next.
        Authorized = "authorized",
        /// The money is back.
        Settled = "settled",
        /// The PSP has refused.
        Failed = "failed",
        /// The PSP did not answer; only asking it resolves this.
        Unknown = "unknown",
    }
}

named! {
    /// Where a refund goes.
    #[derive(Default)]
    pub RefundTo {
        /// To where the money came from: the card, the wallet, or, where it was cash, out of the company's till.
        #[default]
        Source = "source",
        /// Into the rider's wallet.
        Wallet = "wallet",
    }
}

named! {
    /// What is paid for.
    pub PaymentKind {
        /// A trip.
        Fare = "fare",
        /// A ride given up too late.
        CancellationFee = "cancellation_fee",
        /// A ride whose rider did not come to the pick-up.
        NoShowFee = "no_show_fee",
        /// Something for the driver.
        Tip = "tip",
        /// Something for the rider's own wallet.
        TopUp = "top_up",
    }
}

impl PaymentKind {
    /// Of what a cancelled ride costs, by who gave it up: a driver's cancellation costs only after he has waited in vain.
    pub fn of_fee(cancelled_by: Option<CancelledBy>) -> Self {
        match cancelled_by {
            Some(CancelledBy::Driver) => Self::NoShowFee,
            Some(CancelledBy::Rider | CancelledBy::Tenant | CancelledBy::System) | None => Self::CancellationFee,
        }
    }
}

/// An amount in the currency of what it is about, with or without saying so.
#[derive(Clone, Copy, Debug, Deserialize, utoipa::ToSchema)]
#[serde(untagged)]
pub enum AskedAmount {
    /// Minor units.
    Minor(i64),
    Money {
        amount: i64,
        #[schema(value_type = String)]
        currency: Currency,
    },
}

impl AskedAmount {
    /// The currency it is in, if it says so.
    pub(super) fn currency(self) -> Option<Currency> {
        match self {
            Self::Minor(_) => None,
            Self::Money { currency, .. } => Some(currency),
        }
    }

    /// Minor units of `currency`, if it is of that one.
    pub fn minor_units(self, currency: Currency) -> Result<i64, PaymentError> {
        match self {
            Self::Minor(amount) => Ok(amount),
            Self::Money { amount, currency: said } if said == currency => Ok(amount),
            Self::Money { .. } => Err(PaymentError::WrongCurrency(currency)),
        }
    }

    /// Something to give or put in: not nothing, no more than a tariff may ask for, and what can be charged.
    pub(super) fn to_give(self, currency: Currency) -> Result<Money, Problem> {
        let amount = self.minor_units(currency)?;
        if !(1..=MAX_TARIFF_AMOUNT).contains(&amount) {
            return Err(Problem::field("amount", format!("must be 1 to {MAX_TARIFF_AMOUNT} minor units")));
        }
        let money = Money::new(amount, currency);
        if money != money.to_charge() {
            return Err(not_chargeable(currency));
        }
        Ok(money)
    }
}

/// An amount of `currency` was asked for that cards cannot be charged or given back.
pub(super) fn not_chargeable(currency: Currency) -> Problem {
    Problem::field("amount", format!("must be a multiple of {} minor units of {currency}", currency.charge_step()))
}

named! {
    /// How far a dispute is.
    pub DisputeStatus {
        /// The bank has taken the money back until it is decided.
        Open = "open",
        /// The money has come back to the company.
        Won = "won",
        /// The money is gone.
        Lost = "lost",
    }
}

/// A rider's bank takes money back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Dispute {
    pub status: DisputeStatus,
    pub amount: Money,
}

/// Money asked of a rider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Payment {
    pub id: PaymentId,
    /// Missing from a top-up of a wallet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trip_id: Option<TripId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ride_id: Option<RideId>,
    /// The share of the fare that is paid; missing where it is the ride's rider's own part, or all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share_id: Option<ShareId>,
    pub kind: PaymentKind,
    pub status: PaymentStatus,
    pub method: PaidBy,
    pub amount: Money,
    /// What of it went back.
    pub refunded: Money,
    /// The latest dispute about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispute: Option<Dispute>,
    /// The payment service; `cash` or `wallet` where none is involved.
    pub provider: String,
    /// Why it failed: the PSP's reason for refusing, or `no_payment_method`, `unusable_token`,
    /// `unusable_account` or `wallet_insufficient` where it was not even asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_code: Option<String>,
    /// The same for people, where the PSP was not even asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure_reason: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<OffsetDateTime>,
    /// When another region had stored the settlement; until then it is safe in this region alone.
    #[serde(with = "time::serde::rfc3339::option")]
    pub remote_durable_at: Option<OffsetDateTime>,
}

/// How a payment was made; its token stays between us and the PSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PaidBy {
    #[serde(rename = "type")]
    pub kind: MethodType,
}

/// Money given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Refund {
    pub id: RefundId,
    pub payment_id: PaymentId,
    pub status: RefundStatus,
    pub amount: Money,
    pub reason: String,
    pub to: RefundTo,
    /// The PSP's reason for refusing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failure_code: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339::option", default, skip_serializing_if = "Option::is_none")]
    pub settled_at: Option<OffsetDateTime>,
}
