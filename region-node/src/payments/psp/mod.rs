//! The port to payment service providers. What stands here is what the platform asks of any of them; an adapter knows one.
//!
//! Every order carries an idempotency key derived from the payment or refund it is for, and a PSP does what a key stands for
//! at most once. That is what makes asking again safe, and it is how the outcome of an unanswered order is found.

mod breaker;
#[cfg(test)]
mod contract;
mod sandbox;
mod signature;
mod stripe;

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU32,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use axum::http::HeaderMap;
use futures::future::BoxFuture;
use secrecy::SecretString;
use serde::Deserialize;
use shared::{
    clock::Clock,
    config::ConfigError,
    ids::{PaymentId, RefundId, TenantId},
    money::Money,
    tenant_config::{Capture, PspAccount},
};
use time::OffsetDateTime;

use breaker::Breaker;
pub(in crate::payments) use sandbox::Delivery;
use sandbox::{Sandbox, ScriptConfig};
#[cfg(test)]
pub(super) use signature::sign;
use stripe::{Stripe, StripeAccountConfig, StripeConfig, secret_key_setting};

use super::{Answer, DisputeStatus, NoAnswer, PaymentError, reconcile::ReconciliationConfig};
use crate::{db::Db, http::Problem, tenants::Tenants};

/// A payment service is left alone for this long at most, whatever is configured.
const LONGEST_PAUSE: Duration = Duration::from_hours(1);

/// How payment services are reached.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PspConfig {
    /// A call that takes longer has no answer.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// How often a node looks for payments and refunds that somebody must go on with.
    #[serde(with = "humantime_serde")]
    pub resume_every: Duration,
    pub breaker: BreakerConfig,
    pub reconciliation: ReconciliationConfig,
    /// Of tests: where orders to die or to stand still at a phase are laid.
    #[serde(default)]
    pub crash_dir: Option<PathBuf>,
    pub sandbox: SandboxConfig,
    pub stripe: StripeConfig,
}

/// When an account at a payment service that keeps falling silent is left alone, and for how long.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BreakerConfig {
    /// So many calls in a row without an answer.
    pub silences: NonZeroU32,
    /// How long at first; twice as long each time the call after it has no answer either.
    #[serde(with = "humantime_serde")]
    pub first_pause: Duration,
    /// How long at most.
    #[serde(with = "humantime_serde")]
    pub longest_pause: Duration,
}

/// The built-in PSP that moves no money.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SandboxConfig {
    /// Whether companies may be charged through it. Nobody should where money is real.
    pub enabled: bool,
    /// Signs its webhooks; without one they are all refused.
    #[serde(default)]
    pub webhook_secret: Option<SecretString>,
    /// How long it thinks before it answers.
    #[serde(with = "humantime_serde")]
    pub latency: Duration,
    /// What goes wrong with it, from a seed; nothing without one.
    #[serde(default)]
    pub script: Option<ScriptConfig>,
}

/// Takes money from a rider.
#[derive(Clone, Debug)]
pub(in crate::payments) struct ChargeOrder {
    pub(in crate::payments) tenant: TenantId,
    pub(in crate::payments) key: OperationKey,
    /// The PSP's name for the rider's means of payment.
    pub(in crate::payments) token: String,
    pub(in crate::payments) amount: Money,
    /// When it was first intended; an id may tell no time.
    pub(in crate::payments) begun_at: OffsetDateTime,
}

/// Gives some of a charge back.
#[derive(Clone, Debug)]
pub(in crate::payments) struct RefundOrder {
    pub(in crate::payments) tenant: TenantId,
    pub(in crate::payments) key: OperationKey,
    /// The PSP's name for the charge.
    pub(in crate::payments) charge_ref: String,
    pub(in crate::payments) amount: Money,
    /// When it was first intended.
    pub(in crate::payments) begun_at: OffsetDateTime,
}

/// One order or the other.
#[derive(Clone, Copy, Debug)]
pub(in crate::payments) enum Order<'a> {
    Charge(&'a ChargeOrder),
    Refund(&'a RefundOrder),
}

impl<'a> Order<'a> {
    fn tenant(self) -> &'a TenantId {
        match self {
            Self::Charge(order) => &order.tenant,
            Self::Refund(order) => &order.tenant,
        }
    }

    fn key(self) -> OperationKey {
        match self {
            Self::Charge(order) => order.key,
            Self::Refund(order) => order.key,
        }
    }

    fn amount(self) -> Money {
        match self {
            Self::Charge(order) => order.amount,
            Self::Refund(order) => order.amount,
        }
    }

    fn begun_at(self) -> OffsetDateTime {
        match self {
            Self::Charge(order) => order.begun_at,
            Self::Refund(order) => order.begun_at,
        }
    }
}

/// Which of its operations a PSP is asked to list: a tenant's, of a time.
#[derive(Clone, Debug)]
pub(in crate::payments) struct Listing {
    pub(in crate::payments) tenant: TenantId,
    pub(in crate::payments) kind: ListedKind,
    /// From here on, by the PSP's clock.
    pub(in crate::payments) from: OffsetDateTime,
    /// Before this.
    pub(in crate::payments) to: OffsetDateTime,
    /// [`ListedPage::next`] of the page before.
    pub(in crate::payments) after: Option<String>,
}

/// What is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::payments) enum ListedKind {
    Charges,
    Refunds,
    /// Of anybody's charges through the account.
    Disputes,
}

impl ListedKind {
    /// Its name in SQL.
    pub(in crate::payments) fn as_str(self) -> &'static str {
        match self {
            Self::Charges => "charge",
            Self::Refunds => "refund",
            Self::Disputes => "dispute",
        }
    }
}

/// Some of what a PSP has done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::payments) struct ListedPage {
    pub(in crate::payments) operations: Vec<Listed>,
    /// Where the next page begins; none after the last.
    pub(in crate::payments) next: Option<String>,
}

/// An operation as the PSP has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::payments) struct Listed {
    /// None if the platform never asked for it: a refund made by hand, a dispute.
    pub(in crate::payments) key: Option<OperationKey>,
    pub(in crate::payments) provider_ref: String,
    /// The charge a refund or a dispute is of.
    pub(in crate::payments) charge_ref: Option<String>,
    /// Minor units as we count them.
    pub(in crate::payments) amount: i64,
    pub(in crate::payments) currency: String,
    pub(in crate::payments) state: ListedState,
    pub(in crate::payments) created_at: OffsetDateTime,
}

/// How an operation stands at the PSP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::payments) enum ListedState {
    /// Money moved; a dispute is lost.
    Succeeded,
    /// It did not, and will not; a dispute is won.
    Failed,
    /// Not decided.
    Open,
}

impl ListedState {
    /// Its name in SQL.
    pub(in crate::payments) fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Open => "open",
        }
    }
}

/// What a PSP knows an operation of ours by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::payments) enum OperationKey {
    Payment(PaymentId),
    Refund(RefundId),
}

/// What a PSP tells us unasked: something happened to an operation. It is a hint to ask, never an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::payments) struct WebhookEvent {
    /// The PSP's name for the event; it may send it again.
    pub(in crate::payments) id: String,
    /// What it is about, if it is one of our operations.
    pub(in crate::payments) about: Option<OperationKey>,
    /// What it says of a dispute.
    pub(in crate::payments) dispute: Option<DisputeNews>,
}

/// How far a dispute is. The sandbox writes it as it is here.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(in crate::payments) struct DisputeNews {
    /// The PSP's name for it.
    #[serde(rename = "id")]
    pub(in crate::payments) reference: String,
    /// The PSP's name for the charge.
    #[serde(rename = "charge")]
    pub(in crate::payments) charge_ref: String,
    pub(in crate::payments) amount: Money,
    pub(in crate::payments) status: DisputeStatus,
    #[serde(with = "time::serde::rfc3339")]
    pub(in crate::payments) opened_at: OffsetDateTime,
    /// Of the event that says so, where it says when it was made.
    #[serde(skip)]
    pub(in crate::payments) told_at: Option<OffsetDateTime>,
}

/// One payment service.
pub(in crate::payments) trait Psp: Send + Sync + 'static {
    /// The token to charge: the one given if the PSP can know it, else the rider's usual one.
    fn token(&self, given: Option<&str>) -> Result<String, PaymentError>;

    /// Takes money, once per key: at once, or first set aside and then captured. Either way approved money has moved.
    fn charge<'a>(&'a self, order: &'a ChargeOrder, capture: Capture) -> BoxFuture<'a, Result<Answer, NoAnswer>>;

    /// Gives money back, once per key.
    fn refund<'a>(&'a self, order: &'a RefundOrder) -> BoxFuture<'a, Result<Answer, NoAnswer>>;

    /// What became of an order; none if the PSP has not done it. A charge that was set aside and not taken, since somebody broke off
    /// in between, is taken now if one `may_charge`, and else is not done.
    fn find<'a>(&'a self, order: Order<'a>, may_charge: bool) -> BoxFuture<'a, Result<Option<Answer>, NoAnswer>>;

    /// Which operation of the tenant's the charge is that the PSP knows by a name; none if it is none of theirs.
    fn key_of<'a>(
        &'a self,
        tenant: &'a TenantId,
        charge_ref: &'a str,
    ) -> BoxFuture<'a, Result<Option<OperationKey>, NoAnswer>>;

    /// A page of what it has done.
    fn list<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<ListedPage, NoAnswer>>;

    /// Reads a webhook, if it is really the PSP's and recent.
    fn webhook(&self, headers: &HeaderMap, body: &[u8], now: OffsetDateTime) -> Result<WebhookEvent, PaymentError>;
}

/// The accounts at payment services this node can reach, each call bounded in time. An account is known by the name payments
/// are recorded under: `sandbox`, `stripe:acme`.
pub struct PspRegistry {
    accounts: BTreeMap<String, Arc<dyn Psp>>,
    sandbox: Arc<Sandbox>,
    /// Which tenants may be charged through each account at Stripe, by its name there.
    stripe_tenants: BTreeMap<String, BTreeSet<TenantId>>,
    is_sandbox_enabled: bool,
    breakers: BTreeMap<String, Mutex<Breaker>>,
    tenants: Tenants,
    timeout: Duration,
}

impl PspRegistry {
    /// All accounts there are.
    pub fn new(
        config: &PspConfig,
        db: Db,
        clock: Clock,
        http: &reqwest::Client,
        tenants: Tenants,
    ) -> Result<Self, ConfigError> {
        let sandbox = Arc::new(Sandbox::new(&config.sandbox, db, clock));
        let mut accounts = BTreeMap::from([(Sandbox::NAME.to_owned(), Arc::clone(&sandbox) as Arc<dyn Psp>)]);
        for (name, account) in Stripe::accounts(&config.stripe, http)? {
            accounts.insert(format!("{}:{name}", Stripe::NAME), Arc::new(account));
        }
        config.breaker.check()?;
        let breaker = |name: &String| (name.clone(), Mutex::new(Breaker::new(config.breaker)));
        let breakers = accounts.keys().map(breaker).collect();
        let of_account = |(name, account): (&String, &StripeAccountConfig)| (name.clone(), account.tenants.clone());
        Ok(Self {
            accounts,
            sandbox,
            stripe_tenants: config.stripe.accounts.iter().map(of_account).collect(),
            is_sandbox_enabled: config.sandbox.enabled,
            breakers,
            tenants,
            timeout: config.timeout,
        })
    }

    /// The account of that name.
    pub(in crate::payments) fn get(&self, name: &str) -> Result<&dyn Psp, PaymentError> {
        let account = self.accounts.get(name).ok_or_else(|| PaymentError::NoSuchProvider(name.to_owned()))?;
        Ok(account.as_ref())
    }

    /// Why a tenant cannot be charged through the account its config names, and what to do about it: this node has no secrets
    /// for it, or does not know it as the tenant's.
    pub fn why_unusable(&self, tenant: &TenantId, account: &PspAccount) -> Option<String> {
        let name = account.reference();
        if name == Sandbox::NAME {
            let switched_off = "the sandbox moves no money and is switched off in this region; name an account at Stripe, or have \
                                the operator set psp.sandbox.enabled on its nodes";
            return (!self.is_sandbox_enabled).then(|| switched_off.to_owned());
        }
        let account = account.account.as_deref().unwrap_or_default();
        match self.stripe_tenants.get(account) {
            Some(tenants) if tenants.contains(tenant) => None,
            Some(_) => Some(format!(
                "'{name}' is not {tenant}'s in this region; the operator adds it to psp.stripe.accounts.{account}.tenants on its nodes"
            )),
            None => {
                let (setting, variable) = secret_key_setting(account);
                Some(format!(
                    "this region has no secret key for '{name}'; the operator sets {setting}_file, or {variable}, on its nodes"
                ))
            }
        }
    }

    /// To be asked before a payment or refund is begun: one that is under way cannot be refused any more. While an account is
    /// left alone, having fallen silent, nothing new is begun with it.
    pub(in crate::payments) fn admit(&self, provider: &str) -> Result<(), PaymentError> {
        let admitted = self.breaker(provider, |breaker| breaker.admit(tokio::time::Instant::now()));
        admitted.unwrap_or(Ok(())).map_err(|wait| PaymentError::PspUnavailable {
            why: "it has not answered lately".to_owned(),
            wait_s: wait.as_secs() + 1,
        })
    }

    fn breaker<T>(&self, provider: &str, what: impl FnOnce(&mut Breaker) -> T) -> Option<T> {
        let breaker = self.breakers.get(provider)?;
        Some(what(&mut breaker.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Counts a call for the breaker of its account.
    fn note(&self, provider: &str, is_answered: bool) {
        let is_open = self.breaker(provider, |breaker| {
            let was_open = breaker.is_open();
            match is_answered {
                true => breaker.answered(),
                false => breaker.silent(tokio::time::Instant::now(), rand::random()),
            }
            if breaker.is_open() != was_open {
                tracing::warn!(
                    provider,
                    "{provider} is {}",
                    if was_open { "asked again" } else { "left alone for a while" }
                );
            }
            breaker.is_open()
        });
        let is_open = is_open.unwrap_or_default();
        metrics::gauge!("region_node_psp_breaker_open", "provider" => provider.to_owned())
            .set(f64::from(u8::from(is_open)));
    }

    /// Takes money; see [`Psp::charge`].
    pub(in crate::payments) async fn charge(&self, provider: &str, order: &ChargeOrder) -> Result<Answer, NoAnswer> {
        let account = self.reachable(provider)?;
        let published =
            self.tenants.config(&order.tenant).await.map_err(|problem| NoAnswer::new(problem.to_string()))?;
        self.bounded(provider, account.charge(order, published.config.psp.capture), outcome).await
    }

    /// Gives money back; see [`Psp::refund`].
    pub(in crate::payments) async fn refund(&self, provider: &str, order: &RefundOrder) -> Result<Answer, NoAnswer> {
        self.bounded(provider, self.reachable(provider)?.refund(order), outcome).await
    }

    /// What became of an order; see [`Psp::find`].
    pub(in crate::payments) async fn find(
        &self,
        provider: &str,
        order: Order<'_>,
        may_charge: bool,
    ) -> Result<Option<Answer>, NoAnswer> {
        self.bounded(provider, self.reachable(provider)?.find(order, may_charge), |_| "ok").await
    }

    /// Whose a charge is; see [`Psp::key_of`].
    pub(in crate::payments) async fn key_of(
        &self,
        provider: &str,
        tenant: &TenantId,
        charge_ref: &str,
    ) -> Result<Option<OperationKey>, NoAnswer> {
        self.bounded(provider, self.reachable(provider)?.key_of(tenant, charge_ref), |_| "ok").await
    }

    /// A page of what an account has done; see [`Psp::list`].
    pub(in crate::payments) async fn list(&self, provider: &str, listing: &Listing) -> Result<ListedPage, NoAnswer> {
        self.bounded(provider, self.reachable(provider)?.list(listing), |_| "ok").await
    }

    /// The webhooks the sandbox sends now, about tenants at home in `region`.
    pub(in crate::payments) async fn due_webhooks(&self, region: &str) -> Result<Vec<Delivery>, Problem> {
        self.sandbox.due_webhooks(region).await
    }

    /// How long somebody who asks holds the payment: the call itself, and as long again for all around it.
    pub(in crate::payments) fn hold(&self) -> time::Duration {
        time::Duration::try_from(self.timeout * 2).unwrap_or(time::Duration::MINUTE)
    }

    fn reachable(&self, provider: &str) -> Result<&dyn Psp, NoAnswer> {
        self.get(provider).map_err(|error| NoAnswer::new(error.to_string()))
    }

    async fn bounded<T>(
        &self,
        provider: &str,
        call: BoxFuture<'_, Result<T, NoAnswer>>,
        outcome: impl Fn(&T) -> &'static str,
    ) -> Result<T, NoAnswer> {
        let out_of_time = |_| Err(NoAnswer::new(format!("not within {:?}", self.timeout)));
        let asked = Instant::now();
        let answer = tokio::time::timeout(self.timeout, call).await.unwrap_or_else(out_of_time);
        self.note(provider, answer.is_ok());
        let labels =
            [("provider", provider.to_owned()), ("outcome", answer.as_ref().map_or("error", outcome).to_owned())];
        metrics::histogram!("region_node_psp_call_duration_seconds", &labels).record(asked.elapsed());
        answer
    }
}

impl BreakerConfig {
    fn check(&self) -> Result<(), ConfigError> {
        if (Duration::from_secs(1)..=self.longest_pause).contains(&self.first_pause)
            && self.longest_pause <= LONGEST_PAUSE
        {
            return Ok(());
        }
        Err(ConfigError::new("psp.breaker: first_pause must be 1s or longer, and longest_pause between it and 1h"))
    }
}

/// How an answered call is counted.
fn outcome(answer: &Answer) -> &'static str {
    match answer {
        Answer::Approved { .. } | Answer::Underway => "ok",
        Answer::Declined { .. } => "declined",
    }
}

impl std::fmt::Display for OperationKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Payment(id) => write!(f, "payment-{id}"),
            Self::Refund(id) => write!(f, "refund-{id}"),
        }
    }
}

impl OperationKey {
    /// Reads a key of ours back.
    pub(in crate::payments) fn parse(text: &str) -> Option<Self> {
        match text.split_once('-')? {
            ("payment", id) => id.parse().ok().map(Self::Payment),
            ("refund", id) => id.parse().ok().map(Self::Refund),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_its_operation() {
        for key in [OperationKey::Payment(PaymentId::new()), OperationKey::Refund(RefundId::new())] {
            assert_eq!(OperationKey::parse(&key.to_string()), Some(key));
        }
        for foreign in ["", "payment", "payment-", "order-0192", "refund-x"] {
            assert_eq!(OperationKey::parse(foreign), None, "{foreign}");
        }
    }
}
