//! Regions that do not hear each other both go on; afterwards they agree.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::time::Duration;

use system_tests::{
    harness::{Book, TestCluster, Traffic, eventually, tell},
    stories,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_partition() {
    let cluster = TestCluster::start().await;
    let stories = stories!(cluster;
        both_sides_of_a_cut_drive_on_and_agree_after_it,
        a_cut_one_way_leaves_no_trace,
        a_slow_and_lossy_network_loses_nothing,
        facts_reach_a_region_cut_off_from_their_origin,
    );
    tell(&cluster, 1, stories).await;
}

async fn both_sides_of_a_cut_drive_on_and_agree_after_it(cluster: TestCluster) {
    let cities = ["manhattan-cabs", "porto-taxis", "bengaluru-rides"].map(|tenant| cluster.city(tenant));
    for other in ["eu-west", "ap-south"] {
        cluster.link("us-east", other).cut().unwrap();
    }
    let traffic = Traffic::start(&cities, 1).await;
    traffic.rides_go_on(6).await;
    let abroad = cities[0].through(&cluster.http_url("eu-west"));
    let unreachable = abroad.client.register_rider("Ada", "+9994444444444", "correct horse").await.unwrap_err();
    assert_eq!(unreachable.code(), Some("home_region_unreachable"));
    eventually("the others notice", async || {
        let status = cluster.sync_status("eu-west").await.map_err(|error| error.to_string())?;
        let peer = status.peers.iter().find(|peer| peer.region == "us-east").ok_or("us-east is forgotten")?;
        if peer.connected { Err("still connected".to_owned()) } else { Ok(()) }
    })
    .await;
    let book = traffic.stop().await;
    let digests = [cluster.sync_status("us-east").await.unwrap(), cluster.sync_status("eu-west").await.unwrap()];
    assert_ne!(digests[0].digest, digests[1].digest, "both sides have news the other does not know");

    cluster.all_links().heal().unwrap();
    book.must_hold(&cluster).await;
}

async fn a_cut_one_way_leaves_no_trace(cluster: TestCluster) {
    cluster.one_way("us-east", "eu-west").cut().unwrap();
    let book = ride_on(&cluster, 3).await;
    cluster.all_links().heal().unwrap();
    book.must_hold(&cluster).await;
}

async fn a_slow_and_lossy_network_loses_nothing(cluster: TestCluster) {
    cluster.all_links().delay(Duration::from_millis(60)).unwrap();
    cluster.all_links().loss(0.1).unwrap();
    // No repair: it has to converge as it is.
    ride_on(&cluster, 3).await.must_hold(&cluster).await;
    cluster.all_links().delay(Duration::ZERO).unwrap();
    cluster.all_links().loss(0.0).unwrap();
}

async fn facts_reach_a_region_cut_off_from_their_origin(cluster: TestCluster) {
    cluster.link("us-east", "ap-south").cut().unwrap();
    // By way of eu-west; the link is not mended before all is there.
    ride_on(&cluster, 3).await.must_hold(&cluster).await;
    cluster.all_links().heal().unwrap();
}

/// Rides in New York and Porto until some more are paid.
async fn ride_on(cluster: &TestCluster, rides: usize) -> std::sync::Arc<Book> {
    let traffic = Traffic::start(&["manhattan-cabs", "porto-taxis"].map(|tenant| cluster.city(tenant)), 1).await;
    traffic.rides_go_on(rides).await;
    traffic.stop().await
}
