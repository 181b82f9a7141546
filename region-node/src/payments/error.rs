//! Why money is not moved.

use shared::{
    ids::{DriverId, PaymentId, PayoutId, RefundId, RiderId, ShareId, StrayDisputeId, TripId},
    money::{Currency, Money},
    problem::Code,
};

use super::PaymentStatus;
use crate::http::Problem;

/// Why a payment or refund is refused.
#[derive(Debug, thiserror::Error)]
pub enum PaymentError {
    #[error("no payment {0}")]
    NotFound(PaymentId),
    #[error("no refund {0}")]
    NoSuchRefund(RefundId),
    #[error("a statement is application/json, text/csv or application/pdf")]
    NotAcceptable,
    #[error("no payout {0}")]
    NoSuchPayout(PayoutId),
    #[error("no driver {0}")]
    NoSuchDriver(DriverId),
    #[error("no rider {0}")]
    NoSuchRider(RiderId),
    #[error("the wallet holds {balance}, less than the {asked} that are to be paid")]
    WalletInsufficient { asked: Money, balance: Money },
    #[error(
        "{payable} of what is in the wallet was put into it by the rider and not spent, and can go back to his cards"
    )]
    WalletNotRefundable { payable: Money },
    #[error("driver {0} can be paid nothing now")]
    NothingToPayOut(DriverId),
    #[error(
        "this region was taken back to a backup; payouts, and payments from wallets, wait until every other region has said what it \
         knows of them"
    )]
    InDoubt,
    #[error("{asked} is more than the {payable} the driver can be paid now")]
    AmountExceedsBalance { asked: Money, payable: Money },
    #[error("a {what} that is {status} and not given up goes on by itself; there is nothing to retry")]
    NotGivenUp { what: &'static str, status: &'static str },
    #[error("no dispute {0} whose payment is not here")]
    NoSuchDispute(StrayDisputeId),
    #[error("nobody has to see to this {what}, or somebody has")]
    NothingToAttend { what: &'static str },
    #[error("no trip {0}")]
    NoSuchTrip(TripId),
    #[error("no share {0} of this trip's fare")]
    NoSuchShare(ShareId),
    #[error("share {0} is charged to the rider who has accepted it")]
    SharePaidByOther(ShareId),
    #[error("trip {trip} is {status}; what can be paid is a completed trip or a cancellation that costs")]
    NothingToPay { trip: TripId, status: String },
    #[error("trip {0}, or this share of its fare, is paid, or a payment of it is under way")]
    AlreadyPaid(TripId),
    #[error("trip {trip} is {status}; a tip is for a completed trip")]
    NoTip { trip: TripId, status: String },
    #[error("trip {0} has a tip, or one is under way")]
    AlreadyTipped(TripId),
    #[error("a tip is paid by card or wallet; in cash it is the driver's at once")]
    TipInCash,
    #[error("this was not to be paid in cash; pay by card or wallet, or have the company record the cash")]
    CashNotAgreed,
    #[error("this tenant has switched payments off")]
    PaymentsOff,
    #[error("{0}")]
    UnusableToken(String),
    #[error("what the ride was to be paid with cannot be charged: {0}; name another card or wallet")]
    UnusableSavedMethod(String),
    #[error("the payment service cannot be asked now: {why}")]
    PspUnavailable { why: String, wait_s: u64 },
    #[error("a payment that is {0} cannot be refunded")]
    NotRefundable(PaymentStatus),
    #[error("what was put into a wallet is given back out of the wallet, not by its payment")]
    TopUpNotRefundable,
    #[error("a wallet is topped up by card")]
    TopUpNotByCard,
    #[error("{asked} is more than the {left} left of the payment")]
    AmountExceedsPayment { asked: Money, left: Money },
    #[error(
        "{disputed} of the payment are disputed, with the rider's bank or lost to it; of the rest {left} can be given back"
    )]
    Disputed { disputed: Money, left: Money },
    #[error("it is in {0}")]
    WrongCurrency(Currency),
    #[error("the first request with this Idempotency-Key has not finished")]
    InProgress,
    #[error("this Idempotency-Key was used for another request; take a new one")]
    KeyReused,
    #[error("no payment service '{0}'")]
    NoSuchProvider(String),
    #[error("the webhook's signature is missing, wrong or too old")]
    InvalidSignature,
    #[error("it is about payment {0}, of which it is not known here yet that it was charged; send it again")]
    NotYetCharged(PaymentId),
    #[error("the webhook is not an event: {0}")]
    MalformedEvent(String),
}

impl PaymentError {
    /// The same, said of what the rider named with the ride, not with the request at hand.
    pub(super) fn of_saved_method(self) -> Self {
        match self {
            Self::UnusableToken(why) => Self::UnusableSavedMethod(why),
            other => other,
        }
    }
}

impl From<PaymentError> for Problem {
    fn from(error: PaymentError) -> Self {
        let detail = error.to_string();
        let code = match error {
            PaymentError::NotFound(_)
            | PaymentError::NoSuchRefund(_)
            | PaymentError::NoSuchDispute(_)
            | PaymentError::NoSuchTrip(_)
            | PaymentError::NoSuchPayout(_)
            | PaymentError::NoSuchDriver(_)
            | PaymentError::NoSuchRider(_)
            | PaymentError::NoSuchShare(_)
            | PaymentError::NoSuchProvider(_) => Code::NotFound,
            PaymentError::NothingToPay { .. }
            | PaymentError::NoTip { .. }
            | PaymentError::NotRefundable(_)
            | PaymentError::TopUpNotRefundable
            | PaymentError::NothingToAttend { .. }
            | PaymentError::NotGivenUp { .. } => Code::InvalidTransition,
            PaymentError::NotAcceptable => Code::NotAcceptable,
            PaymentError::NothingToPayOut(_) => Code::NothingToPayOut,
            PaymentError::AmountExceedsBalance { .. } => Code::AmountExceedsBalance,
            PaymentError::AlreadyPaid(_) | PaymentError::SharePaidByOther(_) => Code::AlreadyPaid,
            PaymentError::AlreadyTipped(_) => Code::AlreadyTipped,
            PaymentError::WalletInsufficient { .. } | PaymentError::WalletNotRefundable { .. } => {
                Code::WalletInsufficient
            }
            PaymentError::PaymentsOff => Code::FeatureDisabled,
            PaymentError::CashNotAgreed | PaymentError::TipInCash | PaymentError::TopUpNotByCard => {
                return Self::field("method.type", detail);
            }
            PaymentError::UnusableToken(_) | PaymentError::UnusableSavedMethod(_) => {
                return Self::field("method.token", detail);
            }
            PaymentError::InDoubt => return Self::new(Code::Unavailable, detail).retry_after(5),
            PaymentError::NotYetCharged(_) => return Self::new(Code::Unavailable, detail).retry_after(60),
            PaymentError::PspUnavailable { wait_s, .. } => {
                return Self::new(Code::PspUnavailable, detail).retry_after(wait_s);
            }
            PaymentError::AmountExceedsPayment { .. } => Code::AmountExceedsPayment,
            PaymentError::Disputed { .. } => Code::PaymentDisputed,
            PaymentError::WrongCurrency(_) => return Self::field("amount.currency", detail),
            PaymentError::InProgress => return Self::new(Code::IdempotencyInProgress, detail).retry_after(1),
            PaymentError::KeyReused => Code::IdempotencyKeyReused,
            PaymentError::InvalidSignature => Code::InvalidSignature,
            PaymentError::MalformedEvent(_) => Code::MalformedJson,
        };
        Self::new(code, detail)
    }
}
