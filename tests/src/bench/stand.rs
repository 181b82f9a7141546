//! A region of its own for each section: release programs, an empty database, one tenant.

use std::time::Duration;

use anyhow::{Context, ensure};
use deploy_local::{Builder, Cluster, Durability, Service, TenantSpec};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::task::TaskTracker;

use super::{Meter, Person, Signer, memory_kib, sum_of_metric};
use crate::api::{Client, Credentials};

const REGION: &str = "us-east";
/// What a Postgres with a machine of its own is given, in deploy/README.md as well: pages of the tables in use stay in memory, and
/// few are written to the log whole, which the first change after each checkpoint does.
const POSTGRES: [&str; 3] = ["shared_buffers = 1GB", "max_wal_size = 4GB", "checkpoint_timeout = 15min"];
/// How long the region may take to hear of the bench's signing key.
const KEY_KNOWN_WITHIN: Duration = Duration::from_secs(20);

/// A region to be measured.
pub struct Stand {
    pub cluster: Cluster,
    pub tenant: String,
    pub signer: Signer,
    /// Signed in.
    pub operator: Client,
    /// As superuser.
    pub database: PgPool,
    pub tasks: TaskTracker,
}

impl Stand {
    /// One region with a global-sync and so many region-nodes. Commits are synced and Postgres has memory, as in production.
    pub async fn start(nodes: u16) -> anyhow::Result<Self> {
        Self::start_with(nodes, |builder| builder).await
    }

    /// The same with other settings.
    pub async fn start_with(nodes: u16, settings: impl FnOnce(Builder) -> Builder) -> anyhow::Result<Self> {
        let spec = TenantSpec::demo(&[REGION.to_owned()]).into_iter().next().context("the demo has tenants")?;
        let tenant = spec.id.clone();
        let builder = Cluster::builder().regions([REGION]).region_nodes(nodes).links(false).tenants([spec]);
        let builder = POSTGRES
            .iter()
            .fold(builder.durability(Durability::PowerCut), |builder, line| builder.postgres_setting(line));
        let cluster = settings(builder).start().await?;
        let account = cluster.operator();
        let credentials = Credentials::Client { id: account.client_id.clone(), secret: account.client_secret.clone() };
        let client = Client::new(&cluster.http_url(REGION));
        let session = client.sign_in(credentials).await?;
        let operator = client.naming_tenant(&tenant);
        let signer = Signer::like(&session.access_token)?;
        let database = PgPoolOptions::new().max_connections(4).connect(&cluster.postgres_url(REGION)).await?;
        let stand = Self { cluster, tenant, signer, operator, database, tasks: TaskTracker::new() };
        stand.announce_key().await?;
        Ok(stand)
    }

    /// Where the first node answers.
    pub fn url(&self) -> String {
        self.cluster.http_url(REGION)
    }

    pub fn region(&self) -> &'static str {
        REGION
    }

    /// Counts the CPU of the region's programs from now on.
    pub fn meter(&self) -> anyhow::Result<Meter> {
        Meter::of_region(&self.cluster, REGION)
    }

    /// Somebody's calls to the first node.
    pub async fn client(&self, person: &Person) -> Client {
        let client = Client::new(&self.url()).for_tenant(&self.tenant);
        client.set_token(self.signer.session(&self.tenant, person.role, person.id)).await;
        client
    }

    /// The sum of a metric over all labels, or of those lines that hold `label`; none if the node does not know it.
    pub async fn metric(&self, name: &str, label: &str) -> anyhow::Result<Option<f64>> {
        self.metric_of(1, name, label).await
    }

    /// The same of one of several nodes, counted from 1.
    pub async fn metric_of(&self, node: u16, name: &str, label: &str) -> anyhow::Result<Option<f64>> {
        let url = self.cluster.node_url(REGION, node);
        let answer = self.operator.through(&url).call(reqwest::Method::GET, "/metrics").unsigned().send().await?;
        Ok(sum_of_metric(&answer.text(), name, label))
    }

    /// How much memory a node holds.
    pub fn memory_kib(&self, node: u16) -> anyhow::Result<f64> {
        memory_kib(&self.cluster, REGION, Service::RegionNode(node))
    }

    /// Transactions Postgres has committed so far.
    pub async fn transactions(&self) -> anyhow::Result<f64> {
        let count: i64 = sqlx::query_scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = 'gocomet'")
            .fetch_one(&self.database)
            .await?;
        Ok(count as f64)
    }

    /// Payments settled so far.
    pub async fn settled(&self) -> anyhow::Result<f64> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM payments WHERE status = 'settled'")
            .fetch_one(&self.database)
            .await?;
        Ok(count as f64)
    }

    /// Lists the bench's key in the directory and waits until the region takes its tokens; a node that starts lists the
    /// region's own alone.
    pub async fn announce_key(&self) -> anyhow::Result<()> {
        sqlx::query("UPDATE regions SET jwks = jsonb_set(jwks, '{keys}', jwks->'keys' || $1::jsonb)")
            .bind(json!([self.signer.jwk()]))
            .execute(&self.database)
            .await?;
        sqlx::query("SELECT pg_notify('directory_changed', '')").execute(&self.database).await?;
        let nobody = Person { id: uuid::Uuid::now_v7(), role: "rider" };
        let client = self.client(&nobody).await;
        let known = tokio::time::timeout(KEY_KNOWN_WITHIN, async {
            while client.get::<Value>("/v1/rides?limit=1").await.is_err() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        ensure!(known.await.is_ok(), "the region does not take the bench's tokens");
        Ok(())
    }
}
