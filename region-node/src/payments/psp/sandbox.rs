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
//! It is an external system in effect: it shares the region's Postgres server, but neither a transaction nor a table with
//! anything else, and is asked outside of transactions like any other.

use axum::http::HeaderMap;
use futures::future::BoxFuture;
use secrecy::SecretString;
use serde::Deserialize;
use shared::{clock::Clock, ids::TenantId, tenant_config::Capture};
use std::time::Duration;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{ChargeOrder, OperationKey, Psp, RefundOrder, SandboxConfig, WebhookEvent, signature};
use crate::{
    db::{Db, TenantTx},
    http::Problem,
    payments::{Answer, NoAnswer, PaymentError},
};

/// The sandbox.
pub(super) struct Sandbox {
    db: Db,
    clock: Clock,
    webhook_secret: Option<SecretString>,
    latency: Duration,
}

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

/// An operation as the sandbox's books have it.
struct Operation {
    provider_ref: String,
    charge_ref: Option<String>,
    token: String,
    amount: i64,
    currency: String,
    outcome: String,
    decline_code: Option<String>,
}

impl Operation {
    fn is_same(&self, other: &Self) -> bool {
        (&self.charge_ref, self.amount, &self.currency) == (&other.charge_ref, other.amount, &other.currency)
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
        Self { db, clock, webhook_secret: config.webhook_secret.clone(), latency: config.latency }
    }

    async fn charge_once(&self, order: &ChargeOrder) -> Result<Answer, Failure> {
        let manner = Manner::of(&order.token).ok_or(Failure::Other("unknown token"))?;
        let (outcome, decline_code) = match manner {
            Manner::Declines(code) => ("declined", Some(code.to_owned())),
            Manner::FailsFirst => ("error", None),
            _ => ("succeeded", None),
        };
        let operation = Operation {
            provider_ref: format!("ch_{}", Uuid::now_v7().simple()),
            charge_ref: None,
            token: order.token.clone(),
            amount: order.amount.amount,
            currency: order.amount.currency.to_string(),
            outcome: outcome.to_owned(),
            decline_code,
        };
        let mut tx = self.open(&order.tenant).await?;
        let is_new = insert(&mut tx, order.key, "charge", &operation, self.clock.now()).await?;
        let answer = if is_new { operation.answer() } else { self.known(&mut tx, order.key, &operation).await? };
        tx.commit().await?;
        match (answer, manner) {
            (_, Manner::ChargesSilently) if is_new => silence().await,
            (Some(answer), _) => Ok(answer),
            (None, _) => Err(Failure::Other("500 Internal Server Error")),
        }
    }

    async fn refund_once(&self, order: &RefundOrder) -> Result<Answer, Failure> {
        let mut tx = self.open(&order.tenant).await?;
        let charge = lock_charge(&mut tx, &order.charge_ref).await?.ok_or(Failure::Other("no such charge"))?;
        let manner = Manner::of(&charge.token).unwrap_or(Manner::Charges);
        let currency = order.amount.currency.to_string();
        let refunded = refunded(&mut tx, &order.charge_ref).await?;
        let decline_code = if manner == Manner::RefusesRefunds {
            Some("charge_disputed")
        } else if currency != charge.currency {
            Some("currency_mismatch")
        } else if order.amount.amount > charge.amount - refunded {
            Some("amount_too_large")
        } else {
            None
        };
        let operation = Operation {
            provider_ref: format!("re_{}", Uuid::now_v7().simple()),
            charge_ref: Some(order.charge_ref.clone()),
            token: charge.token,
            amount: order.amount.amount,
            currency,
            outcome: if decline_code.is_some() { "declined" } else { "succeeded" }.to_owned(),
            decline_code: decline_code.map(str::to_owned),
        };
        let is_new = insert(&mut tx, order.key, "refund", &operation, self.clock.now()).await?;
        let answer = if is_new { operation.answer() } else { self.known(&mut tx, order.key, &operation).await? };
        tx.commit().await?;
        match (answer, manner) {
            (_, Manner::RefundsSilently) if is_new => silence().await,
            (Some(answer), _) => Ok(answer),
            (None, _) => Err(Failure::Other("500 Internal Server Error")),
        }
    }

    /// What an operation asked for before came to; one that failed then succeeds now.
    async fn known(&self, tx: &mut TenantTx, key: OperationKey, asked: &Operation) -> Result<Option<Answer>, Failure> {
        let known = load(tx, key).await?.ok_or(Failure::Other("the operation is gone"))?;
        if !known.is_same(asked) {
            return Err(Failure::Other("the idempotency key was used for another operation"));
        }
        if known.outcome == "error" {
            succeed(tx, key).await?;
            return Ok(Some(Answer::Approved { provider_ref: known.provider_ref }));
        }
        Ok(known.answer())
    }

    async fn open(&self, tenant: &TenantId) -> Result<TenantTx, Failure> {
        tokio::time::sleep(self.latency).await;
        Ok(self.db.anywhere(tenant).await?)
    }
}

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

    fn find<'a>(&'a self, tenant: &'a TenantId, key: OperationKey) -> BoxFuture<'a, Result<Option<Answer>, NoAnswer>> {
        Box::pin(async move {
            let mut tx = self.open(tenant).await?;
            Ok(load(&mut tx, key).await.map_err(Failure::from)?.and_then(Operation::answer))
        })
    }

    fn webhook(&self, headers: &HeaderMap, body: &[u8], now: OffsetDateTime) -> Result<WebhookEvent, PaymentError> {
        #[derive(Deserialize)]
        struct Data {
            idempotency_key: Option<String>,
        }
        let event = signature::open::<Data>(&self.webhook_secret, headers.get(SIGNATURE), body, now)?;
        Ok(WebhookEvent { id: event.id, about: event.data.idempotency_key.as_deref().and_then(OperationKey::parse) })
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
            Failure::Database(text) => Self(text),
            Failure::Other(text) => Self(text.to_owned()),
        }
    }
}

/// The line is dead; the caller's time-out ends this.
async fn silence<T>() -> T {
    std::future::pending().await
}

/// Writes an operation into the books unless its key is there.
async fn insert(
    tx: &mut TenantTx,
    key: OperationKey,
    kind: &str,
    operation: &Operation,
    now: OffsetDateTime,
) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    let sql = sqlx::query!(
        "INSERT INTO sandbox_psp_operations (idempotency_key, tenant_id, provider_ref, kind, charge_ref, token, amount,
             currency, outcome, decline_code, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (idempotency_key) DO NOTHING",
        key.to_string(),
        tenant.as_str(),
        operation.provider_ref,
        kind,
        operation.charge_ref,
        operation.token,
        operation.amount,
        operation.currency,
        operation.outcome,
        operation.decline_code,
        now
    );
    Ok(sql.execute(tx.conn()).await?.rows_affected() == 1)
}

async fn load(tx: &mut TenantTx, key: OperationKey) -> sqlx::Result<Option<Operation>> {
    let sql = sqlx::query_as!(
        Operation,
        "SELECT provider_ref, charge_ref, token, amount, currency, outcome, decline_code FROM sandbox_psp_operations
         WHERE idempotency_key = $1",
        key.to_string()
    );
    sql.fetch_optional(tx.conn()).await
}

/// Refunds of one charge follow one another.
async fn lock_charge(tx: &mut TenantTx, charge_ref: &str) -> sqlx::Result<Option<Operation>> {
    let sql = sqlx::query_as!(
        Operation,
        "SELECT provider_ref, charge_ref, token, amount, currency, outcome, decline_code FROM sandbox_psp_operations
         WHERE provider_ref = $1 AND kind = 'charge' AND outcome = 'succeeded' FOR UPDATE",
        charge_ref
    );
    sql.fetch_optional(tx.conn()).await
}

async fn refunded(tx: &mut TenantTx, charge_ref: &str) -> sqlx::Result<i64> {
    let sql = sqlx::query_scalar!(
        r#"SELECT coalesce(sum(amount), 0)::bigint AS "sum!" FROM sandbox_psp_operations
           WHERE charge_ref = $1 AND kind = 'refund' AND outcome = 'succeeded'"#,
        charge_ref
    );
    sql.fetch_one(tx.conn()).await
}

async fn succeed(tx: &mut TenantTx, key: OperationKey) -> sqlx::Result<()> {
    let sql = sqlx::query!(
        "UPDATE sandbox_psp_operations SET outcome = 'succeeded' WHERE idempotency_key = $1",
        key.to_string()
    );
    sql.execute(tx.conn()).await.map(|_| ())
}
