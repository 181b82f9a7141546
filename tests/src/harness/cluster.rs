//! A cluster of real processes with typed ways in.

use std::{fmt::Write as _, ops::Deref, sync::Arc, time::Duration};

use deploy_local::{Builder, Cluster, Service, last_lines};
use shared::ids::TripId;
use tokio_util::task::TaskTracker;

use super::{TestCity, eventually_within};
use crate::api::{Client, Credentials, SyncStatus};

/// How long facts may take to reach every region.
const CONVERGENCE: Duration = Duration::from_secs(60);
const LOG_LINES: usize = 12;

/// A running cluster; clones are the same one. The last one gone ends it.
#[derive(Clone)]
pub struct TestCluster {
    cluster: Arc<Cluster>,
    pub tasks: TaskTracker,
}

impl Deref for TestCluster {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

impl TestCluster {
    /// The demo's three regions with their tenants.
    pub async fn start() -> Self {
        Self::start_as(Cluster::builder()).await
    }

    /// Whatever the builder describes.
    pub async fn start_as(builder: Builder) -> Self {
        let cluster = builder.start().await.unwrap_or_else(|error| panic!("no cluster: {error:#}"));
        Self { cluster: Arc::new(cluster), tasks: TaskTracker::new() }
    }

    /// The amount of a trip's only fact of a kind, once every region's ledger has it.
    pub async fn ledger_everywhere(&self, trip: TripId, kind: &str) -> i64 {
        let mut amounts = Vec::new();
        for region in self.regions() {
            let operator = self.operator_at(&region).await;
            let what = format!("{region} has the {kind}");
            let found = eventually_within(CONVERGENCE, &what, async || {
                let ledger = operator.all_settlements().await.map_err(|error| error.to_string())?;
                let found: Vec<_> =
                    ledger.into_iter().filter(|fact| fact.trip_id == trip && fact.kind == kind).collect();
                if found.is_empty() { Err("not there".to_owned()) } else { Ok(found) }
            });
            let found = found.await;
            assert_eq!(found.len(), 1, "{region}: {found:?}");
            amounts.push(found[0].amount);
        }
        assert!(amounts.windows(2).all(|pair| pair[0] == pair[1]), "{amounts:?}");
        amounts[0]
    }

    /// The cluster beneath, for what takes it as a whole.
    pub fn shared(&self) -> Arc<Cluster> {
        self.cluster.clone()
    }

    /// A tenant in its home region.
    pub fn city(&self, tenant: &str) -> TestCity {
        let tenant = self.tenant(tenant);
        TestCity::new(self.client(&tenant.home_region), &tenant.id, &tenant.home_region, self.tasks.clone())
    }

    /// Nobody yet, at a region's address.
    pub fn client(&self, region: &str) -> Client {
        Client::new(&self.http_url(region))
    }

    /// An operator of the platform, at a region's address.
    pub async fn operator_at(&self, region: &str) -> Client {
        let operator = self.operator();
        let client = self.client(region);
        let credentials =
            Credentials::Client { id: operator.client_id.clone(), secret: operator.client_secret.clone() };
        client.sign_in(credentials).await.expect("the operator signs in");
        client
    }

    /// A tenant's back office, at a region's address.
    pub async fn office(&self, tenant: &str, region: &str) -> Client {
        let tenant = self.tenant(tenant);
        let client = self.client(region).for_tenant(&tenant.id);
        let credentials = Credentials::Client { id: tenant.client_id, secret: tenant.client_secret };
        client.sign_in(credentials).await.expect("the back office signs in");
        client
    }

    /// What a region's global-sync says of itself.
    pub async fn sync_status(&self, region: &str) -> Result<SyncStatus, crate::api::ApiError> {
        Client::new(&self.status_url(region)).sync_status().await
    }

    /// Waits until all regions hold the same facts, which is what equal digests mean, and every fact there is: none waits for its
    /// number, or to be applied.
    pub async fn converged(&self) -> String {
        eventually_within(CONVERGENCE, "all regions hold the same facts", async || {
            let mut seen = String::new();
            let (mut digests, mut waiting) = (Vec::new(), 0);
            for region in self.regions() {
                let status = self.sync_status(&region).await.map_err(|error| format!("{region}: {error}"))?;
                // The digest may be a second old: what has come since shows here.
                let unapplied: u64 = status.logs.values().map(|log| log.stored.saturating_sub(log.applied)).sum();
                let waits = status.outbox.pending + unapplied;
                let _ = write!(seen, "{region}: {} {:?}, {waits} wait; ", status.digest, status.version_vector);
                waiting += waits;
                digests.push((status.digest, status.version_vector));
            }
            let equal = digests.windows(2).all(|pair| pair[0] == pair[1]);
            digests.pop().filter(|_| equal && waiting == 0).map(|(digest, _)| digest).ok_or(seen)
        })
        .await
    }

    /// The end of every program's log, for whoever has to find out why a test failed.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for (region, service, _) in self.processes() {
            if matches!(service, Service::RegionNode(_) | Service::GlobalSync(_)) {
                let file = self.log_file(&region, service);
                let _ = writeln!(text, "--- {region} {service}\n{}", last_lines(&file, LOG_LINES));
            }
        }
        text
    }
}
