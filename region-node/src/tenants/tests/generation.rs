//! A grown draft is replaced by its next generation.

use serde_json::json;
use sqlx::PgPool;

use super::patch;
use crate::testing::TestRegion;

/// Text that does not compress.
fn noise() -> String {
    (0..1200).map(|_| uuid::Uuid::new_v4().simple().to_string()).collect()
}

async fn state(region: &TestRegion) -> (i32, i32, bool) {
    let mut tx = region.app.db.system().await.unwrap();
    let state = sqlx::query_as("SELECT generation, octet_length(document), previous IS NOT NULL FROM tenant_documents")
        .fetch_one(tx.conn())
        .await
        .unwrap();
    tx.commit().await.unwrap();
    state
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_thousand_edits_leave_a_draft_as_small_as_a_few_and_every_version_at_the_size_of_a_config(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    for n in 0..1000 {
        let value = format!("value {n}, which nobody has seen before");
        patch(&admin, json!({"labels": {(format!("l{}", n % 40)): value}}), None).await.ok(200);
    }
    let mut tx = region.app.db.system().await.unwrap();
    let draft = "SELECT generation, octet_length(document), octet_length(previous) FROM tenant_documents";
    let (generation, document, previous): (i32, i32, i32) = sqlx::query_as(draft).fetch_one(tx.conn()).await.unwrap();
    let versions = "SELECT count(*), max(pg_column_size(v)), max(octet_length(config::text))
                    FROM tenant_config_versions v";
    let (versions, row, config): (i64, i32, i32) = sqlx::query_as(versions).fetch_one(tx.conn()).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!((generation, versions), (2, 1001), "a generation after every five hundred edits, a version for each");
    assert!(document < 4 * 1024 && previous < 8 * 1024, "{document} and {previous} bytes of draft");
    assert!(row < config + 512, "{row} bytes for a config of {config}");
}

#[sqlx::test(migrator = "crate::db::MIGRATOR")]
async fn a_draft_that_has_grown_begins_a_generation_once_every_region_edits_the_one_before(pool: PgPool) {
    let region = TestRegion::new(pool).await;
    let admin = region.admin().await;
    let execute = async |sql: &'static str| {
        let mut tx = region.app.db.system().await.unwrap();
        sqlx::query(sql).execute(tx.conn()).await.unwrap();
        tx.commit().await.unwrap();
    };
    execute("INSERT INTO regions (name, base_url, quic_addr) VALUES ('eu-west', 'http://127.0.0.1:2', '')").await;
    let grow = async || {
        for _ in 0..9 {
            patch(&admin, json!({"labels": {"noise": noise()}}), None).await.ok(200);
        }
    };
    grow().await;
    let (generation, bytes, has_previous) = state(&region).await;
    assert_eq!((generation, has_previous), (1, true));
    assert!(bytes < 200_000, "{bytes} bytes");
    // eu-west still edits generation 0: an edit of it may be on its way.
    grow().await;
    assert_eq!(state(&region).await.0, 1);
    execute("UPDATE tenant_documents SET adopted = adopted || '{\"eu-west\": 1}'").await;
    patch(&admin, json!({"labels": {"last": 1}}), None).await.ok(200);
    let (generation, bytes, _) = state(&region).await;
    assert_eq!(generation, 2);
    assert!(bytes < 64 * 1024, "{bytes} bytes");
    let config = admin.get(super::CONFIG).await.ok(200);
    assert_eq!(config["config"]["labels"]["last"], 1);
    assert_eq!(config["published"]["config"]["labels"]["last"], 1);
}
