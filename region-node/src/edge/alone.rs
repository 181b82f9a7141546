//! Role `edge`: no database; follows any full node's directory, keys and published config, and goes on with what it knows
//! when all are gone.
//!
//! Of several full nodes the first that answers is followed and takes what any region can answer; what only this region can
//! goes to it if it is of this region, else to the region's own address. Keys and routes are always answered from memory, a
//! tenant's config only while no full node answers.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{Request, State},
    http::{HeaderMap, Method, header},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use shared::{
    clock::Clock,
    ids::{RegionName, TenantId},
    problem::Code,
    tenant_config::TenantConfig,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use super::{Decision, Edge, GIVEN_BY_EDGE, Inner, SERVED_BY, Target};
use crate::{
    app::http_client,
    config::{Config, OperatorConfig, Upstreams},
    http::{DRAIN, Limits, Problem, bearer, router},
    identity::{Tokens, verify},
    serve,
    tenants::{Directory, DirectoryCell, Route, TenantHeader, may_configure, named_tenant},
};

/// A full node that takes longer to answer the follower counts as down.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// Serves an edge until `stop`.
pub async fn serve(config: Config, metrics: PrometheusHandle, stop: CancellationToken) -> anyhow::Result<()> {
    let (edge, follower) = assemble(&config, &stop)?;
    let tasks = edge.0.tasks.clone();
    tasks.spawn(follower.run(config.edge.directory_refresh, stop.clone()));
    let own = Router::new().route("/metrics", get(move || std::future::ready(metrics.render())));
    let (service, internal) = match config.http.internal_listen {
        None => (service(&edge, &config).merge(own), Router::new()),
        Some(_) => {
            let internal = health().fallback(nothing).with_state(edge.clone());
            (service(&edge, &config), router::named(internal, &edge).merge(own))
        }
    };
    serve::listen(service, internal, &config.http, &stop).await?;
    tasks.close();
    if tokio::time::timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("some background work did not end in time");
    }
    Ok(())
}

pub(super) fn assemble(config: &Config, stop: &CancellationToken) -> anyhow::Result<(Edge, Follower)> {
    let upstreams = config.edge.upstream.clone();
    let Upstreams(upstreams) =
        upstreams.context("edge.upstream is missing; set it in the file or as REGION_NODE_EDGE__UPSTREAM")?;
    let operator = config.operator.clone();
    let operator =
        operator.context("operator.client_id and operator.client_secret are missing; the edge signs in with them")?;
    let (region, ttl) = (config.region.name.clone(), config.tokens.access_ttl);
    let tokens = Tokens::new(&config.region.cluster_id, region.clone(), ttl, Clock::system(), None);
    let directory = DirectoryCell::default();
    let cell = directory.clone();
    let edge = Edge(Arc::new(Inner {
        region,
        directory: Box::new(move || cell.get()),
        peers: config.edge.peers.clone(),
        http: http_client(config.edge.connect_timeout)?,
        config: config.edge.clone(),
        body_limit_bytes: config.http.body_limit_bytes,
        body_timeout: config.http.request_timeout,
        tasks: TaskTracker::new(),
        stop: stop.clone(),
        alone: Some(Alone { tokens, followed: RwLock::default(), published: RwLock::default() }),
    }));
    let follower = Follower { edge: edge.clone(), upstreams, operator, directory, session: None };
    Ok((edge, follower))
}

/// What the edge answers itself, behind the layers both roles share; the rest is routed before it gets there.
pub(super) fn service(edge: &Edge, config: &Config) -> Router {
    let tokens = edge.0.alone.as_ref().map(|alone| alone.tokens.clone()).expect("an edge alone has tokens");
    let own = health()
        .route("/v1/route", get(route))
        .route("/.well-known/jwks.json", get(jwks))
        .fallback(nothing)
        .with_state(edge.clone());
    router::outer(own, edge, &config.http, Limits::new(config.limits, tokens))
}

fn health() -> Router<Edge> {
    Router::new()
        .route("/health/live", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/health/ready", get(ready))
        .route("/health", get(ready))
}

async fn nothing() -> Problem {
    Problem::not_found("nothing is here")
}

async fn ready(State(edge): State<Edge>) -> Response {
    let tenants = edge.0.alone.as_ref().map_or(0, Alone::tenants);
    match (edge.0.directory)().regions.len() {
        0 => no_directory().into_response(),
        regions => {
            Json(json!({"status": "ok", "role": "edge", "regions": regions, "tenants": tenants})).into_response()
        }
    }
}

async fn route(State(edge): State<Edge>, headers: HeaderMap) -> Result<Json<Route>, Problem> {
    let directory = (edge.0.directory)();
    let tenant = named_tenant(&headers, &directory)?.ok_or_else(TenantHeader::missing)?;
    let route = Route::find(&directory, tenant.clone())?;
    let known = edge.0.alone.as_ref().and_then(|alone| alone.config_of(&tenant));
    Ok(Json(match known {
        Some(config) => route.described_by(&config),
        None => route,
    }))
}

async fn jwks(State(edge): State<Edge>) -> Result<Response, Problem> {
    let alone = edge.0.alone.as_ref().filter(|_| !(edge.0.directory)().regions.is_empty()).ok_or_else(no_directory)?;
    Ok(([(header::CACHE_CONTROL, "public, max-age=60")], Json(alone.tokens.known_jwks())).into_response())
}

fn no_directory() -> Problem {
    Problem::new(Code::Unavailable, "the directory has not arrived yet").retry_after(1)
}

/// What an edge without a database knows beside the directory.
pub(super) struct Alone {
    tokens: Tokens,
    /// The full node that answered last.
    followed: RwLock<Option<Followed>>,
    /// The config of each tenant that runs, without its credentials, and the number of the version that was due when it was
    /// read.
    published: RwLock<HashMap<TenantId, (i64, Published)>>,
}

#[derive(Clone)]
struct Followed {
    url: Url,
    region: RegionName,
}

/// A published version as the API shows it.
#[derive(Clone, Deserialize, Serialize)]
struct Published {
    version: i64,
    config: Value,
    published_at: String,
}

impl Alone {
    /// Refuses what would only cost others: a token no region signed. Says where the rest goes.
    pub(super) fn admit(&self, edge: &Edge, decision: &Decision, request: &Request) -> Result<Target, Problem> {
        // Without a directory no token can be told from a forged one.
        let followed = self.followed.read().expect("no holder of this lock panics").clone().ok_or_else(no_directory)?;
        if let Some(token) = bearer(request.headers()).filter(|_| request.uri().path() != "/v1/auth/token") {
            self.tokens.verify(token)?;
        }
        let own = &edge.0.region;
        Ok(match decision {
            Decision::Home(region) if region != own => Target::region(edge, region.clone()),
            Decision::Home(_) if followed.region != *own => {
                Target { mark: &GIVEN_BY_EDGE, ..Target::region(edge, own.clone()) }
            }
            Decision::Home(_) | Decision::Anywhere | Decision::Own => {
                Target { region: followed.region, base_url: Some(followed.url), mark: &GIVEN_BY_EDGE }
            }
        })
    }

    /// How many tenants' config is known.
    fn tenants(&self) -> usize {
        self.published.read().expect("no holder of this lock panics").len()
    }

    /// What is known of a tenant's config, as far as this version can read it.
    fn config_of(&self, tenant: &TenantId) -> Option<TenantConfig> {
        let published = self.published.read().expect("no holder of this lock panics");
        TenantConfig::from_published(&published.get(tenant)?.1.config).ok()
    }

    /// What stands in for the answer to `request` if none comes: the published part of a tenant's config, for whom may see it.
    pub(super) fn remembered(&self, request: &Request) -> Option<Response> {
        let id = request.uri().path().strip_prefix("/v1/tenants/")?.strip_suffix("/config")?;
        if request.method() != Method::GET {
            return None;
        }
        let tenant: TenantId = request.headers().get("x-tenant-id")?.to_str().ok()?.parse().ok()?;
        let caller = verify(&self.tokens, bearer(request.headers())?, &tenant).ok()?;
        may_configure(&caller, id).ok()?;
        let (_, running) = self.published.read().expect("no holder of this lock panics").get(&tenant).cloned()?;
        let region = self.followed.read().expect("no holder of this lock panics").clone()?.region;
        Some(
            Json(json!({
                "config": running.config,
                "heads": [],
                "conflicts": [],
                "published": running,
                "running": {"region": region, "version": running, "refused": []},
                "rollout": {"pinned": null, "pinned_here": null, "stable": null, "canary": null, "regions": []},
                "rejected": ["no region answers this edge: it shows the published version it knows, and no draft"],
            }))
            .into_response(),
        )
    }
}

/// Keeps what an edge knows like the first full node that answers.
pub(super) struct Follower {
    edge: Edge,
    upstreams: Vec<Url>,
    operator: OperatorConfig,
    directory: DirectoryCell,
    session: Option<Session>,
}

/// The edge's own sign-in, good in every region.
struct Session {
    token: String,
    renew_at: Instant,
}

#[derive(Deserialize)]
struct SignedIn {
    access_token: String,
    expires_in: u64,
}

#[derive(Deserialize)]
struct ConfigAnswer {
    running: Running,
}

#[derive(Deserialize)]
struct Running {
    version: Option<Published>,
}

impl Follower {
    async fn run(mut self, every: Duration, stop: CancellationToken) {
        loop {
            let followed = stop.run_until_cancelled(self.follow()).await;
            self.directory.report();
            if followed.is_none() || stop.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }

    /// Follows the first full node that answers.
    pub(super) async fn follow(&mut self) {
        for upstream in self.upstreams.clone() {
            match self.follow_one(&upstream).await {
                Ok(()) => return,
                Err(error) => {
                    self.session = None;
                    tracing::warn!(%upstream, error = format!("{error:#}"), "{upstream} cannot be followed");
                }
            }
        }
        tracing::warn!("no full node answers; what is known goes on being served");
    }

    async fn follow_one(&mut self, upstream: &Url) -> anyhow::Result<()> {
        let token = self.token(upstream).await?;
        let (directory, region): (Directory, _) = self.get(upstream, "/v1/directory", &token, None).await?;
        let alone = self.edge.0.alone.as_ref().context("an edge alone follows")?;
        alone.tokens.learn(directory.regions.values().map(|region| &region.jwks));
        self.directory.set(directory);
        *alone.followed.write().expect("no holder of this lock panics") =
            Some(Followed { url: upstream.clone(), region });
        self.follow_configs(upstream, &token).await
    }

    /// Reads anew where another version is due than before; the directory has its numbers.
    async fn follow_configs(&self, upstream: &Url, token: &str) -> anyhow::Result<()> {
        let alone = self.edge.0.alone.as_ref().context("an edge alone follows")?;
        let directory = self.directory.get();
        let changed: Vec<_> = {
            let mut published = alone.published.write().expect("no holder of this lock panics");
            published.retain(|tenant, _| directory.homes.contains_key(tenant));
            let known = |tenant| published.get(tenant).map(|(due, _)| *due);
            let due = directory.homes.iter().filter_map(|(id, home)| Some((id, home.config_version?)));
            due.filter(|(id, due)| known(*id) != Some(*due)).map(|(id, due)| (id.clone(), due)).collect()
        };
        for (tenant, due) in changed {
            let path = format!("/v1/tenants/{tenant}/config");
            let (answer, _): (ConfigAnswer, _) = self.get(upstream, &path, token, Some(&tenant)).await?;
            if let Some(running) = answer.running.version {
                alone.published.write().expect("no holder of this lock panics").insert(tenant, (due, running));
            }
        }
        Ok(())
    }

    /// What a full node answers, and the region it is of.
    async fn get<T: DeserializeOwned>(
        &self,
        upstream: &Url,
        path: &str,
        token: &str,
        tenant: Option<&TenantId>,
    ) -> anyhow::Result<(T, RegionName)> {
        let mut request = self.edge.0.http.get(upstream.join(path)?).bearer_auth(token).timeout(ANSWER_WITHIN);
        if let Some(tenant) = tenant {
            request = request.header("x-tenant-id", tenant.as_str());
        }
        let answer = request.send().await?.error_for_status()?;
        let region = answer.headers().get(&SERVED_BY).and_then(|region| region.to_str().ok()?.parse().ok());
        let region = region.context("it does not say which region it is of")?;
        Ok((answer.json().await?, region))
    }

    async fn token(&mut self, upstream: &Url) -> anyhow::Result<String> {
        if let Some(session) = self.session.as_ref().filter(|session| session.renew_at > Instant::now()) {
            return Ok(session.token.clone());
        }
        let grant = json!({
            "grant_type": "client_credentials",
            "client_id": self.operator.client_id,
            "client_secret": self.operator.client_secret.expose_secret(),
        });
        let request = self.edge.0.http.post(upstream.join("/v1/auth/token")?).json(&grant).timeout(ANSWER_WITHIN);
        let SignedIn { access_token, expires_in } = request.send().await?.error_for_status()?.json().await?;
        let renew_at = Instant::now() + Duration::from_secs(expires_in / 2);
        self.session = Some(Session { token: access_token.clone(), renew_at });
        Ok(access_token)
    }
}
