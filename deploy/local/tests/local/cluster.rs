//! The library as tests use it, with the databases alone.

use std::time::Duration;

use crate::common::{psql, runs, wait_for};
use deploy_local::{Cluster, Service};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

async fn two_regions() -> Cluster {
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_local")).parent().unwrap();
    Cluster::builder()
        .programs(folder)
        .regions(["us-east", "eu-west"])
        .region_nodes(0)
        .global_syncs(0)
        .start()
        .await
        .unwrap()
}

/// Whether a region's Redis answers within a moment.
async fn pings(cluster: &Cluster, region: &str) -> bool {
    let address = cluster.redis_url(region).trim_start_matches("redis://").to_owned();
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PING\r\n").await?;
        stream.read_exact(&mut [0; 7]).await
    };
    timeout(Duration::from_millis(500), asked).await.is_ok_and(|answer| answer.is_ok())
}

#[tokio::test]
async fn clusters_run_side_by_side_and_dropping_one_ends_it_alone() {
    let (one, other) = tokio::join!(two_regions(), two_regions());
    assert_ne!(one.postgres_url("us-east"), other.postgres_url("us-east"));
    let (dir, pids) = (
        one.state_dir(),
        [one.pid("us-east", Service::Postgres).unwrap(), one.pid("eu-west", Service::Redis).unwrap()],
    );
    drop(one);
    assert!(!dir.exists() && !pids.iter().any(|pid| runs(*pid)));
    assert_eq!(psql(&other.postgres_url_as("eu-west", "gocomet_app"), "SELECT current_user"), "gocomet_app");
    let dir = other.state_dir();
    other.stop().await;
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_frozen_program_answers_nothing_until_it_thaws() {
    let cluster = two_regions().await;
    cluster.freeze("us-east", Service::Redis).unwrap();
    assert!(!pings(&cluster, "us-east").await);
    assert!(pings(&cluster, "eu-west").await);
    cluster.thaw("us-east", Service::Redis).unwrap();
    assert!(pings(&cluster, "us-east").await);
    cluster.freeze("us-east", Service::Postgres).unwrap();
    cluster.restart("us-east", Service::Postgres).await.unwrap();
    assert_eq!(psql(&cluster.postgres_url("us-east"), "SELECT 1"), "1");
}

#[tokio::test]
async fn a_whole_region_goes_and_comes_back() {
    let cluster = two_regions().await;
    psql(&cluster.postgres_url("us-east"), "CREATE TABLE kept ()");
    let pid = cluster.pid("us-east", Service::Postgres).unwrap();
    cluster.kill_region("us-east").await.unwrap();
    assert!(!runs(pid) && !pings(&cluster, "us-east").await && pings(&cluster, "eu-west").await);
    assert_eq!(cluster.pid("us-east", Service::Redis), None);
    cluster.restart_region("us-east").await.unwrap();
    assert_eq!(psql(&cluster.postgres_url("us-east"), "SELECT count(*) FROM kept"), "0");
}

#[tokio::test]
async fn what_cannot_start_says_why_and_leaves_nothing() {
    let folder = std::path::Path::new(env!("CARGO_BIN_EXE_local")).parent().unwrap();
    let error = Cluster::builder().programs(folder).regions(["us-east", "us-east"]).start().await.unwrap_err();
    assert!(error.to_string().contains("names no region, one twice"), "{error}");
    let error = Cluster::builder().programs("/nowhere").start().await.unwrap_err();
    assert!(error.to_string().contains("cargo build --workspace"), "{error}");
    let cluster = two_regions().await;
    let error = cluster.kill("mars", Service::Redis).await.unwrap_err();
    assert!(error.to_string().contains("the regions are us-east, eu-west"), "{error}");
    let guarded = cluster.state_dir();
    drop(cluster);
    wait_for("the folder is gone", || !guarded.exists());
}
