//! A payment and a refund, as this region keeps them: what clients see and what it takes to go on with them.

use shared::{
    ids::{DriverId, PaymentId, RefundId, RideId, RiderId, ShareId, TenantId, TripId},
    money::Money,
    tenant_config::PspAccount,
};
use time::OffsetDateTime;

use super::{
    Dispute, PaidBy, Parties, Passing, Payment, PaymentError, PaymentKind, PaymentStatus, Refund, RefundStatus,
    RefundTo, Sequence, Source, Split, Step,
};
use crate::{
    app::App,
    http::{Command, CommandTx, IdempotencyKey, Stop},
    identity::{Caller, Sealer},
    rides::{MethodType, PaymentMethod},
};

/// The provider of payments in cash, and of those that come to nothing.
pub(super) const CASH: &str = "cash";
/// The provider of payments from a rider's wallet.
pub(super) const WALLET: &str = "wallet";

/// Who asked for something under an idempotency key, and what exactly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AskedBy {
    pub(super) caller: String,
    pub(super) key: String,
    pub(super) request_hash: Vec<u8>,
}

/// A payment's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PaymentRecord {
    pub(super) id: PaymentId,
    /// None of a top-up.
    pub(super) ride_id: Option<RideId>,
    pub(super) trip_id: Option<TripId>,
    pub(super) rider_id: RiderId,
    pub(super) driver_id: Option<DriverId>,
    pub(super) share_id: Option<ShareId>,
    pub(super) kind: PaymentKind,
    pub(super) method: PaymentMethod,
    pub(super) amount: Money,
    pub(super) refunded_amount: i64,
    pub(super) split: Split,
    pub(super) provider: String,
    pub(super) sequence: Sequence,
    pub(super) asked_by: Option<AskedBy>,
    pub(super) created_at: OffsetDateTime,
    pub(super) settled_at: Option<OffsetDateTime>,
    pub(super) remote_durable_at: Option<OffsetDateTime>,
    pub(super) dispute: Option<Dispute>,
}

/// A refund's row.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RefundRecord {
    pub(super) id: RefundId,
    pub(super) payment_id: PaymentId,
    pub(super) amount: Money,
    pub(super) split: Split,
    pub(super) reason: String,
    pub(super) to: RefundTo,
    pub(super) sequence: Sequence,
    pub(super) asked_by: Option<AskedBy>,
    pub(super) created_at: OffsetDateTime,
    pub(super) settled_at: Option<OffsetDateTime>,
}

impl PaymentRecord {
    /// Its status: how far its sequence is, and once it is settled, what of it went back.
    pub(super) fn status(&self) -> PaymentStatus {
        match self.sequence.step {
            Step::Pending => PaymentStatus::Pending,
            Step::Unknown => PaymentStatus::Unknown,
            Step::Authorized => PaymentStatus::Authorized,
            Step::Failed => PaymentStatus::Failed,
            Step::Settled if self.refunded_amount == 0 => PaymentStatus::Settled,
            Step::Settled if self.refunded_amount < self.amount.amount => PaymentStatus::PartiallyRefunded,
            Step::Settled => PaymentStatus::Refunded,
        }
    }

    /// Whether a PSP takes the money.
    pub(super) fn needs_psp(&self) -> bool {
        is_psp(&self.provider)
    }

    /// Whether it is paid from its rider's wallet.
    pub(super) fn is_from_wallet(&self) -> bool {
        self.provider == WALLET
    }

    /// What tests know it by.
    pub(super) fn passing(&self) -> Passing {
        self.trip_id.map_or(Passing::TopUp(self.rider_id), Passing::Payment)
    }

    /// Who takes part in it.
    pub(super) fn parties(&self) -> Parties {
        let source = match self.provider.as_str() {
            CASH => Source::Cash,
            WALLET => Source::Wallet(self.rider_id),
            psp => Source::Psp(psp.to_owned()),
        };
        Parties { source, driver: self.driver_id }
    }

    /// What can still be given back, after the refunds that were begun so far; refused unless the money was taken.
    pub(super) fn refundable(&self, begun: Split) -> Result<Split, PaymentError> {
        match self.sequence.step {
            Step::Settled => Ok(self.split.minus(begun)),
            Step::Pending | Step::Unknown | Step::Authorized | Step::Failed => {
                Err(PaymentError::NotRefundable(self.status()))
            }
        }
    }

    /// As clients see it.
    pub(super) fn view(&self) -> Payment {
        Payment {
            id: self.id,
            trip_id: self.trip_id,
            ride_id: self.ride_id,
            share_id: self.share_id,
            kind: self.kind,
            status: self.status(),
            method: PaidBy { kind: self.method.kind },
            amount: self.amount,
            refunded: Money::new(self.refunded_amount, self.amount.currency),
            dispute: self.dispute,
            provider: self.provider.clone(),
            failure_code: self.sequence.failure_code.clone(),
            failure_reason: self.sequence.last_error.clone().filter(|_| self.sequence.step == Step::Failed),
            created_at: self.created_at,
            settled_at: self.settled_at,
            remote_durable_at: self.remote_durable_at,
        }
    }
}

impl RefundRecord {
    /// What tests know it by.
    pub(super) fn passing(&self) -> Passing {
        Passing::Refund(self.payment_id)
    }

    /// Whether it has come to nothing after it was settled.
    pub(super) fn is_sent_back(&self) -> bool {
        self.sequence.step == Step::Failed && self.settled_at.is_some()
    }

    pub(super) fn status(&self) -> RefundStatus {
        match self.sequence.step {
            Step::Pending => RefundStatus::Pending,
            Step::Unknown => RefundStatus::Unknown,
            Step::Authorized => RefundStatus::Authorized,
            Step::Settled => RefundStatus::Settled,
            Step::Failed => RefundStatus::Failed,
        }
    }

    /// As clients see it.
    pub(super) fn view(&self) -> Refund {
        Refund {
            id: self.id,
            payment_id: self.payment_id,
            status: self.status(),
            amount: self.amount,
            reason: self.reason.clone(),
            to: self.to,
            failure_code: self.sequence.failure_code.clone(),
            created_at: self.created_at,
            settled_at: self.settled_at,
        }
    }
}

impl AskedBy {
    /// Who makes `command`, if it can be repeated.
    pub(super) fn of<T>(command: &Command<T>, caller: &Caller, sealer: &Sealer) -> Option<Self> {
        let key = command.key.as_ref()?;
        let request_hash = key.request_hash(sealer).to_vec();
        Some(Self { caller: caller.key_owner(), key: key.key.clone(), request_hash })
    }
}

/// Refuses a request under `key` to go on with what was begun under it, unless it is the very request that began it and nobody
/// else goes on with that now.
pub(super) async fn may_go_on(
    tx: &mut CommandTx,
    key: &IdempotencyKey,
    asked_by: Option<&AskedBy>,
    sequence: &Sequence,
    now: OffsetDateTime,
) -> Result<(), Stop> {
    if let Some(asked_by) = asked_by
        && asked_by.request_hash != key.request_hash(&tx.sealer().await?)
    {
        return Err(PaymentError::KeyReused.into());
    }
    if sequence.is_held(now) { Err(PaymentError::InProgress.into()) } else { Ok(()) }
}

/// Failure of what nobody pays by hand: the rider would have paid in cash.
const NO_PAYMENT_METHOD: &str = "no_payment_method";
/// Failure of what nobody pays by hand: the PSP cannot know the token.
const UNUSABLE_TOKEN: &str = "unusable_token";
/// Failure of what nobody pays by hand: the tenant cannot be charged through its account here.
const UNUSABLE_ACCOUNT: &str = "unusable_account";

/// How a payment begins that no call waits for: left for [`super::resume`], unless it cannot even be tried. `psp` is the tenant's
/// account that would take it.
pub(super) fn automatic(
    app: &App,
    tenant: &TenantId,
    psp: &PspAccount,
    method: PaymentMethod,
    now: OffsetDateTime,
) -> (String, PaymentMethod, Sequence) {
    match method.kind {
        MethodType::Cash => {
            return (CASH.to_owned(), method, Sequence::refused(NO_PAYMENT_METHOD, "it was to be paid in cash"));
        }
        MethodType::Wallet => return (WALLET.to_owned(), method, Sequence::left_for(now)),
        MethodType::Card => {}
    }
    let provider = psp.reference();
    if let Some(why) = app.psp.why_unusable(tenant, psp) {
        tracing::error!(%tenant, provider, "a payment cannot be tried: {why}");
        // How a node is set up is none of a rider's business.
        let sequence = Sequence::refused(UNUSABLE_ACCOUNT, "the company's account there cannot be used yet");
        return (provider, method, sequence);
    }
    match app.psp.get(&provider).and_then(|psp| psp.token(method.token.as_deref())) {
        Ok(token) => (provider, PaymentMethod { token: Some(token), ..method }, Sequence::left_for(now)),
        Err(why) => (provider, method, Sequence::refused(UNUSABLE_TOKEN, why.of_saved_method())),
    }
}

/// Whether a payment's provider is a PSP that takes the money.
pub(super) fn is_psp(provider: &str) -> bool {
    provider != CASH && provider != WALLET
}
