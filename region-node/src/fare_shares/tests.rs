//! Shared fares over the API, to the last unit.

use futures::future::join_all;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::{
    payments,
    rides::tests::{accepted, request},
    testing::{TestAnswer, TestRegion, TestUser},
};

/// A ride under way, and riders who know each other.
struct Scene {
    region: TestRegion,
    rider: TestUser,
    friends: [TestUser; 3],
    driver: TestUser,
    admin: TestUser,
    pool: PgPool,
    /// `/v1/rides/…`
    ride: String,
    /// `/v1/trips/…`
    trip: String,
}

impl Scene {
    async fn new(pool: PgPool) -> Self {
        let region = TestRegion::new(pool.clone()).await;
        let (rider, driver, admin) = (region.rider().await, region.driver().await, region.admin().await);
        let friends = [region.rider().await, region.rider().await, region.rider().await];
        let (ride, trip) = accepted(&region, &rider, &driver).await;
        let ride = format!("/v1/rides/{}", ride["id"].as_str().unwrap());
        for step in ["arrive", "start"] {
            driver.post(&format!("{trip}/{step}"), json!({})).await.ok(200);
        }
        Self { region, rider, friends, driver, admin, pool, ride, trip }
    }

    async fn invite(&self, friend: &TestUser, amount: Option<i64>) -> TestAnswer {
        let body = match amount {
            Some(amount) => json!({"phone": friend.phone, "amount": amount}),
            None => json!({"phone": friend.phone}),
        };
        self.rider.post(&format!("{}/shares", self.ride), body).await
    }

    /// The path of a share that was asked for and accepted.
    async fn shared(&self, friend: &TestUser, amount: Option<i64>, token: &str) -> String {
        let share = path(&self.invite(friend, amount).await.ok(201));
        accept(friend, &share, token).await.ok(200);
        share
    }

    async fn end(&self) -> Value {
        self.driver.post(&format!("{}/end", self.trip), json!({})).await.ok(200)
    }

    async fn pay(&self, share: Option<&str>) -> TestAnswer {
        let trip = self.trip.rsplit('/').next().unwrap();
        let share = share.map(|path| path.rsplit('/').next().unwrap());
        let method = json!({"type": "card", "token": "tok_visa"});
        let body = match share {
            Some(share) => json!({"trip_id": trip, "share_id": share, "method": method}),
            None => json!({"trip_id": trip, "method": method}),
        };
        self.rider.post("/v1/payments", body).await
    }

    /// Charges what is due until nothing is.
    async fn charge(&self) {
        while payments::run_due(&self.region.app).await.unwrap() > 0 {}
    }

    async fn shares(&self) -> Vec<Value> {
        items(&self.rider.get(&format!("{}/shares", self.ride)).await.ok(200))
    }

    async fn number(&self, sql: &'static str) -> i64 {
        let mut conn = self.pool.acquire().await.unwrap();
        let tenant = sqlx::query("SELECT set_config('app.tenant_id', $1, false)").bind(self.region.tenant.as_str());
        tenant.execute(&mut *conn).await.unwrap();
        sqlx::query_scalar(sql).fetch_one(&mut *conn).await.unwrap()
    }

    /// The fare was paid once, whole, by whoever: to the PSP, in the ledger and to the driver, tenant and tax office.
    async fn assert_paid(&self, fare: i64) {
        let settled = "SELECT coalesce(sum(amount), 0)::bigint FROM payments WHERE status = 'settled'";
        let charged = "SELECT coalesce(sum(amount), 0)::bigint FROM sandbox_psp_operations WHERE outcome = 'succeeded'";
        let booked = "SELECT coalesce(-sum(amount), 0)::bigint FROM ledger_postings WHERE account LIKE 'psp:%'";
        for sql in [settled, charged, booked] {
            assert_eq!(self.number(sql).await, fare, "{sql}");
        }
        assert_eq!(self.number("SELECT sum(amount)::bigint FROM ledger_postings").await, 0);
        // As if one rider had paid it all.
        let trip = self.rider.get(&self.trip).await.ok(200);
        let lines = trip["fare"]["lines"].as_array().unwrap().iter();
        let tax: i64 =
            lines.filter(|line| line["code"] == "tax").map(|line| line["amount"]["amount"].as_i64().unwrap()).sum();
        let taxes = "SELECT coalesce(sum(amount), 0)::bigint FROM ledger_postings WHERE account = 'tenant:tax'";
        assert_eq!(self.number(taxes).await, tax);
    }
}

fn path(share: &Value) -> String {
    format!("/v1/shares/{}", share["id"].as_str().unwrap())
}

fn items(page: &Value) -> Vec<Value> {
    page["items"].as_array().unwrap().clone()
}

fn amount(of: &Value) -> i64 {
    of["amount"].as_i64().unwrap()
}

async fn accept(friend: &TestUser, share: &str, token: &str) -> TestAnswer {
    friend.post(&format!("{share}/accept"), json!({"method": {"type": "card", "token": token}})).await
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_fare_is_shared_in_equal_parts_and_the_rest_is_the_ride_s_rider_s(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let [ada, bob, eve] = &scene.friends;
    let quoted = amount(&scene.rider.get(&scene.ride).await.ok(200)["fare"]);
    let share = scene.invite(ada, None).await.ok(201);
    assert_eq!(
        (&share["status"], &share["rider"], &share["invited_by"]),
        (&json!("invited"), &json!("Test"), &json!("Test"))
    );
    assert_eq!(amount(&share["amount"]), quoted / 2, "what it comes to as far as is known");
    scene.shared(bob, None, "tok_visa").await;
    scene.invite(eve, None).await.ok(201);
    let asked = items(&ada.get("/v1/shares").await.ok(200));
    assert_eq!((asked.len(), &asked[0]["id"]), (1, &share["id"]));
    assert_eq!(amount(&asked[0]["amount"]), quoted / 4);
    accept(ada, &path(&share), "tok_visa").await.ok(200);

    // Eve has not answered.
    let trip = scene.end().await;
    let (fare, shared) = (amount(&trip["fare"]["total"]), amount(&trip["shared"]));
    assert_eq!(shared, fare / 3 * 2);
    let statuses: Vec<_> = scene.shares().await.iter().map(|share| share["status"].clone()).collect();
    assert_eq!(statuses, ["fixed", "fixed", "lapsed"]);
    scene.charge().await;
    let own = scene.pay(None).await.ok(201);
    assert_eq!((amount(&own["amount"]), own.get("share_id")), (fare - shared, None));
    assert_eq!(scene.pay(None).await.problem(409).code, "already_paid");
    scene.assert_paid(fare).await;
    assert_eq!(scene.rider.get(&scene.trip).await.ok(200)["payment_id"], own["id"]);

    let paid = &items(&bob.get("/v1/shares").await.ok(200))[0];
    assert_eq!((&paid["payment"]["status"], amount(&paid["amount"])), (&json!("settled"), fare / 3));
    let payment = bob.get(&format!("/v1/payments/{}", paid["payment"]["id"].as_str().unwrap())).await.ok(200);
    assert_eq!((&payment["share_id"], amount(&payment["amount"])), (&paid["id"], fare / 3));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn amounts_come_first_and_never_exceed_the_fare(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let [ada, bob, eve] = &scene.friends;
    let quoted = amount(&scene.rider.get(&scene.ride).await.ok(200)["fare"]);
    scene.shared(ada, Some(100), "tok_visa").await;
    assert_eq!(scene.invite(bob, Some(quoted - 99)).await.problem(422).fields, ["amount"]);
    scene.shared(bob, Some(quoted - 101), "tok_visa").await;
    scene.shared(eve, None, "tok_visa").await;
    let trip = scene.end().await;
    let fare = amount(&trip["fare"]["total"]);
    assert_eq!(fare, quoted);
    let amounts: Vec<_> = scene.shares().await.iter().map(|share| share["amount"]["amount"].as_i64()).collect();
    assert_eq!(amounts, [Some(100), Some(quoted - 101), None], "of the last unit half is nothing");
    scene.charge().await;
    assert_eq!(amount(&scene.pay(None).await.ok(201)["amount"]), 1);
    scene.assert_paid(fare).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_share_whose_card_is_declined_falls_back_to_the_ride_s_rider_at_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let share = scene.shared(&scene.friends[0], None, "tok_insufficient_funds").await;
    let fare = amount(&scene.end().await["fare"]["total"]);
    // Its rider is charged: until that is decided nobody else can be.
    assert_eq!(scene.pay(Some(&share)).await.problem(409).code, "already_paid");
    scene.charge().await;
    let fallen = &scene.shares().await[0];
    assert_eq!((&fallen["status"], &fallen["payment"]["status"]), (&json!("fallen_back"), &json!("settled")));
    let payment = format!("/v1/payments/{}", fallen["payment"]["id"].as_str().unwrap());
    assert_eq!(amount(&scene.rider.get(&payment).await.ok(200)["amount"]), fare / 2);
    assert_eq!(scene.friends[0].get(&payment).await.problem(404).code, "not_found");
    scene.pay(None).await.ok(201);
    assert_eq!(scene.pay(Some(&share)).await.problem(409).code, "already_paid");
    scene.assert_paid(fare).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_share_nobody_s_card_would_pay_is_paid_by_hand_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let share = scene.shared(&scene.friends[0], None, "tok_declined").await;
    let mut tx = scene.region.app.db.begin(&scene.region.tenant).await.unwrap();
    let declined = json!({"type": "card", "token": "tok_declined"});
    sqlx::query("UPDATE rides SET payment_method = $1").bind(declined).execute(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    let fare = amount(&scene.end().await["fare"]["total"]);
    scene.charge().await;
    let fallen = &scene.shares().await[0];
    assert_eq!((&fallen["status"], &fallen["payment"]["status"]), (&json!("fallen_back"), &json!("failed")));
    scene.pay(None).await.ok(201);

    let path = share.replace("/v1/shares/", "");
    let body = json!({"trip_id": scene.trip.rsplit('/').next().unwrap(), "share_id": path, "method": "card"});
    assert_eq!(scene.friends[0].post("/v1/payments", body).await.problem(404).code, "not_found");
    let attempts = join_all((0..6).map(|_| scene.pay(Some(&share)))).await;
    let (paid, refused): (Vec<_>, Vec<_>) = attempts.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(paid.len(), 1);
    for answer in refused {
        assert_eq!(answer.problem(409).code, "already_paid");
    }
    scene.assert_paid(fare).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_share_through_an_account_that_cannot_be_used_is_not_accepted_nor_charged_to_anybody(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let [ada, bob, _] = &scene.friends;
    let strict = scene.region.another_node_with("[psp.sandbox]\nenabled = false").await;
    let of_ada = path(&scene.invite(ada, None).await.ok(201));
    let refused = accept(&strict.visited_by(ada), &of_ada, "tok_visa").await;
    assert_eq!(refused.problem(503).code, "psp_unavailable");

    // Accepted while the account could be used.
    scene.shared(bob, None, "tok_visa").await;
    strict.visited_by(&scene.driver).post(&format!("{}/end", scene.trip), json!({})).await.ok(200);
    scene.charge().await;
    let share = &scene.shares().await[1];
    assert_eq!((&share["status"], &share["payment"]["status"]), (&json!("fallen_back"), &json!("failed")));
    let refused = "SELECT count(*) FROM payments WHERE failure_code = 'unusable_account'";
    assert_eq!(scene.number(refused).await, 2, "his own and then the ride's rider's");
    assert_eq!(scene.number("SELECT count(*) FROM sandbox_psp_operations").await, 0);
    assert_eq!(scene.number("SELECT count(*) FROM ledger_postings").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn who_accepts_while_the_trip_ends_is_counted_or_refused(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut shares = Vec::new();
    for friend in &scene.friends {
        shares.push(path(&scene.invite(friend, None).await.ok(201)));
    }
    let accepting = scene.friends.iter().zip(&shares).map(|(friend, share)| accept(friend, share, "tok_visa"));
    let (answers, trip) = tokio::join!(join_all(accepting), scene.end());
    let fare = amount(&trip["fare"]["total"]);
    let counted = answers.iter().filter(|answer| answer.status == 200).count();
    let parts = i64::try_from(counted).unwrap() + 1;
    for (answer, share) in answers.into_iter().zip(scene.shares().await) {
        if answer.status == 200 {
            assert_eq!((&share["status"], amount(&share["amount"])), (&json!("fixed"), fare / parts));
        } else {
            assert_eq!(answer.problem(409).code, "invalid_transition");
            assert_eq!(share["status"], "lapsed");
        }
    }
    scene.charge().await;
    scene.pay(None).await.ok(201);
    scene.assert_paid(fare).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_share_is_declined_or_withdrawn_until_the_trip_ends_and_may_be_asked_for_again(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let [ada, bob, eve] = &scene.friends;
    let of_ada = scene.shared(ada, None, "tok_visa").await;
    let declined = ada.post(&format!("{of_ada}/decline"), json!({})).await.ok(200);
    assert_eq!((&declined["status"], declined.get("amount")), (&json!("declined"), None));
    let of_bob = scene.shared(bob, None, "tok_visa").await;
    assert_eq!(bob.post(&format!("{of_bob}/withdraw"), json!({})).await.problem(404).code, "not_found");
    scene.rider.post(&format!("{of_bob}/withdraw"), json!({})).await.ok(200);
    for step in ["accept", "decline"] {
        let body = if step == "accept" { json!({"method": "card"}) } else { json!({}) };
        assert_eq!(bob.post(&format!("{of_bob}/{step}"), body).await.problem(409).code, "invalid_transition", "{step}");
    }
    let again = scene.shared(bob, None, "tok_visa").await;
    assert_eq!(scene.invite(bob, None).await.problem(409).code, "already_exists");
    assert_eq!(accept(eve, &again, "tok_visa").await.problem(404).code, "not_found", "it is not hers");
    let fare = amount(&scene.end().await["fare"]["total"]);
    for (user, step) in [(bob, "decline"), (&scene.rider, "withdraw")] {
        assert_eq!(user.post(&format!("{again}/{step}"), json!({})).await.problem(409).code, "invalid_transition");
    }
    assert_eq!(scene.invite(eve, None).await.problem(409).code, "invalid_transition");
    let statuses: Vec<_> = scene.shares().await.iter().map(|share| share["status"].clone()).collect();
    assert_eq!(statuses, ["declined", "withdrawn", "fixed"]);
    scene.charge().await;
    scene.pay(None).await.ok(201);
    scene.assert_paid(fare).await;
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_cancelled_ride_s_shares_lapse_and_cost_nothing(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let (rider, friend) = (region.rider().await, region.rider().await);
    let ride = format!("/v1/rides/{}", request(&rider).await["id"].as_str().unwrap());
    let share = rider.post(&format!("{ride}/shares"), json!({"phone": friend.phone})).await.ok(201);
    accept(&friend, &path(&share), "tok_visa").await.ok(200);
    rider.post(&format!("{ride}/cancel"), json!({})).await.ok(200);
    let lapsed = &items(&friend.get("/v1/shares").await.ok(200))[0];
    assert_eq!((&lapsed["status"], lapsed.get("amount")), (&json!("lapsed"), None));
    let late = friend.post(&format!("{}/decline", path(&share)), json!({})).await;
    assert_eq!(late.problem(409).code, "invalid_transition");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn each_share_is_refunded_by_itself(pool: PgPool) {
    let scene = Scene::new(pool).await;
    scene.shared(&scene.friends[0], Some(300), "tok_visa").await;
    scene.end().await;
    scene.charge().await;
    let own = scene.pay(None).await.ok(201);
    let share = items(&scene.admin.get(&format!("{}/shares", scene.ride)).await.ok(200)).remove(0);
    let refunds = format!("/v1/payments/{}/refunds", share["payment"]["id"].as_str().unwrap());
    let back = |amount: i64| json!({"amount": amount, "reason": "too slow"});
    scene.admin.post(&refunds, back(100)).await.ok(201);
    assert_eq!(scene.admin.post(&refunds, back(201)).await.problem(422).code, "amount_exceeds_payment");
    scene.admin.post(&refunds, json!({"reason": "all of it"})).await.ok(201);
    let share = scene.shares().await.remove(0);
    assert_eq!(share["payment"]["status"], "refunded");
    let own = scene.rider.get(&format!("/v1/payments/{}", own["id"].as_str().unwrap())).await.ok(200);
    assert_eq!((&own["status"], amount(&own["refunded"])), (&json!("settled"), 0));
    assert_eq!(scene.number("SELECT sum(amount)::bigint FROM ledger_postings").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_receipt_shows_who_pays_what_to_everybody_who_does(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let [ada, bob, eve] = &scene.friends;
    scene.shared(ada, Some(200), "tok_visa").await;
    scene.shared(bob, Some(100), "tok_declined").await;
    scene.invite(eve, None).await.ok(201);
    let fare = amount(&scene.end().await["fare"]["total"]);
    scene.charge().await;
    scene.pay(None).await.ok(201);
    let receipt = format!("{}/receipt", scene.trip);
    for user in [&scene.rider, &scene.driver, &scene.admin, ada] {
        let receipt = user.get(&receipt).await.ok(200);
        assert_eq!(amount(&receipt["total"]), fare);
        assert_eq!(amount(&receipt["rider_part"]), fare - 300);
        let shares = receipt["shares"].as_array().unwrap();
        let shown: Vec<_> =
            shares.iter().map(|share| (amount(&share["amount"]), share["status"].as_str().unwrap())).collect();
        assert_eq!(shown, [(200, "fixed"), (100, "fallen_back")]);
    }
    // Each sees the payment of what is his.
    assert_eq!(amount(&scene.rider.get(&receipt).await.ok(200)["payment"]["amount"]), fare - 300);
    assert_eq!(amount(&ada.get(&receipt).await.ok(200)["payment"]["amount"]), 200);
    let parts = async |user: &TestUser| -> Vec<(i64, Value, bool)> {
        let receipt = user.get(&receipt).await.ok(200);
        let parts = receipt["payments"].as_array().unwrap().iter();
        parts.map(|part| (amount(&part["amount"]), part["status"].clone(), part["share_id"].is_string())).collect()
    };
    let (paid, declined) = (json!("settled"), json!("failed"));
    let by_rider = [(100, paid.clone(), true), (fare - 300, paid.clone(), false)];
    let mut of_rider = parts(&scene.rider).await;
    of_rider.sort_by_key(|part| part.0);
    assert_eq!(of_rider, by_rider, "what fell back to him is his too");
    assert_eq!(parts(ada).await, [(200, paid.clone(), true)]);
    for user in [&scene.driver, &scene.admin] {
        let mut all = parts(user).await;
        all.sort_by_key(|part| (part.0, part.1 == paid));
        let of_friends = [(100, declined.clone(), true), (100, paid.clone(), true), (200, paid.clone(), true)];
        assert_eq!(all, [&of_friends[..], &by_rider[1..]].concat());
    }
    assert_eq!(eve.get(&receipt).await.problem(404).code, "not_found", "she had no part in it");
    assert_eq!(ada.get(&scene.trip).await.problem(404).code, "not_found", "a share is not the trip");
    let page = scene.rider.call(axum::http::Method::GET, &receipt, None, &[("accept", "text/html")]).await;
    let page = String::from_utf8(page.bytes).unwrap();
    assert!(page.contains("<td>Share of Test</td>") && page.contains("<td>Share of Test, paid by Test</td>"), "{page}");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn who_is_erased_shares_no_more_and_his_card_is_forgotten(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let [ada, bob, _] = &scene.friends;
    let share = scene.shared(ada, None, "tok_visa").await;
    ada.call(axum::http::Method::DELETE, &format!("/v1/riders/{}", ada.id), None, &[]).await.ok(202);
    assert_eq!(scene.number("SELECT count(*) FROM fare_shares WHERE method IS NOT NULL").await, 0);
    assert_eq!(accept(ada, &share, "tok_visa").await.problem(401).code, "invalid_token");
    assert_eq!(scene.invite(ada, None).await.problem(422).fields, ["phone"]);
    scene.shared(bob, None, "tok_visa").await;
    let fare = amount(&scene.end().await["fare"]["total"]);
    // What he has accepted and not paid is charged after he is erased, and then forgotten.
    bob.call(axum::http::Method::DELETE, &format!("/v1/riders/{}", bob.id), None, &[]).await.ok(202);
    scene.charge().await;
    scene.pay(None).await.ok(201);
    scene.assert_paid(fare).await;
    bob.call(axum::http::Method::DELETE, &format!("/v1/riders/{}", bob.id), None, &[]).await.ok(202);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn what_cannot_be_shared_leaves_no_trace(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let friend = &scene.friends[0];
    let shares = format!("{}/shares", scene.ride);
    for (body, field) in [
        (json!({}), "phone"),
        (json!({"phone": "ada"}), "phone"),
        (json!({"phone": "+15550000000"}), "phone"),
        (json!({"phone": scene.rider.phone}), "phone"),
        (json!({"phone": scene.driver.phone}), "phone"),
        (json!({"phone": friend.phone, "amount": 0}), "amount"),
        (json!({"phone": friend.phone, "amount": -5}), "amount"),
        (json!({"phone": friend.phone, "amount": 1_000_000_000}), "amount"),
        (json!({"phone": friend.phone, "amount": {"amount": 5, "currency": "EUR"}}), "amount.currency"),
    ] {
        assert_eq!(scene.rider.post(&shares, body.clone()).await.problem(422).fields, [field], "{body}");
    }
    let invite = json!({"phone": friend.phone});
    for user in [&scene.driver, &scene.admin] {
        assert_eq!(user.post(&shares, invite.clone()).await.problem(403).code, "forbidden");
        assert_eq!(user.get("/v1/shares").await.problem(403).code, "forbidden");
    }
    assert_eq!(friend.post(&shares, invite.clone()).await.problem(404).code, "not_found");
    assert_eq!(friend.get(&shares).await.problem(404).code, "not_found");
    assert_eq!(scene.driver.get(&shares).await.problem(404).code, "not_found");
    scene.region.new_tenant("limos", json!({})).await;
    let foreign = scene.region.rider_of("limos").await;
    assert_eq!(foreign.post(&shares, invite.clone()).await.problem(404).code, "not_found");
    assert_eq!(
        scene.invite(&foreign, None).await.problem(422).fields,
        ["phone"],
        "another company's rider is not there"
    );
    assert_eq!(scene.number("SELECT count(*) FROM fare_shares").await, 0);

    let share = path(&scene.invite(friend, None).await.ok(201));
    assert_eq!(accept(&foreign, &share, "tok_visa").await.problem(404).code, "not_found");
    for (method, field) in
        [(json!("cash"), "method.type"), (json!({"type": "card", "token": "tok_gold"}), "method.token")]
    {
        let refused = friend.post(&format!("{share}/accept"), json!({"method": method})).await;
        assert_eq!(refused.problem(422).fields, [field]);
    }
    assert_eq!(scene.number("SELECT count(*) FROM fare_shares WHERE status = 'invited' AND method IS NULL").await, 1);
    let nobody =
        json!({"trip_id": scene.trip.rsplit('/').next().unwrap(), "share_id": uuid::Uuid::now_v7(), "method": "card"});
    scene.end().await;
    assert_eq!(scene.rider.post("/v1/payments", nobody).await.problem(404).code, "not_found");
    assert_eq!(scene.number("SELECT count(*) FROM payments").await, 0);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_ride_paid_in_cash_is_not_shared_and_no_other_with_more_than_seven(pool: PgPool) {
    let region = TestRegion::new(pool.clone()).await;
    let (rider, friend) = (region.rider().await, region.rider().await);
    let ride = format!("/v1/rides/{}", request(&rider).await["id"].as_str().unwrap());
    let set_method = async |method: Value| {
        let mut tx = region.app.db.begin(&region.tenant).await.unwrap();
        sqlx::query("UPDATE rides SET payment_method = $1").bind(method).execute(tx.conn()).await.unwrap();
        tx.commit().await.unwrap();
    };
    let invite = async |friend: &TestUser| rider.post(&format!("{ride}/shares"), json!({"phone": friend.phone})).await;
    set_method(json!({"type": "cash"})).await;
    assert_eq!(invite(&friend).await.problem(409).code, "not_shareable");
    set_method(json!({"type": "card"})).await;
    for _ in 0..super::MAX_SHARES {
        invite(&region.rider().await).await.ok(201);
    }
    assert_eq!(invite(&friend).await.problem(409).code, "too_many_shares");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn the_same_key_invites_and_accepts_once(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let friend = &scene.friends[0];
    let (shares, body) = (format!("{}/shares", scene.ride), json!({"phone": friend.phone}));
    let first = scene.rider.post_keyed(&shares, "s", body.clone()).await.ok(201);
    assert_eq!(scene.rider.post_keyed(&shares, "s", body).await.ok(201), first);
    let (accept, body) = (format!("{}/accept", path(&first)), json!({"method": {"type": "wallet"}}));
    let accepted = friend.post_keyed(&accept, "a", body.clone()).await.ok(200);
    assert_eq!(friend.post_keyed(&accept, "a", body).await.ok(200), accepted);
    assert_eq!(scene.shares().await.len(), 1);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_share_comes_from_its_rider_s_wallet_and_falls_back_where_that_holds_too_little(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let [ada, bob, _] = &scene.friends;
    for friend in [ada, bob] {
        let share = path(&scene.invite(friend, Some(100)).await.ok(201));
        friend.post(&format!("{share}/accept"), json!({"method": "wallet"})).await.ok(200);
    }
    let credit = json!({"amount": 150, "reason": "sorry"});
    scene.admin.post(&format!("/v1/riders/{}/wallet/credits", ada.id), credit).await.ok(201);
    scene.end().await;
    scene.charge().await;
    let shares = scene.shares().await;
    let statuses: Vec<_> = shares.iter().map(|share| share["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["fixed", "fallen_back"]);
    assert_eq!(ada.get("/v1/riders/me/wallet").await.ok(200)["balance"]["amount"], 50);
    let methods = "SELECT count(*) FROM payments WHERE status = 'settled' AND amount = 100 AND provider = 'sandbox'";
    assert_eq!(scene.number(methods).await, 1, "the ride's rider pays it with his card");
    assert_eq!(scene.number("SELECT sum(amount)::bigint FROM ledger_postings").await, 0);
}
