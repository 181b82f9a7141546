//! Role `edge`: no database; follows a full node's directory and keys, and goes on with what it knows when that is gone.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use axum::{
    Json, Router,
    extract::{Request, State},
    http::header,
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::PrometheusHandle;
use secrecy::ExposeSecret;
use serde::Deserialize;
use serde_json::{Value, json};
use shared::{clock::Clock, problem::Code};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

use super::{Edge, Inner};
use crate::{
    app::http_client,
    config::{Config, OperatorConfig},
    http::{Limits, Problem, router},
    identity::Tokens,
    serve,
    tenants::{Directory, DirectoryCell},
};

/// Serves an edge until `stop`.
pub async fn serve(config: Config, metrics: PrometheusHandle, stop: CancellationToken) -> anyhow::Result<()> {
    let upstream = config.edge.upstream.clone();
    let upstream = upstream.context("edge.upstream is missing; set it in the file or as REGION_NODE_EDGE__UPSTREAM")?;
    let operator = config.operator.clone();
    let operator =
        operator.context("operator.client_id and operator.client_secret are missing; the edge signs in with them")?;
    let (region, ttl) = (config.region.name.clone(), config.tokens.access_ttl);
    let tokens = Tokens::new(&config.region.cluster_id, region.clone(), ttl, Clock::system(), None);
    let (directory, tasks) = (DirectoryCell::default(), TaskTracker::new());
    let cell = directory.clone();
    let edge = Edge(Arc::new(Inner {
        region,
        directory: Box::new(move || cell.get()),
        peers: config.edge.peers.clone(),
        http: http_client(config.edge.connect_timeout)?,
        config: config.edge.clone(),
        body_limit_bytes: config.http.body_limit_bytes,
        tasks: tasks.clone(),
        upstream: Some(upstream.clone()),
    }));
    let follower =
        Follower { edge: edge.clone(), upstream, operator, directory: directory.clone(), tokens: tokens.clone() };
    tasks.spawn(follower.run(config.edge.directory_refresh, stop.clone()));

    let own = Router::new()
        .route("/health/live", get(|| async { Json(json!({"status": "ok"})) }))
        .route("/health/ready", get(ready).with_state(directory.clone()))
        .route("/health", get(ready).with_state(directory))
        .route("/metrics", get(move || std::future::ready(metrics.render())));
    // What no route of the edge's own takes is routed; a call that nobody is known for goes upstream and is refused there.
    let own = own.fallback(|| async { Problem::not_found("nothing is here") });
    let service = router::outer(own, &edge, &config.http, Limits::new(config.limits));
    let service = service.layer(middleware::from_fn_with_state(tokens, check_token));
    serve::listen(service, config.http.listen, stop).await?;
    tasks.close();
    tasks.wait().await;
    Ok(())
}

async fn ready(State(directory): State<DirectoryCell>) -> Response {
    match directory.get().regions.len() {
        0 => Problem::new(Code::Unavailable, "the directory has not arrived yet").retry_after(1).into_response(),
        regions => Json(json!({"status": "ok", "role": "edge", "regions": regions})).into_response(),
    }
}

/// Refuses a token no region signed before it costs anybody else anything.
async fn check_token(State(tokens): State<Tokens>, request: Request, next: Next) -> Response {
    let bearer = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    match bearer.and_then(|text| text.split_once(' ')).map(|(_, token)| tokens.verify(token.trim())) {
        Some(Err(problem)) => problem.into_response(),
        Some(Ok(_)) | None => next.run(request).await,
    }
}

/// Keeps the directory like the upstream node's.
struct Follower {
    edge: Edge,
    upstream: Url,
    operator: OperatorConfig,
    directory: DirectoryCell,
    tokens: Tokens,
}

#[derive(Deserialize)]
struct SignedIn {
    access_token: String,
}

impl Follower {
    async fn run(self, every: Duration, stop: CancellationToken) {
        let mut token = None;
        loop {
            match self.follow(&mut token).await {
                Ok(()) => {}
                Err(error) => {
                    token = None;
                    tracing::warn!(%error, "the directory could not be read; what is known goes on being served");
                }
            }
            if stop.run_until_cancelled(tokio::time::sleep(every)).await.is_none() {
                return;
            }
        }
    }

    async fn follow(&self, token: &mut Option<String>) -> anyhow::Result<()> {
        let bearer = match token {
            Some(token) => token,
            None => token.insert(self.sign_in().await?),
        };
        let http = &self.edge.0.http;
        let answer = http
            .get(self.upstream.join("/v1/directory")?)
            .bearer_auth(bearer)
            .timeout(Duration::from_secs(5))
            .send()
            .await?
            .error_for_status()?;
        let directory: Directory = answer.json().await?;
        self.tokens.learn(directory.regions.values().map(|region| &region.jwks));
        self.directory.set(directory);
        Ok(())
    }

    async fn sign_in(&self) -> anyhow::Result<String> {
        let grant: Value = json!({
            "grant_type": "client_credentials",
            "client_id": self.operator.client_id,
            "client_secret": self.operator.client_secret.expose_secret(),
        });
        let request = self.edge.0.http.post(self.upstream.join("/v1/auth/token")?).json(&grant);
        let answer = request.timeout(Duration::from_secs(5)).send().await?.error_for_status()?;
        Ok(answer.json::<SignedIn>().await?.access_token)
    }
}
