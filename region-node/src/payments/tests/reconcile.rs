//! What the PSP has done, compared with what stands here.

use shared::ids::RefundId;
use time::{Duration, macros::datetime};

use super::*;
use crate::payments::{
    psp::{Listed, ListedKind, ListedState},
    reconcile::{self, Phase},
};

const PATH: &str = "/v1/reconciliations";
const DECLINE: &str = "UPDATE sandbox_psp_operations SET outcome = 'declined' WHERE idempotency_key = $1";

/// Has the last day compared, settled by now, and waits for the end; the report.
pub(super) async fn reconciled(scene: &Scene) -> Value {
    scene.region.clock.advance(Duration::hours(4));
    let made = scene.admin.post(PATH, json!({})).await.ok(202);
    assert_eq!(made["status"], "running");
    while reconcile::run_due(&scene.region.app).await.unwrap() > 0 {}
    let report = scene.admin.get(&format!("{PATH}/{}", made["id"].as_str().unwrap())).await.ok(200);
    assert_eq!(report["status"], "completed", "{report}");
    assert_eq!(report["differences"], report["items"].as_array().unwrap().len(), "{report}");
    assert_eq!(scene.number("SELECT count(*) FROM reconciliation_operations").await, 0);
    report
}

/// Class, payment and refund of each difference.
fn found(report: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let items = report["items"].as_array().unwrap().iter();
    let mut found: Vec<_> =
        items.map(|item| (text(&item["class"]), text(&item["payment_id"]), text(&item["refund_id"]))).collect();
    found.sort();
    found
}

/// Changes one side's books behind the other's back.
async fn tamper(scene: &Scene, sql: &'static str, about: &str) {
    let done = sqlx::query(sql).bind(about).execute(&mut *scene.conn().await).await.unwrap();
    assert_eq!(done.rows_affected(), 1, "{sql}");
}

async fn refunded(scene: &Scene, id: PaymentId) -> RefundId {
    let refund = scene.admin.post(&format!("/v1/payments/{id}/refunds"), json!({"amount": 300, "reason": "r"})).await;
    refund.ok(201)["id"].as_str().unwrap().parse().unwrap()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn books_that_agree_have_no_differences(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    refunded(&scene, id).await;
    scene.pay(scene.trip().await, "tok_declined").await.ok(201);
    let cash = json!({"trip_id": scene.cash_trip().await, "method": {"type": "cash"}});
    scene.rider.post("/v1/payments", cash).await.ok(201);
    let report = reconciled(&scene).await;
    assert_eq!((&report["listed"], &report["differences"]), (&json!(3), &json!(0)), "{report}");
    assert_eq!(report["provider"], "sandbox");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn each_class_of_difference_is_found_and_named(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let key = |id: PaymentId| OperationKey::Payment(id).to_string();
    let mut paid = Vec::new();
    for _ in 0..9 {
        paid.push(scene.paid("tok_visa").await);
    }
    let mut refunds = Vec::new();
    for payment in &paid[4..8] {
        refunds.push(refunded(&scene, *payment).await);
    }
    let refund_key = |n: usize| OperationKey::Refund(refunds[n]).to_string();

    let (stranger, strange_refund) = (PaymentId::new(), RefundId::new());
    const COPY_CHARGE: &str =
        "INSERT INTO sandbox_psp_operations (idempotency_key, tenant_id, provider_ref, kind, token,
            amount, currency, outcome, created_at)
        SELECT $1, tenant_id, 'ch_' || $1, kind, token, amount, currency, outcome, created_at
        FROM sandbox_psp_operations WHERE kind = 'charge' AND outcome = 'succeeded' LIMIT 1";
    tamper(&scene, COPY_CHARGE, &key(stranger)).await;
    tamper(&scene, "DELETE FROM sandbox_psp_operations WHERE idempotency_key = $1", &key(paid[1])).await;
    tamper(&scene, "UPDATE sandbox_psp_operations SET amount = amount + 1 WHERE idempotency_key = $1", &key(paid[2]))
        .await;
    tamper(&scene, DECLINE, &key(paid[3])).await;

    const BY_HAND: &str =
        "INSERT INTO sandbox_psp_operations (idempotency_key, tenant_id, provider_ref, kind, charge_ref,
            token, amount, currency, outcome, created_at)
        SELECT 'by hand', tenant_id, 're_by_hand', 'refund', provider_ref, token, 100, currency, outcome, created_at
        FROM sandbox_psp_operations WHERE idempotency_key = $1";
    tamper(&scene, BY_HAND, &key(paid[0])).await;
    const COPY_REFUND: &str =
        "INSERT INTO sandbox_psp_operations (idempotency_key, tenant_id, provider_ref, kind, charge_ref,
            token, amount, currency, outcome, created_at)
        SELECT $1, tenant_id, 're_strange', kind, charge_ref, token, amount, 'EUR', outcome, created_at
        FROM sandbox_psp_operations WHERE kind = 'refund' AND idempotency_key <> 'by hand' ORDER BY created_at LIMIT 1";
    tamper(&scene, COPY_REFUND, &OperationKey::Refund(strange_refund).to_string()).await;
    tamper(&scene, "DELETE FROM sandbox_psp_operations WHERE idempotency_key = $1", &refund_key(1)).await;
    tamper(&scene, "UPDATE sandbox_psp_operations SET amount = 1 WHERE idempotency_key = $1", &refund_key(2)).await;
    tamper(&scene, DECLINE, &refund_key(3)).await;

    // Charged where the tenant was at home before: its settlement came by replication.
    let elsewhere = PaymentId::new();
    tamper(&scene, COPY_CHARGE, &key(elsewhere)).await;
    scene.replicated(Entry::id_of_settlement(elsewhere), elsewhere, TripId::new()).await;
    tamper(
        &scene,
        "UPDATE ledger_facts SET origin_region = 'eu-west' WHERE payment_id = $1::uuid",
        &elsewhere.to_string(),
    )
    .await;

    let unbook = format!(
        "ALTER TABLE ledger_postings DISABLE TRIGGER USER;
         ALTER TABLE ledger_entries DISABLE TRIGGER USER;
         DELETE FROM ledger_postings WHERE entry_id = (SELECT id FROM ledger_entries WHERE payment_id = '{0}');
         DELETE FROM ledger_entries WHERE payment_id = '{0}';
         ALTER TABLE ledger_postings ENABLE TRIGGER USER;
         ALTER TABLE ledger_entries ENABLE TRIGGER USER;",
        paid[8]
    );
    sqlx::raw_sql(sqlx::AssertSqlSafe(unbook)).execute(&mut *scene.conn().await).await.unwrap();

    let report = reconciled(&scene).await;
    let line = |class: &str, payment: Option<PaymentId>, refund: Option<RefundId>| {
        let text = |id: Option<String>| id.unwrap_or_default();
        (class.to_owned(), text(payment.map(|id| id.to_string())), text(refund.map(|id| id.to_string())))
    };
    let mut expected = vec![
        line("missing_here", None, None),
        line("missing_at_psp", Some(paid[1]), None),
        line("amount_differs", Some(paid[2]), None),
        line("status_differs", Some(paid[3]), None),
        line("refund_missing_here", Some(paid[0]), None),
        line("refund_missing_here", Some(paid[4]), None),
        line("refund_missing_at_psp", Some(paid[5]), Some(refunds[1])),
        line("refund_amount_differs", Some(paid[6]), Some(refunds[2])),
        line("refund_status_differs", Some(paid[7]), Some(refunds[3])),
        line("ledger_differs", Some(paid[8]), None),
    ];
    expected.sort();
    assert_eq!(found(&report), expected);

    // And by pages, each once.
    let path = format!("{PATH}/{}", report["id"].as_str().unwrap());
    let (mut items, mut query) = (Vec::new(), "?limit=3".to_owned());
    loop {
        let page = scene.admin.get(&format!("{path}{query}")).await.ok(200);
        items.extend(page["items"].as_array().unwrap().clone());
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        query = format!("?limit=3&cursor={cursor}");
    }
    assert_eq!(json!(items), report["items"]);
    let amount = items.iter().find(|item| item["class"] == "amount_differs").unwrap();
    assert_eq!(amount["here"], json!({"amount": FARE, "currency": "USD", "status": "settled"}));
    assert_eq!(amount["there"], json!({"amount": FARE + 1, "currency": "USD", "status": "succeeded"}));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_the_psp_has_done_twice_for_one_payment_or_refund_is_found_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (id, other) = (scene.paid("tok_visa").await, scene.paid("tok_visa").await);
    let refund = refunded(&scene, id).await;
    scene.region.clock.advance(Duration::hours(4));
    let made = scene.admin.post(PATH, json!({})).await.ok(202)["id"].as_str().unwrap().to_owned();
    // A PSP that has forgotten a key did again what it stands for, for the same amount; another attempt came to nothing.
    let did = |key, provider_ref: &str, state, amount| Listed {
        key: Some(key),
        provider_ref: provider_ref.to_owned(),
        charge_ref: None,
        amount,
        currency: "USD".to_owned(),
        state,
        created_at: scene.region.clock.now() - Duration::hours(5),
    };
    let charges = [
        did(OperationKey::Payment(id), "ch_again", ListedState::Succeeded, FARE),
        did(OperationKey::Payment(other), "ch_in_vain", ListedState::Failed, FARE),
    ];
    let refunds = [did(OperationKey::Refund(refund), "re_again", ListedState::Succeeded, 300)];
    let mut tx = scene.tx().await;
    let job = made.parse().unwrap();
    store::keep_listed(&mut tx, job, ListedKind::Charges, &charges).await.unwrap();
    store::keep_listed(&mut tx, job, ListedKind::Refunds, &refunds).await.unwrap();
    tx.commit().await.unwrap();
    while reconcile::run_due(&scene.region.app).await.unwrap() > 0 {}
    let report = scene.admin.get(&format!("{PATH}/{made}")).await.ok(200);
    let twice = |class: &str, refund: String| (class.to_owned(), id.to_string(), refund);
    let expected = [twice("charged_twice", String::new()), twice("refund_made_twice", refund.to_string())];
    assert_eq!(found(&report), expected);
    assert_eq!(report["items"][0]["there"]["status"], "succeeded");

    // And where what it was settled with is not at the PSP at all, that is said as well.
    let gone = "UPDATE sandbox_psp_operations SET provider_ref = 'ch_by_another_name' WHERE idempotency_key = $1";
    tamper(&scene, gone, &OperationKey::Payment(other).to_string()).await;
    let mut classes: Vec<_> = found(&reconciled(&scene).await).into_iter().map(|(class, ..)| class).collect();
    classes.sort();
    assert_eq!(classes, ["charged_twice", "missing_at_psp"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_dispute_of_which_no_webhook_told_is_found(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let (told, untold) = (scene.paid("tok_visa").await, scene.paid("tok_visa").await);
    let mut disputes = Vec::new();
    for (id, provider_ref) in [(told, "dp_1"), (untold, "dp_2")] {
        disputes.push(Listed {
            key: None,
            provider_ref: provider_ref.to_owned(),
            charge_ref: Some(dispute::provider_ref(&scene, id).await),
            amount: 500,
            currency: "USD".to_owned(),
            state: ListedState::Open,
            created_at: scene.region.clock.now(),
        });
    }
    let of_others =
        Listed { charge_ref: Some("ch_of_others".into()), provider_ref: "dp_3".into(), ..disputes[0].clone() };
    disputes.push(of_others);
    let amount = json!({"amount": 500, "currency": "USD"});
    dispute::tell(&scene, "evt_1", disputes[0].charge_ref.as_deref().unwrap(), &amount, "open").await.ok(200);
    scene.region.clock.advance(Duration::hours(4));
    let made = scene.admin.post(PATH, json!({})).await.ok(202)["id"].as_str().unwrap().to_owned();
    let mut tx = scene.tx().await;
    store::keep_listed(&mut tx, made.parse().unwrap(), ListedKind::Disputes, &disputes).await.unwrap();
    tx.commit().await.unwrap();
    while reconcile::run_due(&scene.region.app).await.unwrap() > 0 {}
    let report = scene.admin.get(&format!("{PATH}/{made}")).await.ok(200);
    assert_eq!(found(&report), [("dispute_missing_here".to_owned(), untold.to_string(), String::new())]);
    assert_eq!(report["items"][0]["provider_ref"], "dp_2");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn how_a_bank_has_decided_an_old_dispute_is_found_though_no_webhook_told(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let charge = dispute::provider_ref(&scene, id).await;
    let amount = json!({"amount": 500, "currency": "USD"});
    dispute::tell(&scene, "evt_1", &charge, &amount, "open").await.ok(200);
    scene.region.clock.advance(Duration::hours(4));
    let long_ago = scene.region.clock.now() - Duration::days(40);
    let mut seen = Vec::new();
    for state in [ListedState::Open, ListedState::Succeeded] {
        let made = scene.admin.post(PATH, json!({})).await.ok(202)["id"].as_str().unwrap().to_owned();
        let listed = Listed {
            key: None,
            provider_ref: "dp_1".to_owned(),
            charge_ref: Some(charge.clone()),
            amount: 500,
            currency: "USD".to_owned(),
            state,
            created_at: long_ago,
        };
        let mut tx = scene.tx().await;
        store::keep_listed(&mut tx, made.parse().unwrap(), ListedKind::Disputes, &[listed]).await.unwrap();
        tx.commit().await.unwrap();
        while reconcile::run_due(&scene.region.app).await.unwrap() > 0 {}
        let report = scene.admin.get(&format!("{PATH}/{made}")).await.ok(200);
        seen.push((found(&report), report["items"][0]["here"]["status"].clone()));
    }
    let decided = ("dispute_status_differs".to_owned(), id.to_string(), String::new());
    assert_eq!(seen, [(vec![], json!(null)), (vec![decided], json!("open"))]);
    let mut tx = scene.tx().await;
    let oldest = store::oldest_open_dispute(&mut tx, "sandbox").await.unwrap();
    assert_eq!(oldest, Some(datetime!(2026-03-01 12:00 UTC)), "disputes are listed from there");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_refund_that_a_bank_has_sent_back_weeks_later_is_found_though_no_webhook_told(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    let refund = refunded(&scene, id).await;
    let key = OperationKey::Refund(refund).to_string();
    const MADE_LONG_AGO: &str =
        "UPDATE sandbox_psp_operations SET created_at = created_at - interval '20 days' WHERE idempotency_key = $1";
    tamper(&scene, MADE_LONG_AGO, &key).await;
    const SETTLED_LONG_AGO: &str =
        "UPDATE refunds SET settled_at = settled_at - interval '20 days' WHERE id = $1::uuid";
    tamper(&scene, SETTLED_LONG_AGO, &refund.to_string()).await;
    assert_eq!(found(&reconciled(&scene).await), []);
    tamper(&scene, DECLINE, &key).await;
    let report = reconciled(&scene).await;
    assert_eq!(found(&report), [("refund_status_differs".to_owned(), id.to_string(), refund.to_string())]);
    let item = &report["items"][0];
    assert_eq!((&item["here"]["status"], &item["there"]["status"]), (&json!("settled"), &json!("failed")));

    // Its account is looked at for as long, whatever the company is charged through by then.
    let used = async |days| {
        let from = scene.region.clock.now() + Duration::days(days);
        store::accounts_used(&mut scene.tx().await, from, from + Duration::DAY).await.unwrap()
    };
    assert_eq!((used(9).await, used(11).await), (vec!["sandbox".to_owned()], vec![]));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_is_under_way_is_no_difference_until_it_should_have_ended(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = id_of(&scene.pay(scene.trip().await, "tok_timeout").await.ok(201));
    let now = scene.region.clock.now();
    let format = &time::format_description::well_known::Rfc3339;
    let (from, to) = ((now - Duration::DAY).format(format).unwrap(), now.format(format).unwrap());
    let made = scene.admin.post(PATH, json!({"from": from, "to": to})).await.ok(202);
    assert!(made["to"].as_str().unwrap() < to.as_str(), "what is young is not compared");
    while reconcile::run_due(&scene.region.app).await.unwrap() > 0 {}
    let report = scene.admin.get(&format!("{PATH}/{}", made["id"].as_str().unwrap())).await.ok(200);
    assert_eq!((&report["status"], &report["differences"]), (&json!("completed"), &json!(0)));
    // Nobody has asked about it meanwhile.
    let stuck = reconciled(&scene).await;
    assert_eq!(found(&stuck), [("status_differs".to_owned(), id.to_string(), String::new())]);
    scene.later().await;
    let report = reconciled(&scene).await;
    assert_eq!(found(&report), [], "settled at last, hours after it was charged");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn many_nodes_compare_each_day_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let id = scene.paid("tok_visa").await;
    tamper(
        &scene,
        "DELETE FROM sandbox_psp_operations WHERE idempotency_key = $1",
        &OperationKey::Payment(id).to_string(),
    )
    .await;
    scene.region.clock.advance(Duration::days(2));
    for _ in 0..2 {
        let nodes = (0..4).map(|_| reconcile::run_due(&scene.region.app));
        futures::future::join_all(nodes).await.into_iter().for_each(|done| assert!(done.is_ok(), "{done:?}"));
    }
    assert_eq!(scene.number("SELECT count(*) FROM reconciliations WHERE status = 'completed'").await, 3);
    assert_eq!(scene.number("SELECT count(DISTINCT day) FROM reconciliations").await, 3);
    assert_eq!(scene.number("SELECT count(*) FROM reconciliation_differences").await, 1, "of one of the days");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn after_a_crash_between_two_pages_another_node_goes_on_where_the_first_stopped(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.paid("tok_visa").await;
    const MANY: &str =
        "INSERT INTO sandbox_psp_operations (idempotency_key, tenant_id, provider_ref, kind, token, amount,
            currency, outcome, created_at)
        SELECT 'other-' || n, tenant_id, 'ch_' || n, kind, token, amount, currency, 'declined', created_at
        FROM sandbox_psp_operations, generate_series(1, 249) n";
    sqlx::query(MANY).execute(&mut *scene.conn().await).await.unwrap();
    scene.region.clock.advance(Duration::hours(4));
    let made = scene.admin.post(PATH, json!({})).await.ok(202);

    let (app, tenant, now) = (&scene.region.app, &scene.region.tenant, scene.region.clock.now());
    let mut tx = app.db.system().await.unwrap();
    let due = store::claim_due_reconciliations(&mut tx, "us-east", now, now + app.psp.hold(), 9).await.unwrap();
    tx.commit().await.unwrap();
    let (_, id) = due.into_iter().find(|(_, id)| made["id"] == id.to_string()).unwrap();
    let mut tx = scene.tx().await;
    let job = store::load_job(&mut tx, id).await.unwrap().unwrap();
    let page = app.psp.list("sandbox", &job.listing(tenant, ListedKind::Charges, job.list_from)).await.unwrap();
    let next = job.clone().after_page(page.next, now + app.psp.hold());
    assert_eq!(next.phase, Phase::Charges, "there are more pages");
    assert!(store::advance(&mut tx, &job, &next, page.operations.len()).await.unwrap());
    for _ in 0..2 {
        store::keep_listed(&mut tx, id, ListedKind::Charges, &page.operations).await.unwrap();
    }
    tx.commit().await.unwrap();

    scene.region.clock.advance(Duration::minutes(1));
    while reconcile::run_due(app).await.unwrap() > 0 {}
    let report = scene.admin.get(&format!("{PATH}/{id}")).await.ok(200);
    assert_eq!(
        (&report["status"], &report["listed"], &report["differences"]),
        (&json!("completed"), &json!(250), &json!(0))
    );
    let mut tx = scene.tx().await;
    assert!(!store::advance(&mut tx, &next, &next, 0).await.unwrap(), "the first comes too late");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_back_office_reconciles_its_own_accounts_within_limits(pool: PgPool) {
    let scene = Scene::new(pool).await;
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.post(PATH, json!({})).await.problem(403).code, "forbidden");
    }
    for (body, field) in [
        (json!({"provider": "monopoly"}), "provider"),
        (json!({"from": "2999-01-01T00:00:00Z"}), "from"),
        (json!({"from": "2020-01-01T00:00:00Z"}), "from"),
    ] {
        assert_eq!(scene.admin.post(PATH, body).await.problem(422).fields, [field]);
    }
    let made = scene.admin.post_keyed(PATH, "k", json!({})).await.ok(202);
    assert_eq!(scene.admin.post_keyed(PATH, "k", json!({})).await.ok(202), made);
    assert_eq!(scene.number("SELECT count(*) FROM reconciliations").await, 1);
    let path = format!("{PATH}/{}", made["id"].as_str().unwrap());
    assert_eq!(scene.rider.get(&path).await.problem(403).code, "forbidden");
    let office = scene.region.new_tenant("porto-taxis", json!({})).await;
    let other = scene.region.admin_of("porto-taxis".parse().unwrap(), &office).await;
    assert_eq!(other.get(&path).await.problem(404).code, "not_found");
    for _ in 0..9 {
        scene.admin.post(PATH, json!({})).await.ok(202);
    }
    assert_eq!(scene.admin.post(PATH, json!({})).await.problem(429).code, "rate_limited");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_psp_that_does_not_show_its_list_is_asked_again_and_said_so(pool: PgPool) {
    let settings = "[psp.stripe]\nbase_url = \"http://127.0.0.1:1\"\n[psp.stripe.accounts.acme]\nmode = \"test\"\n\
                    tenants = [\"cabs\"]\nsecret_key = \"sk_test_of_tests\"";
    let scene = Scene::with_settings(pool, settings).await;
    let made = scene.admin.post(PATH, json!({"provider": "stripe:acme"})).await.ok(202);
    assert!(reconcile::run_due(&scene.region.app).await.unwrap() > 0);
    let report = scene.admin.get(&format!("{PATH}/{}", made["id"].as_str().unwrap())).await.ok(200);
    assert_eq!(report["status"], "running");
    assert!(report["failure"].as_str().unwrap().contains("no answer"), "{report}");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_back_office_finds_every_reconciliation_and_first_those_to_look_at(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let clean = reconciled(&scene).await;
    let id = scene.paid("tok_visa").await;
    let gone = "DELETE FROM sandbox_psp_operations WHERE idempotency_key = $1";
    tamper(&scene, gone, &OperationKey::Payment(id).to_string()).await;
    let differing = reconciled(&scene).await;
    let ids = async |query: &str| {
        let page = scene.admin.get(&format!("{PATH}{query}")).await.ok(200);
        let id = |item: &Value| item["id"].clone();
        (page["items"].as_array().unwrap().iter().map(id).collect::<Vec<_>>(), page["next_cursor"].clone())
    };
    let (to_look_at, _) = ids("?attention=true").await;
    assert!(to_look_at.contains(&differing["id"]) && !to_look_at.contains(&clean["id"]));
    let (mut all, mut query) = (Vec::new(), "?limit=1".to_owned());
    loop {
        let (page, next) = ids(&query).await;
        all.extend(page);
        let Some(cursor) = next.as_str() else { break };
        query = format!("?limit=1&cursor={cursor}");
    }
    assert_eq!(all.len() as i64, scene.number("SELECT count(*) FROM reconciliations").await);
    let place = |report: &Value| all.iter().position(|id| *id == report["id"]).unwrap();
    assert!(place(&differing) < place(&clean), "the newest first");
    assert_eq!(scene.rider.get(PATH).await.problem(403).code, "forbidden");
    assert_eq!(scene.admin.get(&format!("{PATH}?cursor=x")).await.problem(422).fields, ["cursor"]);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_a_region_taken_back_to_an_old_backup_has_forgotten_of_earnings_is_found_missing(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let trip = scene.trip().await;
    let id = id_of(&scene.pay(trip, "tok_visa").await.ok(201));
    scene.replicated(Entry::id_of_settlement(id), id, trip).await;
    scene
        .forgets(
            "DELETE FROM ledger_postings; DELETE FROM ledger_entries; DELETE FROM payments; DELETE FROM repl_outbox",
        )
        .await;
    assert_eq!(
        scene.pay(trip, "tok_visa").await.problem(409).code,
        "already_paid",
        "other regions remember that it is paid"
    );
    let report = reconciled(&scene).await;
    assert_eq!(found(&report), [("missing_here".to_owned(), String::new(), String::new())]);
    let there = &report["items"][0]["there"];
    assert_eq!(
        (&there["amount"], &there["status"]),
        (&json!(FARE), &json!("succeeded")),
        "what the driver's share is of"
    );
}
