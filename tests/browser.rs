//! Two browsers take a ride through the web app of a running cluster.

use std::path::Path;

use deploy_local::TestTools;
use system_tests::{
    harness::{TestCluster, run},
    stories,
};
use tokio::process::Command;

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
    let office = cluster.tenant("porto-taxis");
    let mut playwright = Command::new("npm");
    playwright
        .args(["run", "e2e"])
        .current_dir(&web)
        .env("CHROMIUM", chromium)
        .env("BASE_URL", cluster.http_url("eu-west"))
        .env("TENANT", "porto-taxis")
        .env("OFFICE_CLIENT_ID", office.client_id)
        .env("OFFICE_CLIENT_SECRET", office.client_secret)
        .env("OPERATOR_CLIENT_ID", &cluster.operator().client_id)
        .env("OPERATOR_CLIENT_SECRET", &cluster.operator().client_secret);
    run(&mut playwright).await;
}
