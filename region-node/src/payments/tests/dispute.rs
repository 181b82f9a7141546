//! Disputes, as the PSP's webhooks tell of them.

use shared::fact::FactStream;
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339, macros::datetime};

use super::*;
use crate::{payments::psp::sign, testing::WEBHOOK_SECRET};

pub(super) async fn provider_ref(scene: &Scene, id: PaymentId) -> String {
    let sql = sqlx::query_scalar("SELECT provider_ref FROM payments WHERE id = $1").bind(id.0);
    sql.fetch_one(&mut *scene.conn().await).await.unwrap()
}

pub(super) async fn tell(scene: &Scene, event: &str, charge: &str, amount: &Value, status: &str) -> TestAnswer {
    tell_of(scene, event, charge, amount, status, datetime!(2026-03-01 12:00 UTC)).await
}

async fn tell_of(
    scene: &Scene,
    event: &str,
    charge: &str,
    amount: &Value,
    status: &str,
    opened_at: OffsetDateTime,
) -> TestAnswer {
    let opened_at = opened_at.format(&Rfc3339).unwrap();
    let dispute = json!({"id": "dp_1", "charge": charge, "amount": amount, "status": status, "opened_at": opened_at});
    tell_about(scene, event, dispute).await
}

async fn tell_about(scene: &Scene, event: &str, dispute: Value) -> TestAnswer {
    send(scene, json!({"id": event, "type": "charge.dispute.updated", "data": {"dispute": dispute}})).await
}

async fn send(scene: &Scene, event: Value) -> TestAnswer {
    let signature = sign(WEBHOOK_SECRET.as_bytes(), event.to_string().as_bytes(), scene.region.clock.now());
    let headers = [("sandbox-signature", signature.as_str())];
    let path = "/v1/psp/webhooks/sandbox";
    scene.region.nobody().call(axum::http::Method::POST, path, Some(event), &headers).await
}

/// What each account the dispute touches has, of postings that are no settlement.
async fn adjusted(scene: &Scene) -> [i64; 3] {
    let mut conn = scene.conn().await;
    let mut sums = [0; 3];
    for (sum, account) in sums.iter_mut().zip(["psp:sandbox", "tenant:disputes", "tenant:revenue"]) {
        let sql =
            "SELECT coalesce(sum(amount), 0)::bigint FROM ledger_postings p JOIN ledger_entries e ON e.id = p.entry_id
            WHERE e.kind = 'adjustment' AND p.account = $1";
        *sum = sqlx::query_scalar(sql).bind(account).fetch_one(&mut *conn).await.unwrap();
    }
    sums
}

/// The amounts of the adjustments other regions are told of, in the order they were made.
async fn told(scene: &Scene) -> Vec<i64> {
    let sql = "SELECT (convert_from(body, 'UTF8')::jsonb ->> 'amount')::bigint FROM repl_outbox
        WHERE stream = $1 AND kind = 'adjustment' ORDER BY position";
    let sql = sqlx::query_scalar(sql).bind(FactStream::Ledger.as_str());
    sql.fetch_all(&mut *scene.conn().await).await.unwrap()
}

fn usd(amount: i64) -> Value {
    json!({"amount": amount, "currency": "USD"})
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_dispute_takes_the_money_from_the_psp_and_brings_it_back_when_it_is_won(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let charge = provider_ref(&scene, id).await;
    tell(&scene, "evt_1", &charge, &usd(500), "open").await.ok(200);
    assert_eq!(adjusted(&scene).await, [500, -500, 0]);
    assert_eq!(scene.payment(id).await["dispute"], json!({"status": "open", "amount": usd(500)}));
    tell(&scene, "evt_2", &charge, &usd(500), "won").await.ok(200);
    assert_eq!(adjusted(&scene).await, [0, 0, 0]);
    assert_eq!(scene.payment(id).await["dispute"]["status"], "won");
    assert_eq!(told(&scene).await, [-500, 500]);
    let trip = scene.payment(id).await["trip_id"].as_str().unwrap().to_owned();
    let receipt = scene.receipt(trip.parse::<Uuid>().unwrap().into()).await;
    assert_eq!(receipt["payment"]["dispute"], json!({"status": "won", "amount": usd(500)}));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_receipt_shows_every_payment_of_its_trip_with_all_that_was_given_back_or_disputed(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let declined = id_of(&scene.pay(trip, "tok_declined").await.ok(201));
    let fare = id_of(&scene.pay(trip, "tok_visa").await.ok(201));
    let refund = json!({"amount": 100, "reason": "sorry", "to": "wallet"});
    scene.admin.post(&format!("/v1/payments/{fare}/refunds"), refund).await.ok(201);
    let gift = json!({"amount": 250, "method": {"type": "card", "token": "tok_visa"}});
    let tip = id_of(&scene.rider.post(&format!("/v1/trips/{trip}/tip"), gift).await.ok(201));
    for (n, (payment, amount, status)) in
        [(fare, 300, "won"), (fare, 200, "open"), (tip, 50, "lost")].into_iter().enumerate()
    {
        let charge = provider_ref(&scene, payment).await;
        let dispute = json!({"id": format!("dp_{n}"), "charge": charge, "amount": usd(amount), "status": status,
                             "opened_at": format!("2026-03-01T12:00:0{n}Z")});
        tell_about(&scene, &format!("evt_{n}"), dispute).await.ok(200);
    }

    let receipt = scene.receipt(trip).await;
    let shown = |part: &Value| (part["kind"].clone(), part["status"].clone(), part["amount"].clone());
    let parts = receipt["payments"].as_array().unwrap();
    assert_eq!(
        parts.iter().map(|part| part["id"].clone()).collect::<Vec<_>>(),
        [json!(declined), json!(fare), json!(tip)]
    );
    assert_eq!(shown(&parts[0]), (json!("fare"), json!("failed"), usd(FARE)));
    assert_eq!(shown(&parts[1]), (json!("fare"), json!("partially_refunded"), usd(FARE)));
    assert_eq!(parts[1]["refunds"], json!([{"status": "settled", "amount": usd(100), "to": "wallet"}]));
    let disputes = json!([{"status": "won", "amount": usd(300)}, {"status": "open", "amount": usd(200)}]);
    assert_eq!(parts[1]["disputes"], disputes);
    assert_eq!(shown(&parts[2]), (json!("tip"), json!("settled"), usd(250)));
    assert_eq!(parts[2]["disputes"], json!([{"status": "lost", "amount": usd(50)}]));
    assert_eq!(receipt["payment"]["dispute"], disputes[1], "the latest, as before");

    let html = [("accept", "text/html")];
    let page = scene.rider.call(axum::http::Method::GET, &format!("/v1/trips/{trip}/receipt"), None, &html).await;
    let page = String::from_utf8(page.bytes).unwrap();
    for told in [
        "<dt>Payment</dt><dd>11.00 USD by card, partially refunded, 1.00 USD refunded to the wallet, 3.00 USD disputed in vain, \
         2.00 USD disputed</dd>",
        "<dt>Tip</dt><dd>2.50 USD by card, settled, 0.50 USD taken back by the bank</dd>",
    ] {
        assert!(page.contains(told), "{page}");
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_lost_dispute_is_borne_by_the_tenant(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let charge = provider_ref(&scene, id).await;
    tell(&scene, "evt_1", &charge, &usd(FARE), "open").await.ok(200);
    tell(&scene, "evt_2", &charge, &usd(FARE), "lost").await.ok(200);
    assert_eq!(adjusted(&scene).await, [FARE, 0, -FARE]);
    assert_eq!(scene.payment(id).await["dispute"]["status"], "lost");
    assert_eq!(told(&scene).await, [-FARE, 0], "it left when the dispute was opened");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_a_dispute_s_decision_brings_is_of_the_day_it_was_decided_also_when_it_is_told_anew(pool: PgPool) {
    const OPENED_AT: &str = "2026-03-01T12:00:00Z";
    const DECIDED_AT: OffsetDateTime = datetime!(2026-04-20 9:00 UTC);
    let scene = Scene::new(pool).await;
    let charge = provider_ref(&scene, scene.paid("tok_visa").await).await;
    let decided = async |event: &str, at: OffsetDateTime| {
        let dispute =
            json!({"id": "dp_1", "charge": charge, "amount": usd(500), "status": "won", "opened_at": OPENED_AT});
        let made_at = at.unix_timestamp();
        let event =
            json!({"id": event, "type": "charge.dispute.closed", "created": made_at, "data": {"dispute": dispute}});
        send(&scene, event).await.ok(200);
    };
    tell(&scene, "evt_1", &charge, &usd(500), "open").await.ok(200);
    scene.region.clock.advance(Duration::HOUR);
    decided("evt_2", DECIDED_AT).await;
    let told = adjustments(&scene).await;
    let dates: Vec<&Value> = told.iter().map(|fact| &fact["settled_at"]).collect();
    assert_eq!(dates, [OPENED_AT, "2026-04-20T09:00:00Z"]);

    // An old backup is put back, and what came since is sent again; what other regions know, they have told by then or not.
    scene.forgets(DECISIONS).await;
    decided("evt_2", DECIDED_AT).await;
    assert_eq!(adjustments(&scene).await, [told.clone(), told.clone()].concat());
    let facts = "INSERT INTO ledger_facts (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region,
                     origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash)
                 SELECT (f->>'fact_id')::uuid, (f->>'payment_id')::uuid, (f->>'trip_id')::uuid, f->>'tenant', 'adjustment',
                     (f->>'amount')::bigint, f->>'currency', 'us-east', 1, row_number() OVER (), 1, 0,
                     (f->>'settled_at')::timestamptz, decode(repeat('00', 32), 'hex')
                 FROM (SELECT DISTINCT convert_from(body, 'UTF8')::jsonb AS f FROM repl_outbox WHERE kind = 'adjustment') told";
    sqlx::query(facts).execute(&mut *scene.conn().await).await.unwrap();
    scene.forgets(DECISIONS).await;
    decided("evt_3", DECIDED_AT + Duration::HOUR).await;
    assert_eq!(
        adjustments(&scene).await,
        [told.clone(), told.clone(), told].concat(),
        "another event of the same decision"
    );
    assert_eq!(adjusted(&scene).await, [0, 0, 0]);
}

/// The facts of adjustments, in the order they were told.
async fn adjustments(scene: &Scene) -> Vec<Value> {
    let sql = "SELECT convert_from(body, 'UTF8')::jsonb FROM repl_outbox WHERE kind = 'adjustment' ORDER BY position";
    sqlx::query_scalar(sql).fetch_all(&mut *scene.conn().await).await.unwrap()
}

/// What an old backup does not have yet, of disputes.
const DECISIONS: &str = "DELETE FROM disputes; DELETE FROM psp_webhook_events;
    DELETE FROM ledger_postings WHERE entry_id IN (SELECT id FROM ledger_entries WHERE kind = 'adjustment');
    DELETE FROM ledger_entries WHERE kind = 'adjustment'";

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn webhooks_of_a_dispute_that_come_doubled_and_in_the_wrong_order_book_it_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let charge = provider_ref(&scene, id).await;
    for event in ["evt_1", "evt_1", "evt_2"] {
        tell(&scene, event, &charge, &usd(500), "lost").await.ok(200);
        assert_eq!(adjusted(&scene).await, [500, 0, -500], "what was never told to be open is opened with it");
    }
    for (event, status) in [("evt_3", "open"), ("evt_4", "won")] {
        tell(&scene, event, &charge, &usd(500), status).await.ok(200);
        assert_eq!(adjusted(&scene).await, [500, 0, -500], "what is decided stays");
    }
    assert_eq!(told(&scene).await, [-500, 0]);
    assert_eq!(scene.number("SELECT count(*) FROM disputes").await, 1);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_dispute_about_a_foreign_charge_or_in_another_currency_books_nothing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let charge = provider_ref(&scene, scene.paid("tok_visa").await).await;
    tell(&scene, "evt_1", "ch_of_somebody_else", &usd(500), "open").await.ok(200);
    for bad in [json!({"amount": 500, "currency": "EUR"}), usd(0), usd(-5)] {
        assert_eq!(tell(&scene, "evt_2", &charge, &bad, "open").await.problem(400).code, "malformed_json");
    }
    assert_eq!(scene.number("SELECT count(*) FROM disputes").await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM psp_webhook_events").await, 1, "what is refused may come again");
    scene.assert_books_agree().await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_the_bank_holds_or_has_taken_is_not_given_back_once_more(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let charge = provider_ref(&scene, id).await;
    let path = format!("/v1/payments/{id}/refunds");
    let refund = async |body: Value| scene.admin.post(&path, body).await;
    tell(&scene, "evt_1", &charge, &usd(800), "open").await.ok(200);
    for (event, status) in [("evt_1", "open"), ("evt_2", "lost")] {
        tell(&scene, event, &charge, &usd(800), status).await.ok(200);
        for to in ["source", "wallet"] {
            let refused = refund(json!({"amount": 301, "reason": "sorry", "to": to})).await;
            assert_eq!(refused.problem(409).code, "payment_disputed", "{status}, to {to}");
        }
    }
    let too_much = refund(json!({"amount": FARE + 1, "reason": "sorry"})).await;
    assert_eq!(too_much.problem(422).code, "amount_exceeds_payment");
    let rest = refund(json!({"reason": "what is left"})).await.ok(201);
    assert_eq!(rest["amount"], usd(300), "what is not disputed can be given back");
    assert_eq!(refund(json!({"reason": "all"})).await.problem(409).code, "payment_disputed");
    assert_eq!(scene.number("SELECT count(*) FROM refunds").await, 1);

    let won = scene.paid("tok_visa").await;
    let charge = provider_ref(&scene, won).await;
    tell(&scene, "evt_3", &charge, &usd(FARE), "won").await.ok(200);
    let refund = scene.admin.post(&format!("/v1/payments/{won}/refunds"), json!({"reason": "sorry"})).await.ok(201);
    assert_eq!(refund["amount"], usd(FARE), "the bank has given it back to the company");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_dispute_about_a_charge_whose_answer_was_lost_is_refused_until_the_charge_is_known(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = id_of(&scene.pay(scene.trip().await, "tok_timeout").await.ok(201));
    let sql = sqlx::query_scalar("SELECT provider_ref FROM sandbox_psp_operations WHERE idempotency_key = $1");
    let charge: String =
        sql.bind(OperationKey::Payment(id).to_string()).fetch_one(&mut *scene.conn().await).await.unwrap();
    let refused = tell(&scene, "evt_1", &charge, &usd(500), "open").await;
    assert_eq!(refused.headers["retry-after"], "60");
    assert_eq!(refused.problem(503).code, "unavailable");
    assert_eq!(scene.number("SELECT count(*) FROM psp_webhook_events").await, 0, "it is to come again");
    assert_eq!(resume::run_due(&scene.region.app).await.unwrap(), 1, "and the PSP is asked at once");
    tell(&scene, "evt_1", &charge, &usd(500), "open").await.ok(200);
    assert_eq!(adjusted(&scene).await, [500, -500, 0]);
    assert_eq!(scene.payment(id).await["dispute"]["status"], "open");

    // What is no operation of ours is nobody's business here.
    scene.forgets(GONE).await;
    let sql = "UPDATE sandbox_psp_operations SET idempotency_key = 'by-hand'";
    sqlx::query(sql).execute(&mut *scene.conn().await).await.unwrap();
    tell(&scene, "evt_2", &charge, &usd(500), "lost").await.ok(200);
    assert_eq!(attention::waiting(&scene, "disputes").await, Vec::<Value>::new());
}

/// What an old backup does not have yet.
const GONE: &str = "DELETE FROM disputes; DELETE FROM ledger_postings; DELETE FROM ledger_entries; DELETE FROM wallets; DELETE FROM payments";

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_dispute_whose_payment_is_gone_for_good_is_taken_and_waits_for_somebody_of_the_back_office(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let charge = provider_ref(&scene, id).await;
    scene.forgets(GONE).await;
    tell(&scene, "evt_1", &charge, &usd(500), "open").await.ok(200);
    for bad in [usd(0), usd(-5)] {
        assert_eq!(tell(&scene, "evt_2", &charge, &bad, "lost").await.problem(400).code, "malformed_json");
    }
    let listed = attention::waiting(&scene, "disputes").await;
    let [stray] = listed.as_slice() else { panic!("{listed:?}") };
    let expected = json!({"id": stray["id"], "payment_id": id, "provider": "sandbox", "provider_ref": "dp_1", "charge_ref": charge,
        "status": "open", "amount": usd(500), "opened_at": "2026-03-01T12:00:00Z", "told_at": stray["told_at"]});
    assert_eq!(*stray, expected);
    assert_eq!(adjusted(&scene).await, [0, 0, 0], "nothing is booked about a payment nobody has");

    let attend = format!("/v1/disputes/{}/attend", stray["id"].as_str().unwrap());
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.get("/v1/disputes?attention=true").await.problem(403).code, "forbidden");
        assert_eq!(user.post(&attend, json!({})).await.problem(403).code, "forbidden");
    }
    let attended = scene.admin.post_keyed(&attend, "a", json!({})).await.ok(200);
    assert!(attended["attended"]["by"].as_str().unwrap().starts_with("tenant_admin:"), "{attended}");
    assert_eq!(scene.admin.post_keyed(&attend, "a", json!({})).await.ok(200), attended);
    assert_eq!(scene.admin.post(&attend, json!({})).await.problem(409).code, "invalid_transition");
    let unknown = format!("/v1/disputes/{}/attend", Uuid::now_v7());
    assert_eq!(scene.admin.post(&unknown, json!({})).await.problem(404).code, "not_found");

    // Doubled and late news bring nothing back; how it was decided does, once.
    for (event, status) in [("evt_1", "open"), ("evt_3", "open")] {
        tell(&scene, event, &charge, &usd(500), status).await.ok(200);
        assert_eq!(attention::waiting(&scene, "disputes").await, Vec::<Value>::new());
    }
    for (event, status) in [("evt_4", "lost"), ("evt_5", "lost"), ("evt_6", "won"), ("evt_7", "open")] {
        tell(&scene, event, &charge, &usd(500), status).await.ok(200);
        let listed = attention::waiting(&scene, "disputes").await;
        assert_eq!((listed.len(), &listed[0]["id"], &listed[0]["status"]), (1, &stray["id"], &json!("lost")));
    }
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_dispute_whose_payment_may_come_back_is_refused_while_it_is_young_or_the_region_in_doubt(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let charge = provider_ref(&scene, scene.paid("tok_visa").await).await;
    scene.forgets(GONE).await;
    let refused = async |event: &str, opened_at: OffsetDateTime| {
        let answer = tell_of(&scene, event, &charge, &usd(500), "open", opened_at).await;
        assert_eq!(answer.headers["retry-after"], "60");
        assert_eq!(answer.problem(503).code, "unavailable");
        assert_eq!(scene.number("SELECT count(*) FROM psp_webhook_events").await, 0, "it is to come again");
    };
    let opened_at = scene.region.clock.now() - Duration::minutes(59);
    refused("evt_1", opened_at).await;
    scene.region.clock.advance(Duration::minutes(2));
    let doubt =
        "DELETE FROM repl_self; INSERT INTO repl_self (cluster_id, region, incarnation) VALUES ('test', 'us-east', 1)";
    scene.replication(doubt).await;
    refused("evt_1", opened_at).await;
    scene.replication("UPDATE repl_self SET database = repl_database()").await;
    tell_of(&scene, "evt_1", &charge, &usd(500), "open", opened_at).await.ok(200);
    assert_eq!(attention::waiting(&scene, "disputes").await.len(), 1);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_dispute_about_another_charge_than_the_one_a_payment_was_settled_with_waits_for_somebody(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let charge = provider_ref(&scene, id).await;
    let other = "UPDATE payments SET provider_ref = 'ch_other'";
    sqlx::query(other).execute(&mut *scene.conn().await).await.unwrap();
    tell(&scene, "evt_1", &charge, &usd(500), "open").await.ok(200);
    let listed = attention::waiting(&scene, "disputes").await;
    assert_eq!((listed.len(), &listed[0]["payment_id"]), (1, &json!(id)));
    assert_eq!(scene.number("SELECT count(*) FROM disputes").await, 0);
}
