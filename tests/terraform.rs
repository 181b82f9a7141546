//! A region joins the running cluster and leaves it: by Terraform as an operator does it, and with what it has to know.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::path::{Path, PathBuf};

use deploy_local::{Cluster, ClusterFile, Progress, Service, TestTools, control};
use system_tests::{
    harness::{TestCluster, Traffic, eventually, run, tell},
    stories,
};
use tokio::process::Command;
use tokio_util::sync::CancellationToken;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn newcomer() {
    let cluster = two_regions().await;
    tell(&cluster, 1, stories!(cluster; a_new_region_learns_all_and_serves_every_tenant)).await;
}

/// `make test` leaves this one out, and says so, where there is no Terraform to be had and nobody calls it CI.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terraform() {
    find_terraform();
    let cluster = two_regions().await;
    tell(&cluster, 1, stories!(cluster; terraform_adds_a_region_and_removes_it)).await;
}

fn find_terraform() -> PathBuf {
    let tools = TestTools::find().unwrap_or_else(|error| panic!("{error}"));
    let missing = "neither terraform nor tofu is on the PATH: install one of them, or set TERRAFORM=<its path>";
    tools.terraform.expect(missing)
}

async fn two_regions() -> TestCluster {
    TestCluster::start_as(Cluster::builder().regions(["us-east", "eu-west"])).await
}

async fn a_new_region_learns_all_and_serves_every_tenant(cluster: TestCluster) {
    let traffic = Traffic::start(&[cluster.city("manhattan-cabs"), cluster.city("porto-taxis")], 1).await;
    traffic.rides_go_on(3).await;
    let book = traffic.stop().await;
    cluster.add_region("sa-east", &Progress::silent()).await.unwrap();
    // The newcomer is one of the regions whose ledger must have everything.
    book.must_hold(&cluster).await;
    for tenant in ["manhattan-cabs", "porto-taxis"] {
        let city = cluster.city(tenant).through(&cluster.http_url("sa-east"));
        city.rider().await;
        let view = cluster.office(tenant, "sa-east").await.config(tenant).await.unwrap();
        assert!(view.published.is_some(), "{tenant}'s config is known in the new region");
    }
    a_link_to_the_newcomer_is_one_once_its_peers_were_restarted(&cluster).await;
    cluster.remove_region("sa-east").await.unwrap();
}

async fn a_link_to_the_newcomer_is_one_once_its_peers_were_restarted(cluster: &TestCluster) {
    let refused = cluster.link("us-east", "sa-east").cut().unwrap_err().to_string();
    assert!(refused.contains("us-east was started before sa-east joined"), "{refused}");
    assert!(refused.contains("`local restart us-east region-node`"), "{refused}");
    for service in [Service::NODE, Service::SYNC] {
        cluster.restart("us-east", service).await.unwrap();
    }
    cluster.link("us-east", "sa-east").cut().unwrap();
    eventually("the cut is noticed", async || {
        let status = cluster.sync_status("us-east").await.map_err(|error| error.to_string())?;
        let peer = status.peers.iter().find(|peer| peer.region == "sa-east").ok_or("sa-east is forgotten")?;
        if peer.connected { Err("still connected".to_owned()) } else { Ok(()) }
    })
    .await;
    let abroad = cluster.city("manhattan-cabs").through(&cluster.http_url("sa-east"));
    let unreachable = abroad.client.register_rider("Ada", "+9994444444445", "correct horse").await.unwrap_err();
    assert_eq!(unreachable.code(), Some("home_region_unreachable"));
    cluster.link("us-east", "sa-east").heal().unwrap();
}

async fn terraform_adds_a_region_and_removes_it(cluster: TestCluster) {
    let description = std::fs::read_to_string(cluster.cluster_file()).unwrap();
    let file: ClusterFile = serde_json::from_str(&description).unwrap();
    let stop = CancellationToken::new();
    let listener = control::listen(&file.control).unwrap();
    let serving = cluster.tasks.spawn(control::serve(cluster.shared(), listener, stop.clone()));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = deploy_local::Programs::discover().unwrap().get("local").unwrap();
    let mut script = Command::new("bash");
    script.env("TERRAFORM", find_terraform());
    script.arg(root.join("terraform/tests/example-local.sh")).arg(program).arg(cluster.state_dir()).arg("af-south");
    run(&mut script).await;
    stop.cancel();
    serving.await.unwrap();
}
