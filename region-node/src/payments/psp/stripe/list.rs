//! What an account has done, for reconciliation.
//!
//! Tenants may share an account, and an account may serve other things than this platform. Payments are told by the tenant in
//! their metadata; refunds are not told apart, since one made by hand has no metadata, nor are disputes: whose charge it is decides.

use serde::de::DeserializeOwned;
use time::OffsetDateTime;

use super::{Dispute, InList, Intent, IntentStatus, Metadata, Page, Refund, Refusal, Stripe, amount::from_stripe};
use crate::payments::psp::{Listed, ListedKind, ListedPage, ListedState, Listing, OperationKey};

impl Stripe {
    /// A page of what was done, newest first.
    pub(super) async fn page(&self, listing: &Listing) -> Result<ListedPage, Refusal> {
        let is_ours = |metadata: &Metadata, if_unsaid: bool| {
            metadata.gocomet_tenant.as_deref().map_or(if_unsaid, |tenant| tenant == listing.tenant.as_str())
        };
        match listing.kind {
            ListedKind::Charges => {
                let page = self.one_page::<Intent>("v1/payment_intents", listing).await?;
                let state = |intent: &Intent| match intent.status {
                    IntentStatus::Succeeded => ListedState::Succeeded,
                    IntentStatus::Canceled | IntentStatus::RequiresPaymentMethod => ListedState::Failed,
                    IntentStatus::RequiresCapture
                    | IntentStatus::RequiresConfirmation
                    | IntentStatus::RequiresAction
                    | IntentStatus::Processing => ListedState::Open,
                };
                Ok(listed(page, |one| is_ours(&one.metadata, false), state, |_| None))
            }
            ListedKind::Refunds => {
                let page = self.one_page::<Refund>("v1/refunds", listing).await?;
                let state = |refund: &Refund| match refund.status.as_str() {
                    "succeeded" => ListedState::Succeeded,
                    "failed" | "canceled" => ListedState::Failed,
                    _ => ListedState::Open,
                };
                Ok(listed(page, |one| is_ours(&one.metadata, true), state, |one| one.payment_intent.clone()))
            }
            ListedKind::Disputes => {
                let page = self.one_page::<Dispute>("v1/disputes", listing).await?;
                let state = |dispute: &Dispute| dispute.listed_as().unwrap_or(ListedState::Failed);
                Ok(listed(page, |one| one.listed_as().is_some(), state, |one| one.payment_intent.clone()))
            }
        }
    }

    async fn one_page<T: DeserializeOwned>(&self, path: &str, listing: &Listing) -> Result<Page<T>, Refusal> {
        // Stripe counts whole seconds: the first and the last one are asked for whole.
        let from = listing.from.unix_timestamp().to_string();
        let to = listing.to.unix_timestamp().to_string();
        let mut params = vec![("limit", "100"), ("created[gte]", from.as_str()), ("created[lte]", to.as_str())];
        params.extend(listing.after.as_deref().map(|after| ("starting_after", after)));
        self.api.get(path, &params).await
    }
}

fn listed<T: InList>(
    page: Page<T>,
    is_ours: impl Fn(&T) -> bool,
    state: impl Fn(&T) -> ListedState,
    charge_ref: impl Fn(&T) -> Option<String>,
) -> ListedPage {
    let next = page.data.last().filter(|_| page.has_more).map(|last| last.id().to_owned());
    let ours = page.data.into_iter().filter(is_ours);
    let operation = |one: T| {
        let (amount, currency) = one.sum();
        let currency = currency.to_uppercase();
        Listed {
            key: one.metadata().gocomet_key.as_deref().and_then(OperationKey::parse),
            provider_ref: one.id().to_owned(),
            charge_ref: charge_ref(&one),
            amount: from_stripe(amount, &currency),
            currency,
            state: state(&one),
            created_at: OffsetDateTime::from_unix_timestamp(one.created()).unwrap_or(OffsetDateTime::UNIX_EPOCH),
        }
    };
    ListedPage { operations: ours.map(operation).collect(), next }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use axum::{
        Json, Router,
        extract::{Path, Query},
        routing::{get, post},
    };
    use serde_json::{Value, json};
    use shared::ids::{PaymentId, RefundId};

    use super::*;
    use crate::{
        app::http_client,
        payments::{
            Answer,
            ledger::derived,
            psp::{ChargeOrder, Order, Psp, RefundOrder, StripeConfig},
        },
    };

    /// Stripe's lists as its reference describes them, over `data`, newest first; what localstripe cannot: filters by time.
    async fn stripe(intents: Vec<Value>, refunds: Vec<Value>) -> Stripe {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let list = |data: Vec<Value>| {
            get(async move |Query(query): Query<BTreeMap<String, String>>| {
                let number = |name: &str, unsaid: i64| query.get(name).map_or(unsaid, |text| text.parse().unwrap());
                let (from, to) = (number("created[gte]", i64::MIN), number("created[lte]", i64::MAX));
                let after = query.get("starting_after").cloned();
                let fits = |one: &&Value| (from..=to).contains(&one["created"].as_i64().unwrap());
                let of_charge = query.get("payment_intent").cloned();
                let is_of = |one: &&Value| of_charge.as_deref().is_none_or(|of| one["payment_intent"] == of);
                let mut rest: Vec<&Value> = data.iter().filter(fits).filter(is_of).collect();
                if let Some(after) = after {
                    let at = rest.iter().position(|one| one["id"] == after.as_str()).unwrap();
                    rest.drain(..=at);
                }
                let page: Vec<&Value> = rest.iter().copied().take(2).collect();
                Json(json!({"object": "list", "data": page, "has_more": rest.len() > 2}))
            })
        };
        // As after a day: no key is known any more, so that whoever charges again charges twice.
        let charge = || async {
            Json(json!({"id": "pi_again", "status": "succeeded", "amount": 1, "currency": "usd", "created": 1}))
        };
        let captured = json!({"status": "succeeded", "amount": 80_000, "currency": "isk", "created": 1});
        let capture = async move |Path(id): Path<String>| {
            let mut captured = captured.clone();
            captured["id"] = json!(id);
            Json(captured)
        };
        let router = Router::new()
            .route("/v1/payment_intents", list(intents).post(charge))
            .route("/v1/payment_intents/{id}/capture", post(capture))
            .route("/v1/refunds", list(refunds))
            .route("/v1/disputes", list(disputes()));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        #[expect(clippy::disallowed_methods, reason = "it serves until the test's runtime ends")]
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        let account = json!({"mode": "test", "secret_key": "sk_test_of_tests", "tenants": ["cabs"]});
        let accounts = BTreeMap::from([("acme".to_owned(), serde_json::from_value(account).unwrap())]);
        let http = http_client(std::time::Duration::from_secs(5)).unwrap();
        Stripe::accounts(&StripeConfig { base_url, accounts }, &http).unwrap().pop().unwrap().1
    }

    fn disputes() -> Vec<Value> {
        let dispute = |id: &str, status: &str, created: i64| {
            json!({"object": "dispute", "id": id, "amount": 500, "currency": "usd", "status": status, "created": created,
                "payment_intent": "pi_1", "metadata": {}})
        };
        let of_the_time = [("dp_3", "lost"), ("dp_2", "warning_needs_response"), ("dp_1", "needs_response")];
        let of_the_time = of_the_time.map(|(id, status)| dispute(id, status, 150));
        [dispute("dp_4", "won", 201)].into_iter().chain(of_the_time).collect()
    }

    fn at(second: i64) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(second).unwrap()
    }

    async fn all(stripe: &Stripe, kind: ListedKind) -> Vec<Listed> {
        let tenant = "cabs".parse().unwrap();
        let mut listing = Listing { tenant, kind, from: at(100), to: at(200), after: None };
        let mut operations = Vec::new();
        loop {
            let page = stripe.list(&listing).await.unwrap();
            operations.extend(page.operations);
            listing.after = page.next;
            if listing.after.is_none() {
                return operations;
            }
        }
    }

    fn intent(id: &str, created: i64, tenant: &str, key: Option<OperationKey>) -> Value {
        json!({"id": id, "status": "succeeded", "amount": 80_000, "currency": "isk", "created": created,
            "metadata": {"gocomet_tenant": tenant, "gocomet_key": key.map(|key| key.to_string())}})
    }

    #[tokio::test]
    async fn an_account_s_list_is_walked_to_its_end_and_holds_one_tenant_s_payments_of_the_time() {
        let key = OperationKey::Payment(PaymentId::new());
        let mut foreign = intent("pi_4", 140, "cabs", None);
        foreign["metadata"] = json!({});
        let stripe = stripe(
            vec![
                intent("pi_6", 201, "cabs", None),
                intent("pi_5", 200, "cabs", None),
                foreign,
                intent("pi_3", 130, "porto-taxis", None),
                intent("pi_2", 120, "cabs", Some(key)),
                intent("pi_1", 99, "cabs", None),
            ],
            Vec::new(),
        )
        .await;
        let listed = all(&stripe, ListedKind::Charges).await;
        assert_eq!(listed.iter().map(|one| one.provider_ref.as_str()).collect::<Vec<_>>(), ["pi_5", "pi_2"]);
        let expected = Listed {
            key: Some(key),
            provider_ref: "pi_2".to_owned(),
            charge_ref: None,
            amount: 800,
            currency: "ISK".to_owned(),
            state: ListedState::Succeeded,
            created_at: at(120),
        };
        assert_eq!(listed[1], expected, "counted as we count");
    }

    fn refund(id: &str, status: &str, key: Option<OperationKey>, amount: i64) -> Value {
        json!({"id": id, "status": status, "amount": amount, "currency": "usd", "created": 150,
            "payment_intent": "pi_1", "metadata": {"gocomet_key": key.map(|key| key.to_string())}})
    }

    #[tokio::test]
    async fn a_refund_that_waits_for_its_bank_is_under_way_and_one_over_another_amount_is_not_ours() {
        let keys: Vec<_> = (1..5).map(|n| OperationKey::Refund(RefundId(uuid::Uuid::from_u128(n)))).collect();
        let stripe = stripe(
            Vec::new(),
            vec![
                refund("re_1", "pending", Some(keys[0]), 300),
                refund("re_2", "succeeded", Some(keys[1]), 300),
                refund("re_3", "failed", Some(keys[2]), 300),
                refund("re_4", "succeeded", Some(keys[3]), 301),
                refund("re_5", "succeeded", None, 300),
            ],
        )
        .await;
        let find = async |key: OperationKey| {
            let amount = shared::money::Money::new(300, "USD".parse().unwrap());
            let (tenant, charge_ref) = ("cabs".parse().unwrap(), "pi_1".to_owned());
            let order = RefundOrder { tenant, key, charge_ref, amount, begun_at: at(150) };
            stripe.find(Order::Refund(&order), true).await
        };
        assert_eq!(find(keys[0]).await, Ok(Some(Answer::Underway)));
        assert_eq!(find(keys[1]).await, Ok(Some(Answer::Approved { provider_ref: "re_2".to_owned() })));
        assert_eq!(find(keys[2]).await, Ok(Some(Answer::Declined { code: "refund_failed".to_owned() })));
        assert!(find(keys[3]).await.is_err());
        let listed = all(&stripe, ListedKind::Refunds).await;
        let by_hand = listed.last().unwrap();
        assert_eq!((by_hand.key, by_hand.charge_ref.as_deref()), (None, Some("pi_1")), "made by hand");
        assert_eq!(listed[0].state, ListedState::Open);
    }

    fn order(key: OperationKey, begun_at: OffsetDateTime) -> ChargeOrder {
        let amount = shared::money::Money::new(800, "ISK".parse().unwrap());
        ChargeOrder { tenant: "cabs".parse().unwrap(), key, token: "pm_1".to_owned(), amount, begun_at }
    }

    #[tokio::test]
    async fn what_was_set_aside_before_a_crash_is_captured_itself_and_not_charged_anew() {
        let key = OperationKey::Payment(PaymentId::new());
        let mut set_aside = intent("pi_1", 150, "cabs", Some(key));
        set_aside["status"] = json!("requires_capture");
        let stripe = stripe(vec![set_aside], Vec::new()).await;
        let order = order(key, at(150));
        assert_eq!(stripe.find(Order::Charge(&order), false).await, Ok(None), "nobody may take it");
        let taken = Answer::Approved { provider_ref: "pi_1".to_owned() };
        assert_eq!(stripe.find(Order::Charge(&order), true).await, Ok(Some(taken)));
    }

    #[tokio::test]
    async fn a_charge_is_found_by_when_it_began_however_much_the_account_has_done_since() {
        // As a share's payment has it: an id that tells no time.
        let ordered = |hour: u32| {
            let id = derived("share", uuid::Uuid::from_u128(hour.into())).0;
            order(OperationKey::Payment(id.into()), at(1_800_000_000 + i64::from(hour) * 3_600))
        };
        let (at_once, late, never) = (ordered(0), ordered(1), ordered(2));
        let made = |id: &str, order: &ChargeOrder, after_s: i64| {
            intent(id, order.begun_at.unix_timestamp() + after_s, "cabs", Some(order.key))
        };
        let later = (0..60).map(|n| intent(&format!("pi_{n}"), 1_800_900_000 - n, "cabs", None));
        let about_then = [made("pi_late", &late, 86_400), made("pi_at_once", &at_once, 1)];
        let stripe = stripe(later.chain(about_then).collect(), Vec::new()).await;
        for (order, provider_ref) in [(at_once, "pi_at_once"), (late, "pi_late")] {
            let found = Answer::Approved { provider_ref: provider_ref.to_owned() };
            assert_eq!(stripe.find(Order::Charge(&order), true).await, Ok(Some(found)));
        }
        let unfound = stripe.find(Order::Charge(&never), true).await;
        assert!(unfound.is_err(), "it may be among those nobody has read: {unfound:?}");
    }

    #[tokio::test]
    async fn disputes_of_the_time_are_listed_with_their_charge_and_inquiries_are_none() {
        let stripe = stripe(Vec::new(), Vec::new()).await;
        let listed = all(&stripe, ListedKind::Disputes).await;
        let seen: Vec<_> =
            listed.iter().map(|one| (one.provider_ref.as_str(), one.charge_ref.as_deref(), one.state)).collect();
        let expected = [("dp_3", Some("pi_1"), ListedState::Succeeded), ("dp_1", Some("pi_1"), ListedState::Open)];
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn an_intent_over_another_amount_or_in_another_currency_does_not_answer_for_an_order() {
        let key = OperationKey::Payment(PaymentId::new());
        let stripe = stripe(vec![intent("pi_1", 150, "cabs", Some(key))], Vec::new()).await;
        for (amount, currency, is_it) in [(800, "ISK", true), (801, "ISK", false), (80_000, "USD", false)] {
            let amount = shared::money::Money::new(amount, currency.parse().unwrap());
            let order = ChargeOrder { amount, ..order(key, at(150)) };
            let found = stripe.find(Order::Charge(&order), true).await;
            assert_eq!(found.is_ok(), is_it, "{currency} {found:?}");
        }
    }
}
