//! Two browsers take a ride through the web app of a running cluster.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::path::Path;

use deploy_local::TestTools;
use sqlx::{Connection, PgConnection};
use system_tests::{
    harness::{TestCluster, run},
    stories,
};
use tokio::process::Command;
use uuid::Uuid;

/// Why the payment was given up that the back office finds.
const GIVEN_UP: &str = "the payment service fell silent";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn browser() {
    let cluster = TestCluster::start().await;
    system_tests::harness::tell(&cluster, 1, stories!(cluster; two_browsers_take_a_ride)).await;
}

async fn two_browsers_take_a_ride(cluster: TestCluster) {
    let web = Path::new(env!("CARGO_MANIFEST_DIR")).join("../region-node/web");
    if !web.join("node_modules/.bin/playwright").exists() {
        run(Command::new("npm").args(["ci", "--no-audit", "--no-fund", "--silent"]).current_dir(&web)).await;
    }
    let TestTools { chromium, .. } = TestTools::find().unwrap_or_else(|error| panic!("{error}"));
    let rider = cluster.city("porto-taxis").rider().await;
    let given_up = sqlx::query(
        "INSERT INTO payments (id, tenant_id, rider_id, kind, status, method, amount, currency, tax_amount, commission_amount,
             provider, attempts, last_error, created_at, updated_at)
         VALUES ($1, 'porto-taxis', $2, 'top_up', 'unknown', '{\"type\": \"card\", \"token\": \"tok_visa\"}', 700, 'EUR', 0, 0, 'sandbox',
             20, $3, now(), now())",
    );
    let mut database = PgConnection::connect(&cluster.postgres_url("eu-west")).await.unwrap();
    given_up.bind(Uuid::now_v7()).bind(rider.id.0).bind(GIVEN_UP).execute(&mut database).await.unwrap();
    let office = cluster.tenant("porto-taxis");
    let mut playwright = Command::new("npm");
    playwright
        .args(["run", "e2e"])
        .current_dir(&web)
        .env("CHROMIUM", chromium)
        .env("BASE_URL", cluster.http_url("eu-west"))
        .env("TENANT", "porto-taxis")
        .env("GIVEN_UP", GIVEN_UP)
        .env("OFFICE_CLIENT_ID", office.client_id)
        .env("OFFICE_CLIENT_SECRET", office.client_secret)
        .env("OPERATOR_CLIENT_ID", &cluster.operator().client_id)
        .env("OPERATOR_CLIENT_SECRET", &cluster.operator().client_secret);
    run(&mut playwright).await;
}
