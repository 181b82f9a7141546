//! A region of its own for each section: release programs, an empty database, one tenant.

use std::time::Duration;

use anyhow::{Context, ensure};
use deploy_local::{Cluster, Durability, TenantSpec};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio_util::task::TaskTracker;

use super::{Meter, Person, Signer};
use crate::api::{Client, Credentials};

const REGION: &str = "us-east";
/// How long the region may take to hear of the bench's signing key.
const KEY_KNOWN_WITHIN: Duration = Duration::from_secs(20);

/// A region to be measured.
pub struct Stand {
    pub cluster: Cluster,
    pub tenant: String,
    pub signer: Signer,
    /// As superuser.
    pub database: PgPool,
    pub tasks: TaskTracker,
}

impl Stand {
    /// One region with a global-sync and so many region-nodes. Commits are synced, as in production.
    pub async fn start(nodes: u16) -> anyhow::Result<Self> {
        let spec = TenantSpec::demo(&[REGION.to_owned()]).into_iter().next().context("the demo has tenants")?;
        let tenant = spec.id.clone();
        let builder = Cluster::builder().regions([REGION]).region_nodes(nodes).links(false).tenants([spec]);
        let cluster = builder.durability(Durability::PowerCut).start().await?;
        let operator = cluster.operator();
        let credentials =
            Credentials::Client { id: operator.client_id.clone(), secret: operator.client_secret.clone() };
        let session = Client::new(&cluster.http_url(REGION)).sign_in(credentials).await?;
        let signer = Signer::like(&session.access_token)?;
        let database = PgPoolOptions::new().max_connections(4).connect(&cluster.postgres_url(REGION)).await?;
        let stand = Self { cluster, tenant, signer, database, tasks: TaskTracker::new() };
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
        let answer = Client::new(&self.url()).call(reqwest::Method::GET, "/metrics").unsigned().send().await?;
        let value = |line: &str| line.rsplit_once(' ')?.1.parse::<f64>().ok();
        let text = answer.text();
        let is_of = |line: &&str| {
            let rest = line.strip_prefix(name);
            rest.is_some_and(|rest| rest.starts_with([' ', '{'])) && line.contains(label)
        };
        let values: Vec<f64> = text.lines().filter(is_of).filter_map(value).collect();
        Ok((!values.is_empty()).then(|| values.iter().sum()))
    }

    /// Transactions Postgres has committed so far.
    pub async fn transactions(&self) -> anyhow::Result<f64> {
        let count: i64 = sqlx::query_scalar("SELECT xact_commit FROM pg_stat_database WHERE datname = 'gocomet'")
            .fetch_one(&self.database)
            .await?;
        Ok(count as f64)
    }

    /// Lists the bench's key in the directory and waits until the region takes its tokens.
    async fn announce_key(&self) -> anyhow::Result<()> {
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
