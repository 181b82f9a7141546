use super::*;

/// Writes a fact as replication does.
async fn fact(scene: &Scene, tenant: &str, seq: i64) -> Uuid {
    let mut conn = scene.pool.acquire().await.unwrap();
    let id = Uuid::now_v7();
    sqlx::query("SELECT set_config('app.tenant_id', $1, false)").bind(tenant).execute(&mut *conn).await.unwrap();
    sqlx::query(
        "INSERT INTO ledger_facts (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region,
             origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash)
         VALUES ($1, gen_random_uuid(), gen_random_uuid(), $2, 'settlement', 1250, 'EUR', 'eu-west', 1, $3, 1, 0,
             '2026-03-01T12:00:00Z', decode(repeat('00', 32), 'hex'))",
    )
    .bind(id)
    .bind(tenant)
    .bind(seq)
    .execute(&mut *conn)
    .await
    .unwrap();
    id
}

fn ids(page: &Value) -> Vec<Uuid> {
    let items = page["items"].as_array().unwrap();
    items.iter().map(|item| item["fact_id"].as_str().unwrap().parse().unwrap()).collect()
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn settlements_look_as_the_contract_says(pool: PgPool) {
    let scene = Scene::new(pool).await;
    fact(&scene, "cabs", 7).await;
    let page = scene.admin.get("/v1/settlements").await.ok(200);
    insta::assert_json_snapshot!(page, {
        ".items[].fact_id" => "[id]", ".items[].payment_id" => "[id]", ".items[].trip_id" => "[id]",
    }, @r#"
    {
      "items": [
        {
          "amount": 1250,
          "currency": "EUR",
          "fact_id": "[id]",
          "kind": "settlement",
          "late": false,
          "origin_region": "eu-west",
          "origin_seq": 7,
          "payment_id": "[id]",
          "settled_at": "2026-03-01T12:00:00Z",
          "tenant": "cabs",
          "trip_id": "[id]"
        }
      ],
      "next_cursor": null
    }
    "#);
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_back_office_sees_its_own_and_an_operator_all_or_one_tenant_s(pool: PgPool) {
    let scene = Scene::new(pool).await;
    // Another region's tenant, of whom this region has nothing but facts.
    let (own, foreign) = (fact(&scene, "cabs", 1).await, fact(&scene, "porto-taxis", 2).await);
    assert_eq!(ids(&scene.admin.get("/v1/settlements").await.ok(200)), [own]);
    assert_eq!(ids(&scene.admin.get("/v1/settlements?tenant=cabs").await.ok(200)), [own]);
    let spying = scene.admin.get("/v1/settlements?tenant=porto-taxis").await;
    assert_eq!(spying.problem(403).code, "tenant_mismatch");
    let cursor = format!("/v1/settlements?after={foreign}");
    assert_eq!(scene.admin.get(&cursor).await.problem(422).fields, ["after"]);
    let operator = scene.region.operator().await;
    assert_eq!(ids(&operator.get("/v1/settlements").await.ok(200)), [own, foreign]);
    assert_eq!(ids(&operator.get("/v1/settlements?tenant=porto-taxis").await.ok(200)), [foreign]);
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.get("/v1/settlements").await.problem(403).code, "forbidden");
    }
    assert_eq!(scene.region.nobody().get("/v1/settlements").await.problem(401).code, "unauthenticated");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_reader_misses_nothing_that_arrives_while_it_reads(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let mut expected = Vec::new();
    for seq in 1..=5 {
        expected.push(fact(&scene, "cabs", seq).await);
    }
    let mut seen = Vec::new();
    let mut path = "/v1/settlements?limit=2".to_owned();
    loop {
        let page = scene.admin.get(&path).await.ok(200);
        seen.extend(ids(&page));
        if seen.len() == 4 {
            expected.push(fact(&scene, "cabs", 6).await);
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/settlements?limit=2&after={cursor}");
    }
    assert_eq!(seen, expected);
    let last = seen.last().unwrap();
    expected.push(fact(&scene, "cabs", 9).await);
    let tail = scene.admin.get(&format!("/v1/settlements?after={last}")).await.ok(200);
    assert_eq!(ids(&tail), expected[6..], "a follower goes on from the last fact it saw");
    for bad in ["after=x", "after=", "limit=0", "limit=1001", "tenant=A"] {
        scene.admin.get(&format!("/v1/settlements?{bad}")).await.problem(422);
    }
}

/// Writes a fact of another kind, amount, currency and time.
async fn moved(scene: &Scene, tenant: &str, seq: i64, kind: &str, amount: i64, currency: &str, at: &str) {
    let mut conn = scene.pool.acquire().await.unwrap();
    sqlx::query("SELECT set_config('app.tenant_id', $1, false)").bind(tenant).execute(&mut *conn).await.unwrap();
    sqlx::query(
        "INSERT INTO ledger_facts (fact_id, payment_id, trip_id, tenant_id, kind, amount, currency, origin_region,
             origin_incarnation, origin_seq, home_term, home_n, settled_at, body_hash)
         VALUES (gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), $1, $3, $4, $5, 'eu-west', 1, $2, 1, 0,
             $6::timestamptz, decode(repeat('00', 32), 'hex'))",
    )
    .bind(tenant)
    .bind(seq)
    .bind(kind)
    .bind(amount)
    .bind(currency)
    .bind(at)
    .execute(&mut *conn)
    .await
    .unwrap();
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_rollup_sums_a_tenant_s_facts_by_day_and_currency(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let facts = [
        ("cabs", "settlement", 1_000, "USD", "2026-03-01T00:00:00Z"),
        ("cabs", "settlement", 500, "USD", "2026-03-02T00:59:59+01:00"),
        ("cabs", "refund", 300, "USD", "2026-03-01T10:00:00Z"),
        ("cabs", "adjustment", -200, "USD", "2026-03-01T11:00:00Z"),
        ("cabs", "settlement", 700, "EUR", "2026-03-01T12:00:00Z"),
        ("cabs", "adjustment", 200, "USD", "2026-03-02T00:00:00Z"),
        ("cabs", "settlement", 9, "USD", "2026-02-28T23:59:59Z"),
        ("porto-taxis", "settlement", 4_000, "EUR", "2026-03-01T12:00:00Z"),
    ];
    for (seq, (tenant, kind, amount, currency, at)) in (1..).zip(facts) {
        moved(&scene, tenant, seq, kind, amount, currency, at).await;
    }
    let day = |day: &str, counts: [i64; 2], sums: [i64; 4], currency: &str| {
        let [gross, refunds, adjustments, net] = sums.map(|amount| json!({"amount": amount, "currency": currency}));
        json!({"day": day, "count": counts[0], "gross": gross, "refund_count": counts[1], "refunds": refunds,
            "adjustments": adjustments, "net": net})
    };
    let expected = json!({"tenant": "cabs", "from": "2026-03-01", "to": "2026-03-02", "items": [
        day("2026-03-01", [1, 0], [700, 0, 0, 700], "EUR"),
        day("2026-03-01", [2, 1], [1_500, 300, -200, 1_000], "USD"),
        day("2026-03-02", [0, 0], [0, 0, 200, 200], "USD"),
    ]});
    let path = "/v1/settlements/rollup?from=2026-03-01&to=2026-03-02";
    assert_eq!(scene.admin.get(path).await.ok(200), expected);
    let operator = scene.region.operator().await;
    assert_eq!(operator.get(&format!("{path}&tenant=cabs")).await.ok(200), expected);
    let porto = operator.get(&format!("{path}&tenant=porto-taxis")).await.ok(200);
    assert_eq!(porto["items"], json!([day("2026-03-01", [1, 0], [4_000, 0, 0, 4_000], "EUR")]));
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_rollup_is_one_tenant_s_for_those_who_may_see_it_and_within_a_year(pool: PgPool) {
    let scene = Scene::new(pool).await;
    let path = "/v1/settlements/rollup";
    assert_eq!(scene.admin.get(path).await.ok(200)["items"], json!([]));
    assert_eq!(scene.admin.get(&format!("{path}?tenant=porto-taxis")).await.problem(403).code, "tenant_mismatch");
    assert_eq!(scene.region.operator().await.get(path).await.problem(422).fields, ["tenant"]);
    for user in [&scene.rider, &scene.driver] {
        assert_eq!(user.get(path).await.problem(403).code, "forbidden");
    }
    for (query, field) in [
        ("from=2026-13-01", "from"),
        ("to=yesterday", "to"),
        ("from=2026-03-02&to=2026-03-01", "from"),
        ("from=2025-02-28&to=2026-03-01", "from"),
    ] {
        assert_eq!(scene.admin.get(&format!("{path}?{query}")).await.problem(422).fields, [field], "{query}");
    }
    scene.admin.get(&format!("{path}?from=2025-03-01&to=2026-03-01")).await.ok(200);
}
