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
