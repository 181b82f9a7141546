//! The edge: every call is routed by its tenant to the tenant's home region, once.
//!
//! What is answered where it arrives, so that it works through a partition, is listed in [`decide`]. Everything else of a
//! tenant at home elsewhere is forwarded as it comes, bodies and upgrades streaming, and nothing of it is stored here.

mod alone;
mod decide;
mod forward;

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue},
    middleware::Next,
    response::{IntoResponse, Response},
};
use shared::{ids::RegionName, problem::Code};
use tokio_util::task::TaskTracker;
use url::Url;

pub use alone::serve as serve_alone;

use crate::{
    app::App,
    config::{EdgeConfig, PeerUrls},
    http::Problem,
    tenants::Directory,
};
use decide::Decision;

/// Says that an edge forwarded the call, and which; a forwarded call is never forwarded again.
pub(crate) static FORWARDED_BY: HeaderName = HeaderName::from_static("x-gocomet-forwarded-by");
static SERVED_BY: HeaderName = HeaderName::from_static("x-served-by-region");
static EDGE_REGION: HeaderName = HeaderName::from_static("x-edge-region");

/// What routing needs; both roles have it. Cheap to clone.
#[derive(Clone)]
pub struct Edge(Arc<Inner>);

struct Inner {
    region: RegionName,
    directory: Box<dyn Fn() -> Arc<Directory> + Send + Sync>,
    peers: PeerUrls,
    http: reqwest::Client,
    config: EdgeConfig,
    body_limit_bytes: usize,
    tasks: TaskTracker,
    /// An edge without a database sends even what is answered locally to this node.
    upstream: Option<Url>,
}

impl Edge {
    /// The edge in front of a full node.
    pub fn of(app: &App) -> Self {
        let cell = app.tenants.directory_cell();
        Self(Arc::new(Inner {
            region: app.region.clone(),
            directory: Box::new(move || cell.get()),
            peers: app.config.edge.peers.clone(),
            http: app.http.clone(),
            config: app.config.edge.clone(),
            body_limit_bytes: app.config.http.body_limit_bytes,
            tasks: app.tasks.clone(),
            upstream: None,
        }))
    }

    /// The region this edge stands in.
    pub fn region(&self) -> &RegionName {
        &self.0.region
    }

    /// Says who took the call and who answered it, unless the home region said so already.
    pub fn sign_answer(&self, response: &mut Response) {
        let own = HeaderValue::from_str(self.0.region.as_str()).expect("a region's name is ASCII");
        let headers = response.headers_mut();
        headers.insert(EDGE_REGION.clone(), own.clone());
        headers.entry(SERVED_BY.clone()).or_insert(own);
    }

    fn base_url(&self, region: &RegionName) -> Option<Url> {
        let configured = self.0.peers.0.get(region).cloned();
        configured.or_else(|| (self.0.directory)().regions.get(region)?.base_url.parse().ok())
    }
}

/// Routes a call: answers it here, forwards it home, or refuses it.
pub async fn route(State(edge): State<Edge>, request: Request, next: Next) -> Response {
    let (decision, request) = match decide::decide(&edge, request).await {
        Ok(decided) => decided,
        Err(problem) => return problem.into_response(),
    };
    let target = match decision {
        Decision::Own => return next.run(request).await,
        Decision::Here => match &edge.0.upstream {
            None => return next.run(request).await,
            Some(upstream) => (edge.0.region.clone(), Some(upstream.clone())),
        },
        Decision::Home(region) => {
            if request.headers().contains_key(&FORWARDED_BY) {
                let detail = format!("region {} is not the tenant's home, nor was the one before", edge.0.region);
                return Problem::new(Code::RoutingLoop, detail).into_response();
            }
            let base_url = edge.base_url(&region);
            (region, base_url)
        }
    };
    let (region, base_url) = target;
    let unreachable = |detail: String| Problem::new(Code::HomeRegionUnreachable, detail).retry_after(2);
    let Some(base_url) = base_url else {
        return unreachable(format!("the home region {region} is not known here yet")).into_response();
    };
    forward::forward(&edge, &base_url, request).await.unwrap_or_else(|error| {
        tracing::warn!(%error, %region, "a call could not be forwarded");
        unreachable(format!("the home region {region} does not answer")).into_response()
    })
}
