//! A published version is taken up by every node of every region as soon as it has arrived there, and only where it should run.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::time::Duration;

use futures::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use system_tests::{
    api::Client,
    harness::{TestCluster, eventually, tell},
    stories,
};
use tokio::time::{Instant, sleep};

const REGIONS: [&str; 3] = ["us-east", "eu-west", "ap-south"];
const NODES: u16 = 2;
/// From a version's arrival in a region's database to its use by a node there.
const TAKEN_UP_WITHIN: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rollout() {
    let cluster = TestCluster::start_as(deploy_local::Cluster::builder().region_nodes(NODES)).await;
    let stories = stories!(cluster;
        a_version_is_taken_up_by_every_node_within_a_second_of_its_arrival,
        a_canary_runs_on_the_nodes_of_its_region_alone_until_it_is_promoted,
        a_region_that_is_cut_off_pins_for_itself,
    );
    tell(&cluster, 1, stories).await;
}

async fn a_version_is_taken_up_by_every_node_within_a_second_of_its_arrival(cluster: TestCluster) {
    let tenant = "porto-taxis";
    let nodes = Node::all(&cluster, tenant).await;
    for node in &nodes {
        node.name().await;
    }
    for turn in 1..=3 {
        let name = format!("Porto Taxis {turn}");
        let (_, took) =
            tokio::join!(rename(&cluster, tenant, &name), join_all(nodes.iter().map(|node| node.takes_up(&name))));
        for (Node { region, number, .. }, took) in nodes.iter().zip(took) {
            assert!(took <= TAKEN_UP_WITHIN, "node {number} of {region} took up version {turn} after {took:?}");
        }
    }
}

async fn a_canary_runs_on_the_nodes_of_its_region_alone_until_it_is_promoted(cluster: TestCluster) {
    let tenant = "manhattan-cabs";
    let nodes = Node::all(&cluster, tenant).await;
    let office = cluster.office(tenant, "us-east").await;
    office.patch_config(tenant, &json!({"auto_publish": false})).await.unwrap();
    publish(&office, tenant, json!({})).await;
    let before = nodes[0].name().await;
    for name in ["Canary", "Another"] {
        rename(&cluster, tenant, name).await;
        publish(&office, tenant, json!({"canary_region": "ap-south"})).await;
        for node in nodes.iter().filter(|node| node.region == "ap-south") {
            node.runs(name).await;
        }
        cluster.converged().await;
        for node in nodes.iter().filter(|node| node.region != "ap-south") {
            assert_eq!(node.name().await, before, "node {} of {}", node.number, node.region);
        }
        let end = if name == "Canary" { "rollback" } else { "promote" };
        let _: Value = office.post(&format!("/v1/tenants/{tenant}/config/{end}"), &json!({})).await.unwrap();
        for node in &nodes {
            node.runs(if end == "promote" { name } else { &before }).await;
        }
    }
    office.patch_config(tenant, &json!({"auto_publish": true})).await.unwrap();
}

async fn a_region_that_is_cut_off_pins_for_itself(cluster: TestCluster) {
    let tenant = "bengaluru-rides";
    let nodes = Node::all(&cluster, tenant).await;
    let before = nodes[0].name().await;
    let (west, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.region == "eu-west");
    cluster.all_links().cut().unwrap();
    let office = cluster.office(tenant, "eu-west").await;
    let pin = format!("/v1/tenants/{tenant}/config/pin/here");
    office.call(Method::PUT, &pin).body(&json!({})).send().await.unwrap();
    cluster.all_links().heal().unwrap();
    rename(&cluster, tenant, "Bengaluru Anew").await;
    for node in others {
        node.runs("Bengaluru Anew").await;
    }
    cluster.converged().await;
    for node in &west {
        assert_eq!(node.name().await, before);
    }
    office.call(Method::DELETE, &pin).send().await.unwrap();
    for node in west {
        node.runs("Bengaluru Anew").await;
    }
}

async fn rename(cluster: &TestCluster, tenant: &str, name: &str) {
    let office = cluster.office(tenant, &cluster.tenant(tenant).home_region).await;
    office.patch_config(tenant, &json!({"name": name})).await.unwrap();
}

async fn publish(office: &Client, tenant: &str, how: Value) {
    let _: Value = office.post(&format!("/v1/tenants/{tenant}/config/publish"), &how).await.unwrap();
}

/// One node of a region, as the tenant's back office and clients see it.
struct Node {
    region: &'static str,
    number: u16,
    office: Client,
    tenant: String,
}

impl Node {
    async fn all(cluster: &TestCluster, tenant: &str) -> Vec<Self> {
        let mut nodes = Vec::new();
        for region in REGIONS {
            let office = cluster.office(tenant, region).await;
            nodes.extend((1..=NODES).map(|number| Self {
                region,
                number,
                office: office.through(&cluster.node_url(region, number)),
                tenant: tenant.to_owned(),
            }));
        }
        nodes
    }

    /// The company's name as the node's clients are shown it: by the config it holds in memory.
    async fn name(&self) -> String {
        let route: Value = self.office.get("/v1/route").await.unwrap();
        route["name"].as_str().unwrap().to_owned()
    }

    async fn runs(&self, name: &str) {
        let what = format!("node {} of {} shows {name}", self.number, self.region);
        eventually(&what, async || {
            let shown = self.name().await;
            if shown == name { Ok(()) } else { Err(shown) }
        })
        .await;
    }

    /// How long after its region's database had a version of this name the node showed it.
    async fn takes_up(&self, name: &str) -> Duration {
        let arrived = async {
            eventually(&format!("{} has {name}", self.region), async || {
                let view: Value =
                    self.office.get(&format!("/v1/tenants/{}/config", self.tenant)).await.map_err(|e| e.to_string())?;
                let published = view["published"]["config"]["name"].as_str().unwrap_or_default().to_owned();
                if published == name { Ok(Instant::now()) } else { Err(published) }
            })
            .await
        };
        let shown = async {
            let give_up_at = Instant::now() + Duration::from_secs(30);
            while self.name().await != name {
                assert!(Instant::now() < give_up_at, "node {} of {} never shows {name}", self.number, self.region);
                sleep(Duration::from_millis(20)).await;
            }
            Instant::now()
        };
        let (arrived, shown) = tokio::join!(arrived, shown);
        shown.saturating_duration_since(arrived)
    }
}
