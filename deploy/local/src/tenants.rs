//! The tenants of a fresh cluster, created as an operator creates them: over the public API.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::failure::Failure;
use crate::region::Credentials;
use crate::wait::until;

const DEMO: [&str; 3] = [
    include_str!("../tenants/manhattan-cabs.json"),
    include_str!("../tenants/porto-taxis.json"),
    include_str!("../tenants/bengaluru-rides.json"),
];

/// A tenant to create.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TenantSpec {
    pub id: String,
    pub name: String,
    pub home_region: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<Value>,
}

impl TenantSpec {
    /// A tenant with the default config.
    pub fn new(id: &str, home_region: &str) -> Self {
        Self { id: id.to_owned(), name: id.to_owned(), home_region: home_region.to_owned(), config: None }
    }

    /// The three companies of the demo, each at home in one of `regions`: its own where that one runs.
    pub fn demo(regions: &[String]) -> Vec<Self> {
        let parse = |text: &&str| serde_json::from_str(text).expect("the demo's tenants are valid");
        let mut all: Vec<Self> = DEMO.iter().map(parse).collect();
        for (index, tenant) in all.iter_mut().enumerate() {
            if !regions.contains(&tenant.home_region) {
                tenant.home_region.clone_from(&regions[index % regions.len()]);
            }
        }
        all
    }
}

/// A tenant of the running cluster, with its back office's credentials.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tenant {
    pub id: String,
    pub home_region: String,
    pub client_id: String,
    pub client_secret: String,
}

/// Creates a tenant, or takes note of one that an earlier, lost answer created.
pub(crate) async fn create(
    http: &reqwest::Client,
    home: &str,
    operator: &Credentials,
    spec: &TenantSpec,
) -> anyhow::Result<Tenant> {
    let token = token(http, home, operator).await?;
    let request = http
        .post(format!("{home}/v1/tenants"))
        .bearer_auth(token)
        .header("Idempotency-Key", format!("make-up-{}", spec.id))
        .json(spec);
    let answer = answer(request, &format!("creating the tenant {}", spec.id)).await?;
    serde_json::from_value(answer).with_context(|| format!("the answer to creating {} is not as documented", spec.id))
}

/// Waits until each region knows where every tenant is at home.
pub(crate) async fn known_everywhere(
    http: &reqwest::Client,
    regions: &BTreeMap<String, String>,
    tenants: &[Tenant],
    limit: Duration,
) -> anyhow::Result<()> {
    for (region, url) in regions {
        for tenant in tenants {
            let asked = || async {
                let answer = http.get(format!("{url}/v1/route")).header("X-Tenant-Id", &tenant.id).send().await.ok()?;
                answer.status().is_success().then_some(())
            };
            let late = || {
                Failure::new(
                    format!("{region} has not heard of the tenant {} after {} s", tenant.id, limit.as_secs()),
                    "see the logs of global-sync",
                )
            };
            until(limit, asked).await.ok_or_else(late)?;
        }
    }
    Ok(())
}

async fn token(http: &reqwest::Client, url: &str, operator: &Credentials) -> anyhow::Result<String> {
    let body = json!({"grant_type": "client_credentials", "client_id": operator.client_id, "client_secret": operator.client_secret});
    let answer = answer(http.post(format!("{url}/v1/auth/token")).json(&body), "signing in as operator").await?;
    answer["access_token"].as_str().map(str::to_owned).context("the sign-in's answer holds no token")
}

async fn answer(request: reqwest::RequestBuilder, what: &str) -> anyhow::Result<Value> {
    let answer = request.send().await.with_context(|| format!("{what} failed"))?;
    let status = answer.status();
    let text = answer.text().await?;
    if !status.is_success() {
        return Err(Failure::new(format!("{what} was refused: {status} {text}"), "see the log of region-node").into());
    }
    Ok(serde_json::from_str(&text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demo_tenants_live_where_their_region_runs_and_elsewhere_otherwise() {
        let homes = |regions: &[&str]| {
            let regions: Vec<String> = regions.iter().map(|name| (*name).to_owned()).collect();
            TenantSpec::demo(&regions).into_iter().map(|tenant| tenant.home_region).collect::<Vec<_>>()
        };
        assert_eq!(homes(&["us-east", "eu-west", "ap-south"]), ["us-east", "eu-west", "ap-south"]);
        assert_eq!(homes(&["a", "b"]), ["a", "b", "a"]);
    }

    #[test]
    fn demo_tariffs_are_whole_numbers_of_the_smallest_coin() {
        for tenant in TenantSpec::demo(&["x".to_owned()]) {
            let config = tenant.config.unwrap();
            for class in config["vehicle_classes"].as_array().unwrap() {
                let tariff = &config["tariffs"][class.as_str().unwrap()];
                for part in ["base", "per_km", "per_minute", "waiting_per_minute", "minimum", "booking_fee"] {
                    assert!(tariff[part].is_u64(), "{} {class} {part}", tenant.id);
                }
            }
        }
    }
}
