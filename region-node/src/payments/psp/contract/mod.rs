//! What every adapter must do, whatever it adapts to. The sandbox does all of it; Stripe is tried against localstripe, which
//! others wrote, less the two things that cannot show ([`Shows`]). That its lists are of a time is the stand-in's doing
//! (`stand_in.py`); their pages and what stands in them are localstripe's.

mod scripted;
mod stand_in;

use axum::http::HeaderMap;
use shared::{
    clock::Clock,
    ids::{PaymentId, RefundId, TenantId},
    money::Money,
    tenant_config::Capture,
};
use sqlx::PgPool;
use time::OffsetDateTime;

use super::{
    ChargeOrder, Listed, ListedKind, ListedState, Listing, OperationKey, Order, Psp, RefundOrder, WebhookEvent, sign,
};
use crate::{
    payments::{Answer, PaymentError},
    testing::{TestRegion, WEBHOOK_SECRET},
};
use stand_in::StandIn;

/// What the other side is able to show.
#[derive(PartialEq, Eq)]
enum Shows {
    Everything,
    /// localstripe ignores `Idempotency-Key` and gives back more than it took.
    NeitherRepeatsNorOverRefunds,
}

/// Cards of the other side.
struct Cards {
    good: &'static str,
    declined: &'static str,
}

fn order(token: &str, amount: i64) -> ChargeOrder {
    let tenant: TenantId = "cabs".parse().unwrap();
    let key = OperationKey::Payment(PaymentId::new());
    ChargeOrder { tenant, key, token: token.to_owned(), amount: usd(amount), begun_at: Clock::system().now() }
}

fn usd(amount: i64) -> Money {
    Money::new(amount, "USD".parse().unwrap())
}

fn approved(answer: &Answer) -> &str {
    match answer {
        Answer::Approved { provider_ref } => provider_ref,
        Answer::Declined { .. } | Answer::Underway => panic!("{answer:?}"),
    }
}

async fn keeps_the_contract(psp: &dyn Psp, cards: &Cards, shows: &Shows) {
    // A charge is made once, and found when its answer is lost.
    for capture in [Capture::Automatic, Capture::Manual] {
        let charge = order(cards.good, 1_100);
        assert_eq!(psp.find(Order::Charge(&charge), true).await, Ok(None), "not asked for yet");
        let first = psp.charge(&charge, capture).await.unwrap();
        assert!(!approved(&first).is_empty());
        assert_eq!(psp.find(Order::Charge(&charge), true).await, Ok(Some(first.clone())), "{capture:?}");
        if *shows == Shows::Everything {
            assert_eq!(psp.charge(&charge, capture).await, Ok(first));
            let other = ChargeOrder { amount: usd(1_101), ..charge };
            assert!(psp.charge(&other, capture).await.is_err(), "a key stands for one order");
            assert!(psp.find(Order::Charge(&other), true).await.is_err(), "and is not found for another");
        }
    }

    // A decline is an answer, found like any other.
    let refused = order(cards.declined, 1_100);
    let decline = Answer::Declined { code: "card_declined".to_owned() };
    assert_eq!(psp.charge(&refused, Capture::Automatic).await, Ok(decline.clone()));
    assert_eq!(psp.find(Order::Charge(&refused), true).await, Ok(Some(decline)));

    // A charge tells whose it is.
    let charge = order(cards.good, 900);
    let charge_ref = approved(&psp.charge(&charge, Capture::Automatic).await.unwrap()).to_owned();
    assert_eq!(psp.key_of(&charge.tenant, &charge_ref).await, Ok(Some(charge.key)));
    assert_eq!(psp.key_of(&"porto-taxis".parse().unwrap(), &charge_ref).await, Ok(None), "another company's");

    // Refunds: one in parts up to the whole, one at once.
    for (parts, over) in [(&[300, 300, 500][..], 1), (&[1_100][..], 100)] {
        let charge = order(cards.good, 1_100);
        let charge_ref = approved(&psp.charge(&charge, Capture::Automatic).await.unwrap()).to_owned();
        let refund = |amount| RefundOrder {
            tenant: charge.tenant.clone(),
            key: OperationKey::Refund(RefundId::new()),
            charge_ref: charge_ref.clone(),
            amount: usd(amount),
            begun_at: charge.begun_at,
        };
        for part in parts {
            let refund = refund(*part);
            assert_eq!(psp.find(Order::Refund(&refund), true).await, Ok(None));
            let first = psp.refund(&refund).await.unwrap();
            assert!(!approved(&first).is_empty());
            assert_eq!(psp.find(Order::Refund(&refund), true).await, Ok(Some(first.clone())));
            if *shows == Shows::Everything {
                assert_eq!(psp.refund(&refund).await, Ok(first));
            }
        }
        if *shows == Shows::Everything {
            let refused = psp.refund(&refund(over)).await;
            assert!(matches!(refused, Ok(Answer::Declined { .. })), "{refused:?}");
        }
    }
}

/// Charges and refunds are listed once each, page by page, with what they are over and how they stand.
async fn lists_what_it_did(psp: &dyn Psp, cards: &Cards) {
    let begun = Clock::system().now() - time::Duration::minutes(1);
    let (mut charges, mut refunds) = (Vec::new(), Vec::new());
    for i in 0..130 {
        let charge = order(if i == 7 { cards.declined } else { cards.good }, 1_000 + i);
        let answer = psp.charge(&charge, Capture::Automatic).await.unwrap();
        if let Answer::Approved { provider_ref } = &answer {
            let (key, tenant) = (OperationKey::Refund(RefundId::new()), charge.tenant.clone());
            let (charge_ref, begun_at) = (provider_ref.clone(), charge.begun_at);
            let refund = RefundOrder { tenant, key, charge_ref, amount: usd(1 + i), begun_at };
            psp.refund(&refund).await.unwrap();
            refunds.push((Some(key), 1 + i, ListedState::Succeeded, Some(provider_ref.clone())));
        }
        let state = if i == 7 { ListedState::Failed } else { ListedState::Succeeded };
        charges.push((Some(charge.key), 1_000 + i, state, None));
    }
    for (kind, mut expected) in [(ListedKind::Charges, charges), (ListedKind::Refunds, refunds)] {
        let (tenant, to) = ("cabs".parse().unwrap(), Clock::system().now() + time::Duration::minutes(1));
        let mut listing = Listing { tenant, kind, from: begun, to, after: None };
        let mut listed = Vec::new();
        loop {
            let page = psp.list(&listing).await.unwrap();
            assert!(page.operations.len() <= 100);
            listed.extend(page.operations);
            listing.after = page.next;
            if listing.after.is_none() {
                break;
            }
        }
        let mut listed: Vec<_> =
            listed.into_iter().map(|one: Listed| (one.key, one.amount, one.state, one.charge_ref)).collect();
        listed.sort_by_key(|one| one.1);
        expected.sort_by_key(|one| one.1);
        assert_eq!(listed, expected);
        let earlier = Listing { from: begun - time::Duration::hours(2), to: begun, ..listing };
        assert_eq!(psp.list(&earlier).await.unwrap().operations, []);
    }
}

/// A webhook in the other side's form, and how it is signed.
struct Webhook<'a> {
    header: &'static str,
    secret: &'a str,
    body: &'a [u8],
}

fn webhooks_are_the_psp_s_own_and_recent(psp: &dyn Psp, webhook: &Webhook<'_>, expected: &WebhookEvent) {
    let now = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
    let receive = |signature: Option<String>, body: &[u8]| {
        let headers = signature.map(|text| (webhook.header.parse().unwrap(), text.parse().unwrap()));
        psp.webhook(&headers.into_iter().collect::<HeaderMap>(), body, now)
    };
    let signed = |secret: &str, at| sign(secret.as_bytes(), webhook.body, at);
    let good = signed(webhook.secret, now);
    for _ in 0..2 {
        assert_eq!(receive(Some(good.clone()), webhook.body).unwrap(), *expected, "a replay is told by its id");
    }
    let doubled = good.replace("v1=", "v1=00,v1=");
    assert_eq!(receive(Some(doubled), webhook.body).unwrap(), *expected, "signed with two secrets");
    let stale = signed(webhook.secret, now - time::Duration::minutes(6));
    let others = [None, Some(String::new()), Some(stale), Some(signed("another", now))];
    for signature in others {
        assert!(matches!(receive(signature, webhook.body), Err(PaymentError::InvalidSignature)));
    }
    assert!(matches!(receive(Some(good), b"{}"), Err(PaymentError::InvalidSignature)));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_sandbox_keeps_the_contract(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let psp = region.app.psp.get("sandbox").unwrap();
    let cards = Cards { good: "tok_visa", declined: "tok_declined" };
    lists_what_it_did(psp, &cards).await;
    keeps_the_contract(psp, &cards, &Shows::Everything).await;
    let about = OperationKey::Payment(PaymentId::new());
    let body = serde_json::json!({"id": "evt_1", "data": {"idempotency_key": about.to_string()}}).to_string();
    let webhook = Webhook { header: "sandbox-signature", secret: WEBHOOK_SECRET, body: body.as_bytes() };
    let expected = WebhookEvent { id: "evt_1".to_owned(), about: Some(about), dispute: None };
    webhooks_are_the_psp_s_own_and_recent(psp, &webhook, &expected);
}

#[tokio::test]
async fn stripe_keeps_the_contract_as_far_as_localstripe_can_show_it() {
    let Some(mut stand_in) = StandIn::start().await else { return };
    let stripe = stand_in.account();
    let cards = Cards { good: "pm_card_visa", declined: "pm_card_chargeCustomerFail" };
    lists_what_it_did(&stripe, &cards).await;
    keeps_the_contract(&stripe, &cards, &Shows::NeitherRepeatsNorOverRefunds).await;

    let charge = order(cards.good, 700);
    stripe.charge(&charge, Capture::Automatic).await.unwrap();
    let (headers, body, event) = stand_in.webhook_about(&stripe, charge.key).await;
    assert_eq!(event.about, Some(charge.key), "signed by localstripe itself");
    let later = Clock::system().now() + time::Duration::minutes(6);
    assert!(matches!(stripe.webhook(&headers, &body, later), Err(PaymentError::InvalidSignature)), "stale");
    let webhook = Webhook { header: "stripe-signature", secret: stand_in::SECRET, body: &body };
    webhooks_are_the_psp_s_own_and_recent(&stripe, &webhook, &event);
}
