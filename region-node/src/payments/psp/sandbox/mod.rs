//! A PSP that moves no money and behaves like one that does: it keeps its own books, honours idempotency keys, declines,
//! fails and falls silent on demand. Which, the token says:
//!
//! | token                    | what happens                                                              |
//! |--------------------------|---------------------------------------------------------------------------|
//! | none, `tok_visa`, `tok_mastercard`, `tok_amex` | charged                                             |
//! | `tok_declined`           | declined: `card_declined`                                                 |
//! | `tok_insufficient_funds` | declined: `insufficient_funds`                                            |
//! | `tok_timeout`            | charged, but the answer never comes; asked again, it says what it did     |
//! | `tok_error`              | a server error the first time, nothing charged; works the second time     |
//! | `tok_refund_declined`    | charged; its refunds are declined: `charge_disputed`                      |
//! | `tok_refund_timeout`     | charged; its refunds are made, but the answer never comes                 |
//!
//! A [`script`] makes it worse: from a seed it declines, fails, falls silent and sends webhooks late or twice. Idempotency
//! keys follow Stripe's rules either way: what was done under a key is done once, and its answer, a server error included, is
//! given again; a key used for another order, or in use at the moment, gets none.
//!
//! It is an external system in effect: it shares the region's Postgres server, but neither a transaction nor a table with
//! anything else, and is asked outside of transactions like any other.

mod books;
mod script;

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use futures::future::BoxFuture;
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use shared::{clock::Clock, ids::TenantId, tenant_config::Capture};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    ChargeOrder, DisputeNews, Listed, ListedPage, ListedState, Listing, OperationKey, Order, Psp, RefundOrder,
    SandboxConfig, WebhookEvent, signature,
};
use crate::{
    db::{Db, TenantTx},
    http::Problem,
    payments::{Answer, NoAnswer, PaymentError},
};
use books::Operation;
pub(in crate::payments) use script::ScriptConfig;
use script::{Fault, Verdict};

/// The sandbox.
pub(super) struct Sandbox {
    db: Db,
    clock: Clock,
    webhook_secret: Option<SecretString>,
    latency: Duration,
    script: Option<ScriptConfig>,
}

/// A webhook on its way.
pub(in crate::payments) struct Delivery {
    pub(in crate::payments) tenant: TenantId,
    pub(in crate::payments) provider: &'static str,
    pub(in crate::payments) headers: HeaderMap,
    pub(in crate::payments) body: Vec<u8>,
}

/// Operations on a page of a list.
const PAGE: u16 = 100;
/// Webhooks delivered at once.
const WEBHOOKS: i64 = 100;
const SIGNATURE: &str = "Sandbox-Signature";
const USUAL_TOKEN: &str = "tok_visa";

/// How a token behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Manner {
    Charges,
    Declines(&'static str),
    ChargesSilently,
    FailsFirst,
    RefusesRefunds,
    RefundsSilently,
}

impl Manner {
    fn of(token: &str) -> Option<Self> {
        Some(match token {
            "tok_visa" | "tok_mastercard" | "tok_amex" => Self::Charges,
            "tok_declined" => Self::Declines("card_declined"),
            "tok_insufficient_funds" => Self::Declines("insufficient_funds"),
            "tok_timeout" => Self::ChargesSilently,
            "tok_error" => Self::FailsFirst,
            "tok_refund_declined" => Self::RefusesRefunds,
            "tok_refund_timeout" => Self::RefundsSilently,
            _ => return None,
        })
    }
}

impl Operation {
    fn is_same(&self, other: &Self) -> bool {
        (&self.charge_ref, self.amount, &self.currency) == (&other.charge_ref, other.amount, &other.currency)
    }

    /// As this attempt leaves it.
    fn decided(self, verdict: &Verdict) -> Self {
        if verdict.fault == Some(Fault::ErrorBefore) {
            return Self { outcome: "error".to_owned(), decline_code: None, ..self };
        }
        let replays_error = verdict.fault == Some(Fault::ErrorAfter);
        match verdict.is_declined && self.outcome == "succeeded" {
            true => {
                let decline_code = Some("generic_decline".to_owned());
                Self { outcome: "declined".to_owned(), decline_code, replays_error, ..self }
            }
            false => Self { replays_error, ..self },
        }
    }

    /// As one more attempt leaves it: what was done stays so, what failed before is tried as it is `asked` for now.
    fn asked_again(self, asked: Self, attempts: i32, verdict: &Verdict) -> Self {
        match self.outcome.as_str() {
            "error" => Self { provider_ref: self.provider_ref, attempts, ..asked.decided(verdict) },
            _ => Self { attempts, ..self },
        }
    }

    /// None where nothing was done.
    fn answer(self) -> Option<Answer> {
        match self.outcome.as_str() {
            "succeeded" => Some(Answer::Approved { provider_ref: self.provider_ref }),
            "declined" => Some(Answer::Declined { code: self.decline_code.unwrap_or_default() }),
            _ => None,
        }
    }
}

impl Sandbox {
    /// As in tenants' config.
    pub(super) const NAME: &str = "sandbox";

    /// Keeps its books in `db`.
    pub(super) fn new(config: &SandboxConfig, db: Db, clock: Clock) -> Self {
        let (webhook_secret, script) = (config.webhook_secret.clone(), config.script.clone());
        Self { db, clock, webhook_secret, latency: config.latency, script }
    }

    /// The webhooks whose time has come, of tenants at home in `region`. Only a script has any sent.
    pub(super) async fn due_webhooks(&self, region: &str) -> Result<Vec<Delivery>, Problem> {
        let (Some(secret), Some(_)) = (&self.webhook_secret, &self.script) else { return Ok(Vec::new()) };
        let now = self.clock.now();
        let mut tx = self.db.system().await?;
        let due = books::take_due(&mut tx, region, now, WEBHOOKS).await?;
        tx.commit().await?;
        let delivery = |webhook: books::Webhook| {
            let data = json!({"idempotency_key": webhook.idempotency_key});
            let body = json!({"id": webhook.event_id, "type": "operation.done", "data": data}).to_string().into_bytes();
            let signature = signature::sign(secret.expose_secret().as_bytes(), &body, now);
            let headers = [(SIGNATURE.parse::<HeaderName>().ok()?, HeaderValue::from_str(&signature).ok()?)];
            let (tenant, headers) = (webhook.tenant_id.parse().ok()?, headers.into_iter().collect());
            Some(Delivery { tenant, provider: Self::NAME, headers, body })
        };
        Ok(due.into_iter().filter_map(delivery).collect())
    }

    async fn charge_once(&self, order: &ChargeOrder) -> Result<Answer, Failure> {
        let manner = Manner::of(&order.token).ok_or(Failure::Other("unknown token"))?;
        let decline_code = match manner {
            Manner::Declines(code) => Some(code),
            _ => None,
        };
        let at_first = match manner {
            Manner::FailsFirst => Some(Fault::ErrorBefore),
            Manner::ChargesSilently => Some(Fault::Silence),
            _ => None,
        };
        let asked = Operation {
            provider_ref: format!("ch_{}", Uuid::now_v7().simple()),
            charge_ref: None,
            token: order.token.clone(),
            amount: order.amount.amount,
            currency: order.amount.currency.to_string(),
            outcome: if decline_code.is_some() { "declined" } else { "succeeded" }.to_owned(),
            decline_code: decline_code.map(str::to_owned),
            replays_error: false,
            attempts: 1,
        };
        let tx = self.begin(&order.tenant).await?;
        self.perform(tx, order.key, "charge", asked, at_first).await
    }

    async fn refund_once(&self, order: &RefundOrder) -> Result<Answer, Failure> {
        let mut tx = self.begin(&order.tenant).await?;
        let charge = books::lock_charge(&mut tx, &order.charge_ref).await?.ok_or(Failure::Other("no such charge"))?;
        let manner = Manner::of(&charge.token).unwrap_or(Manner::Charges);
        let currency = order.amount.currency.to_string();
        let refunded = books::refunded(&mut tx, &order.charge_ref).await?;
        let decline_code = if manner == Manner::RefusesRefunds {
            Some("charge_disputed")
        } else if currency != charge.currency {
            Some("currency_mismatch")
        } else if order.amount.amount > charge.amount - refunded {
            Some("amount_too_large")
        } else {
            None
        };
        let asked = Operation {
            provider_ref: format!("re_{}", Uuid::now_v7().simple()),
            charge_ref: Some(order.charge_ref.clone()),
            token: charge.token,
            amount: order.amount.amount,
            currency,
            outcome: if decline_code.is_some() { "declined" } else { "succeeded" }.to_owned(),
            decline_code: decline_code.map(str::to_owned),
            replays_error: false,
            attempts: 1,
        };
        let at_first = (manner == Manner::RefundsSilently).then_some(Fault::Silence);
        self.perform(tx, order.key, "refund", asked, at_first).await
    }

    /// Does what a key stands for, unless that is done, and answers as the token and the script have it. `at_first` is what
    /// the token does to the first attempt.
    async fn perform(
        &self,
        mut tx: TenantTx,
        key: OperationKey,
        kind: &str,
        asked: Operation,
        at_first: Option<Fault>,
    ) -> Result<Answer, Failure> {
        let now = self.clock.now();
        let verdict = self.verdict(key, 1, at_first);
        let first = asked.clone().decided(&verdict);
        let (was_done, done, verdict) = match books::insert(&mut tx, key, kind, &first, now).await? {
            true => (false, first, verdict),
            false => {
                let known = books::hold(&mut tx, key).await?.ok_or(Failure::Other(KEY_IN_USE))?;
                if !known.is_same(&asked) {
                    return Err(Failure::Other(KEY_REUSED));
                }
                let attempts = known.attempts.saturating_add(1);
                let (was_done, verdict) = (known.outcome != "error", self.verdict(key, attempts, at_first));
                let done = known.asked_again(asked, attempts, &verdict);
                books::save(&mut tx, key, &done).await?;
                (was_done, done, verdict)
            }
        };
        if !was_done && done.outcome != "error" {
            self.announce(&mut tx, key, now).await?;
        }
        tx.commit().await?;
        tokio::time::sleep(verdict.latency).await;
        let replays_error = done.replays_error;
        match (verdict.fault, done.answer()) {
            (Some(Fault::ErrorBefore), _) | (_, None) => Err(Failure::Other(UNAVAILABLE)),
            (Some(Fault::Silence), Some(_)) => silence().await,
            (_, Some(_)) if replays_error => Err(Failure::Other(SERVER_ERROR)),
            (_, Some(answer)) => Ok(answer),
        }
    }

    fn verdict(&self, key: OperationKey, attempt: i32, at_first: Option<Fault>) -> Verdict {
        let verdict = self.script.as_ref().map(|script| script.verdict(&key.to_string(), attempt)).unwrap_or_default();
        Verdict { fault: at_first.filter(|_| attempt == 1).or(verdict.fault), ..verdict }
    }

    /// Has the webhooks of a deed sent. Their event is told by its id however often it comes.
    async fn announce(&self, tx: &mut TenantTx, key: OperationKey, now: OffsetDateTime) -> sqlx::Result<()> {
        let Some(script) = &self.script else { return Ok(()) };
        let name = key.to_string();
        let due: Vec<_> = script.webhooks(&name).into_iter().map(|after| now + after).collect();
        let event_id = format!("evt_{}", hex::encode(&Sha256::digest(&name)[..12]));
        books::announce(tx, key, &event_id, &due).await
    }

    /// To do something. Its books are where the tenant is at home and move with it, so none may be written while they do.
    async fn begin(&self, tenant: &TenantId) -> Result<TenantTx, Failure> {
        tokio::time::sleep(self.latency).await;
        Ok(self.db.begin_step(tenant).await?)
    }

    async fn open(&self, tenant: &TenantId) -> Result<TenantTx, Failure> {
        tokio::time::sleep(self.latency).await;
        Ok(self.db.anywhere(tenant).await?)
    }

    async fn find_order(&self, order: Order<'_>) -> Result<Option<Answer>, Failure> {
        let mut tx = self.open(order.tenant()).await?;
        let Some(known) = books::load(&mut tx, order.key()).await? else { return Ok(None) };
        let amount = order.amount();
        match (known.amount, known.currency.as_str()) == (amount.amount, amount.currency.code()) {
            true => Ok(known.answer()),
            false => Err(Failure::Other(KEY_REUSED)),
        }
    }

    async fn page(&self, listing: &Listing) -> Result<ListedPage, Failure> {
        let after = listing.after.as_deref().and_then(position).unwrap_or((OffsetDateTime::UNIX_EPOCH, ""));
        let mut tx = self.open(&listing.tenant).await?;
        let mut entries = books::list(&mut tx, listing, after, i64::from(PAGE) + 1).await?;
        let has_more = entries.len() > usize::from(PAGE);
        entries.truncate(PAGE.into());
        let last = entries.last().filter(|_| has_more);
        let next = last.map(|last| format!("{} {}", last.created_at.unix_timestamp_nanos(), last.provider_ref));
        let listed = |entry: books::Entry| Listed {
            key: OperationKey::parse(&entry.idempotency_key),
            provider_ref: entry.provider_ref,
            charge_ref: entry.charge_ref,
            amount: entry.amount,
            currency: entry.currency,
            state: match entry.outcome.as_str() {
                "succeeded" => ListedState::Succeeded,
                _ => ListedState::Failed,
            },
            created_at: entry.created_at,
        };
        Ok(ListedPage { operations: entries.into_iter().map(listed).collect(), next })
    }
}

/// A cursor is the last operation listed.
fn position(cursor: &str) -> Option<(OffsetDateTime, &str)> {
    let (nanoseconds, provider_ref) = cursor.split_once(' ')?;
    Some((OffsetDateTime::from_unix_timestamp_nanos(nanoseconds.parse().ok()?).ok()?, provider_ref))
}

const UNAVAILABLE: &str = "503 Service Unavailable";
const SERVER_ERROR: &str = "500 Internal Server Error";
const KEY_IN_USE: &str = "409 the idempotency key is in use";
const KEY_REUSED: &str = "the idempotency key was used for another order";

impl Psp for Sandbox {
    fn token(&self, given: Option<&str>) -> Result<String, PaymentError> {
        match given {
            None => Ok(USUAL_TOKEN.to_owned()),
            Some(token) if Manner::of(token).is_some() => Ok(token.to_owned()),
            Some(token) => {
                Err(PaymentError::UnusableToken(format!("the sandbox knows no token '{token}'; try tok_visa")))
            }
        }
    }

    /// Its cards never say no between setting money aside and taking it, so there is nothing to do in two steps.
    fn charge<'a>(&'a self, order: &'a ChargeOrder, _: Capture) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        Box::pin(async move { Ok(self.charge_once(order).await?) })
    }

    fn refund<'a>(&'a self, order: &'a RefundOrder) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        Box::pin(async move { Ok(self.refund_once(order).await?) })
    }

    fn find<'a>(&'a self, order: Order<'a>, _: bool) -> BoxFuture<'a, Result<Option<Answer>, NoAnswer>> {
        Box::pin(async move { Ok(self.find_order(order).await?) })
    }

    fn key_of<'a>(
        &'a self,
        tenant: &'a TenantId,
        charge_ref: &'a str,
    ) -> BoxFuture<'a, Result<Option<OperationKey>, NoAnswer>> {
        Box::pin(async move {
            let mut tx = self.open(tenant).await?;
            let key = books::key_of_charge(&mut tx, charge_ref).await.map_err(Failure::from)?;
            Ok(key.as_deref().and_then(OperationKey::parse))
        })
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<ListedPage, NoAnswer>> {
        Box::pin(async move { Ok(self.page(listing).await?) })
    }

    fn webhook(&self, headers: &HeaderMap, body: &[u8], now: OffsetDateTime) -> Result<WebhookEvent, PaymentError> {
        #[derive(Deserialize)]
        struct Data {
            idempotency_key: Option<String>,
            dispute: Option<DisputeNews>,
        }
        let event = signature::open::<Data>(&self.webhook_secret, headers.get(SIGNATURE), body, now)?;
        let about = event.data.idempotency_key.as_deref().and_then(OperationKey::parse);
        let told_at = event.made_at();
        let dispute = event.data.dispute.map(|news| DisputeNews { told_at, ..news });
        Ok(WebhookEvent { id: event.id, about, dispute })
    }
}

/// Why the sandbox does not answer.
enum Failure {
    Database(String),
    Other(&'static str),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        Self::Database(error.to_string())
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Database(problem.to_string())
    }
}

impl From<Failure> for NoAnswer {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Database(text) => Self::new(text),
            Failure::Other(text) => Self::new(text),
        }
    }
}

/// The line is dead; the caller's time-out ends this.
async fn silence<T>() -> T {
    std::future::pending().await
}
