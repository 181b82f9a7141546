//! Stripe: a payment is a PaymentIntent, confirmed off session as it is made; a refund is a refund of that intent.
//!
//! Orders carry an `Idempotency-Key` made of ours and name it in their metadata, too. Within the day Stripe keeps keys, asking
//! again is safe; what became of an order is found by its metadata, for as long as Stripe exists.

mod amount;
mod api;
mod config;
mod dispute;
mod list;

use axum::http::HeaderMap;
use futures::future::BoxFuture;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::Value;
use shared::{config::ConfigError, ids::TenantId, money::Money, tenant_config::Capture};
use time::OffsetDateTime;

use super::{ChargeOrder, ListedPage, Listing, OperationKey, Order, Psp, RefundOrder, WebhookEvent, signature};
use crate::payments::{Answer, NoAnswer, PaymentError};
use amount::{NOT_CHARGEABLE, at_stripe};
use api::{Api, Params, Refusal};
pub(in crate::payments) use config::StripeConfig;
pub(super) use config::{StripeAccountConfig, secret_key_setting};
use dispute::Dispute;

const SIGNATURE: &str = "Stripe-Signature";
/// Where an order names our key for it.
const KEY: &str = "gocomet_key";
/// Lists are read newest first, so many pages of a span at most.
const PAGES: usize = 10;
/// An operation that is not among an account's newest is looked for in what was made so long after it began, and then so much longer:
/// most are asked for at once, others after hours of a crash or an outage.
const SPANS_S: [i64; 3] = [600, 7_200, 172_800];
/// Stripe's clock and ours differ by less.
const CLOCKS_DIFFER_S: i64 = 300;

/// One account at Stripe.
pub(super) struct Stripe {
    api: Api,
    webhook_secrets: Vec<SecretString>,
}

/// A PaymentIntent, as far as we look at it.
#[derive(Deserialize)]
struct Intent {
    id: String,
    status: IntentStatus,
    amount: i64,
    currency: String,
    #[serde(default)]
    last_payment_error: Option<LastError>,
    #[serde(default)]
    metadata: Metadata,
    created: i64,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum IntentStatus {
    Succeeded,
    RequiresCapture,
    RequiresPaymentMethod,
    RequiresConfirmation,
    RequiresAction,
    Processing,
    Canceled,
}

#[derive(Deserialize)]
struct LastError {
    code: Option<String>,
    decline_code: Option<String>,
}

#[derive(Deserialize)]
struct Refund {
    id: String,
    status: String,
    amount: i64,
    currency: String,
    #[serde(default)]
    payment_intent: Option<String>,
    #[serde(default)]
    failure_reason: Option<String>,
    #[serde(default)]
    metadata: Metadata,
    created: i64,
}

#[derive(Default, Deserialize)]
struct Metadata {
    #[serde(default)]
    gocomet_key: Option<String>,
    #[serde(default)]
    gocomet_tenant: Option<String>,
}

#[derive(Deserialize)]
struct Page<T> {
    data: Vec<T>,
    #[serde(default)]
    has_more: bool,
}

/// What reading a list came to.
enum Search<T> {
    Found(T),
    NotThere,
    /// It is longer than what is read of it.
    TooMuch,
}

/// What stands in a list of Stripe's.
trait InList {
    fn id(&self) -> &str;
    fn metadata(&self) -> &Metadata;
    fn created(&self) -> i64;
    /// What it is over, as Stripe counts it and writes the currency.
    fn sum(&self) -> (i64, &str);
}

macro_rules! in_lists {
    ($($object:ty),*) => {$(
        impl InList for $object {
            fn id(&self) -> &str {
                &self.id
            }
            fn metadata(&self) -> &Metadata {
                &self.metadata
            }
            fn created(&self) -> i64 {
                self.created
            }
            fn sum(&self) -> (i64, &str) {
                (self.amount, &self.currency)
            }
        }
    )*};
}

in_lists!(Intent, Refund, Dispute);

impl Stripe {
    /// As in tenants' config.
    pub(super) const NAME: &str = "stripe";

    /// Every account in `config`, by name.
    pub(super) fn accounts(config: &StripeConfig, http: &reqwest::Client) -> Result<Vec<(String, Self)>, ConfigError> {
        config.check()?;
        let account = |(name, account): (&String, &StripeAccountConfig)| {
            let secret_key = account.secret_key(name)?;
            let api = Api { http: http.clone(), base_url: config.base_url.clone(), secret_key };
            Ok((name.clone(), Self { api, webhook_secrets: account.webhook_secrets(name)? }))
        };
        config.accounts.iter().map(account).collect()
    }

    async fn charge_once(&self, order: &ChargeOrder, capture: Capture) -> Result<Answer, Refusal> {
        let Some(amount) = at_stripe(order.amount) else { return Err(not_chargeable()) };
        let (key, amount) = (order.key.to_string(), amount.to_string());
        let currency = order.amount.currency.code().to_lowercase();
        let (customer, card) = parts(&order.token);
        let mut params = vec![
            ("amount", amount.as_str()),
            ("currency", currency.as_str()),
            ("payment_method", card),
            ("payment_method_types[]", "card"),
            ("confirm", "true"),
            ("off_session", "true"),
            ("metadata[gocomet_key]", key.as_str()),
            ("metadata[gocomet_tenant]", order.tenant.as_str()),
        ];
        params.push(match capture {
            Capture::Automatic => ("capture_method", "automatic"),
            Capture::Manual => ("capture_method", "manual"),
        });
        params.extend(customer.map(|customer| ("customer", customer)));
        let intent: Intent = self.api.post("v1/payment_intents", &key, &params).await?;
        match intent.status {
            IntentStatus::RequiresCapture => self.capture(&intent.id, &key).await,
            _ => self.outcome(intent, &key).await,
        }
    }

    /// Takes what an intent has set aside.
    async fn capture(&self, intent: &str, key: &str) -> Result<Answer, Refusal> {
        let path = format!("v1/payment_intents/{intent}/capture");
        match self.api.post(&path, &format!("{key}-capture"), &[]).await {
            Ok(captured) => self.outcome(captured, key).await,
            // Also because it was captured before, or ended: what became of the intent tells.
            Err(Refusal::Declined { code }) => Err(Refusal::no_answer(format!("the capture is refused: {code}"))),
            Err(no_answer) => Err(no_answer),
        }
    }

    /// What an intent came to. One that waits for its rider never gets him, so it is ended before he can pay it later.
    async fn outcome(&self, intent: Intent, key: &str) -> Result<Answer, Refusal> {
        match intent.status {
            IntentStatus::Succeeded => Ok(Answer::Approved { provider_ref: intent.id }),
            IntentStatus::RequiresPaymentMethod | IntentStatus::Canceled => {
                let error = intent.last_payment_error;
                let code = error.and_then(|error| error.decline_code.or(error.code));
                Ok(Answer::Declined { code: code.unwrap_or_else(|| "card_declined".to_owned()) })
            }
            IntentStatus::RequiresAction | IntentStatus::RequiresConfirmation => {
                let path = format!("v1/payment_intents/{}/cancel", intent.id);
                match self.api.post::<Intent>(&path, &format!("{key}-cancel"), &[]).await {
                    Ok(_) => Ok(Answer::Declined { code: "authentication_required".to_owned() }),
                    Err(_) => Err(Refusal::no_answer("the intent waits for its rider and cannot be ended".to_owned())),
                }
            }
            IntentStatus::Processing => Ok(Answer::Underway),
            IntentStatus::RequiresCapture => Err(Refusal::no_answer("the intent is not captured yet".to_owned())),
        }
    }

    async fn refund_once(&self, order: &RefundOrder) -> Result<Answer, Refusal> {
        let Some(amount) = at_stripe(order.amount) else { return Err(not_chargeable()) };
        let (key, amount) = (order.key.to_string(), amount.to_string());
        let params = [
            ("payment_intent", order.charge_ref.as_str()),
            ("amount", amount.as_str()),
            ("metadata[gocomet_key]", key.as_str()),
            ("metadata[gocomet_tenant]", order.tenant.as_str()),
        ];
        Ok(self.api.post::<Refund>("v1/refunds", &key, &params).await?.into())
    }

    /// An authorization that was not captured is not done. Stripe may have forgotten the key it was made under, so it is captured
    /// by its own name: charging again might make a second one.
    async fn find_charge(&self, order: &ChargeOrder, may_charge: bool) -> Result<Option<Answer>, Refusal> {
        let key = order.key.to_string();
        let query = format!("metadata['{KEY}']:'{key}'");
        let found = match self.api.get::<Page<Intent>>("v1/payment_intents/search", &[("query", &query)]).await {
            Ok(page) => page.data.into_iter().next(),
            // Not every account may search.
            Err(Refusal::Declined { .. }) => self.listed("v1/payment_intents", &[], Order::Charge(order)).await?,
            Err(no_answer) => return Err(no_answer),
        };
        let Some(intent) = found else { return Ok(None) };
        is_as_ordered(&intent, order.key, order.amount)?;
        match intent.status {
            IntentStatus::RequiresCapture if may_charge => self.capture(&intent.id, &key).await.map(Some),
            IntentStatus::RequiresCapture => Ok(None),
            _ => self.outcome(intent, &key).await.map(Some),
        }
    }

    async fn find_refund(&self, order: &RefundOrder) -> Result<Option<Answer>, Refusal> {
        let of_charge = [("payment_intent", order.charge_ref.as_str())];
        let found: Option<Refund> = self.listed("v1/refunds", &of_charge, Order::Refund(order)).await?;
        let Some(refund) = found else { return Ok(None) };
        is_as_ordered(&refund, order.key, order.amount)?;
        Ok(Some(refund.into()))
    }

    /// What a list says of an order: looked for among the newest, back to when its operation began, and where there is too much of
    /// that, about when it began.
    async fn listed<T: InList + serde::de::DeserializeOwned>(
        &self,
        path: &str,
        of: Params<'_>,
        order: Order<'_>,
    ) -> Result<Option<T>, Refusal> {
        let begun_at = order.begun_at().unix_timestamp() - CLOCKS_DIFFER_S;
        let key = order.key().to_string();
        match self.search::<T>(path, of, &key, begun_at).await? {
            Search::Found(found) => return Ok(Some(found)),
            Search::NotThere => return Ok(None),
            Search::TooMuch => {}
        }
        let mut from = begun_at;
        for span in SPANS_S {
            let to = begun_at + span;
            let (since, until) = (from.to_string(), to.to_string());
            let mut of = of.to_vec();
            of.extend([("created[gte]", since.as_str()), ("created[lte]", until.as_str())]);
            if let Search::Found(found) = self.search(path, &of, &key, from).await? {
                return Ok(Some(found));
            }
            from = to;
        }
        Err(Refusal::no_answer(format!("not among the last {PAGES} pages of {path}, nor of those of when it began")))
    }

    /// Reads a list, newest first and no further than to what was made before `since`.
    async fn search<T: InList + serde::de::DeserializeOwned>(
        &self,
        path: &str,
        of: Params<'_>,
        key: &str,
        since: i64,
    ) -> Result<Search<T>, Refusal> {
        let mut after: Option<String> = None;
        for _ in 0..PAGES {
            let mut params = vec![("limit", "100")];
            params.extend(of);
            params.extend(after.as_deref().map(|after| ("starting_after", after)));
            let page: Page<T> = self.api.get(path, &params as Params<'_>).await?;
            let is_last = !page.has_more || page.data.iter().all(|one| one.created() < since);
            after = page.data.last().map(|last| last.id().to_owned());
            let found = page.data.into_iter().find(|one| one.metadata().gocomet_key.as_deref() == Some(key));
            match found {
                Some(found) => return Ok(Search::Found(found)),
                None if is_last => return Ok(Search::NotThere),
                None => {}
            }
        }
        Ok(Search::TooMuch)
    }
}

impl Psp for Stripe {
    fn token(&self, given: Option<&str>) -> Result<String, PaymentError> {
        let token = given.unwrap_or_default();
        let is_name = |text: &str, prefix: &str| {
            text.strip_prefix(prefix)
                .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'))
        };
        let (customer, card) = parts(token);
        if is_name(card, "pm_") && customer.is_none_or(|customer| is_name(customer, "cus_")) {
            return Ok(token.to_owned());
        }
        let wanted = "must be a payment method of Stripe's, pm_…, or one saved for a customer, cus_…/pm_…";
        Err(PaymentError::UnusableToken(wanted.to_owned()))
    }

    fn charge<'a>(&'a self, order: &'a ChargeOrder, capture: Capture) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        Box::pin(async move { answered(self.charge_once(order, capture).await) })
    }

    fn refund<'a>(&'a self, order: &'a RefundOrder) -> BoxFuture<'a, Result<Answer, NoAnswer>> {
        Box::pin(async move { answered(self.refund_once(order).await) })
    }

    fn find<'a>(&'a self, order: Order<'a>, may_charge: bool) -> BoxFuture<'a, Result<Option<Answer>, NoAnswer>> {
        Box::pin(async move {
            let found = match order {
                Order::Charge(order) => self.find_charge(order, may_charge).await,
                Order::Refund(order) => self.find_refund(order).await,
            };
            found.map_err(unasked)
        })
    }

    fn key_of<'a>(
        &'a self,
        tenant: &'a TenantId,
        charge_ref: &'a str,
    ) -> BoxFuture<'a, Result<Option<OperationKey>, NoAnswer>> {
        Box::pin(async move {
            if !charge_ref.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                return Ok(None);
            }
            let intent = match self.api.get::<Intent>(&format!("v1/payment_intents/{charge_ref}"), &[]).await {
                Ok(intent) => intent,
                Err(Refusal::Declined { .. }) => return Ok(None),
                Err(Refusal::NoAnswer(no_answer)) => return Err(no_answer),
            };
            let is_theirs = intent.metadata.gocomet_tenant.as_deref() == Some(tenant.as_str());
            Ok(intent.metadata.gocomet_key.filter(|_| is_theirs).as_deref().and_then(OperationKey::parse))
        })
    }

    fn list<'a>(&'a self, listing: &'a Listing) -> BoxFuture<'a, Result<ListedPage, NoAnswer>> {
        Box::pin(async move { self.page(listing).await.map_err(unasked) })
    }

    fn webhook(&self, headers: &HeaderMap, body: &[u8], now: OffsetDateTime) -> Result<WebhookEvent, PaymentError> {
        #[derive(Deserialize)]
        struct Data {
            object: Value,
        }
        let event = signature::open::<Data>(&self.webhook_secrets, headers.get(SIGNATURE), body, now)?;
        let (made_at, object) = (event.made_at(), event.data.object);
        if object["object"] == "dispute" {
            let dispute: Dispute =
                serde_json::from_value(object).map_err(|error| PaymentError::MalformedEvent(error.to_string()))?;
            return Ok(WebhookEvent { id: event.id, about: None, dispute: dispute.news(made_at)? });
        }
        let about = object["metadata"][KEY].as_str().and_then(OperationKey::parse);
        Ok(WebhookEvent { id: event.id, about, dispute: None })
    }
}

impl From<Refund> for Answer {
    fn from(refund: Refund) -> Self {
        match refund.status.as_str() {
            "succeeded" => Self::Approved { provider_ref: refund.id },
            "failed" | "canceled" => {
                Self::Declined { code: refund.failure_reason.unwrap_or_else(|| "refund_failed".to_owned()) }
            }
            // Its bank takes days, or its rider has to say where to.
            _ => Self::Underway,
        }
    }
}

/// Whether what goes by our key is what was ordered: somebody may have written our metadata on something else.
fn is_as_ordered<T: InList>(found: &T, key: OperationKey, ordered: Money) -> Result<(), Refusal> {
    let (amount, currency) = found.sum();
    if at_stripe(ordered) == Some(amount) && currency.eq_ignore_ascii_case(ordered.currency.code()) {
        return Ok(());
    }
    tracing::error!(stripe.id = found.id(), %key, amount, currency, "what Stripe has under {key} is over another amount");
    Err(Refusal::no_answer(format!("what Stripe has under {key} is over another amount than was ordered")))
}

/// Here a refusal is of the question, and says nothing of the operation.
fn unasked(refusal: Refusal) -> NoAnswer {
    match refusal {
        Refusal::Declined { code } => NoAnswer::new(format!("Stripe does not take the question: {code}")),
        Refusal::NoAnswer(no_answer) => no_answer,
    }
}

/// A customer's saved card is named `cus_…/pm_…`.
fn parts(token: &str) -> (Option<&str>, &str) {
    token.split_once('/').map_or((None, token), |(customer, card)| (Some(customer), card))
}

fn not_chargeable() -> Refusal {
    Refusal::Declined { code: NOT_CHARGEABLE.to_owned() }
}

fn answered(result: Result<Answer, Refusal>) -> Result<Answer, NoAnswer> {
    match result {
        Ok(answer) => Ok(answer),
        Err(Refusal::Declined { code }) => Ok(Answer::Declined { code }),
        Err(Refusal::NoAnswer(no_answer)) => Err(no_answer),
    }
}
