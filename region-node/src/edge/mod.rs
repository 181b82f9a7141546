//! The edge: every call is routed by its tenant to the tenant's home region, once.
//!
//! What is answered where it arrives, so that it works through a partition, is listed in [`decide`]. Everything else of a
//! tenant at home elsewhere is forwarded as it comes, bodies and upgrades streaming, and nothing of it is stored here.
//!
//! An edge runs in front of each full node, or alone ([`alone`]); then what is answered in its region goes to a full node.

mod alone;
mod decide;
mod forward;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode},
    middleware::Next,
    response::{IntoResponse, Response},
};
use shared::{ids::RegionName, problem::Code};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use url::Url;

pub use alone::serve as serve_alone;

use crate::{
    app::App,
    config::{EdgeConfig, PeerUrls},
    http::Problem,
    tenants::Directory,
};
use alone::Alone;
use decide::Decision;

/// Says that an edge forwarded the call to another region, and which did; it is never forwarded to a third.
pub(crate) static FORWARDED_BY: HeaderName = HeaderName::from_static("x-gocomet-forwarded-by");
/// Says that an edge without a database gave the call to a full node, which is not forwarding: that one decides. Another
/// such edge refuses it, so that none can send it round.
static GIVEN_BY_EDGE: HeaderName = HeaderName::from_static("x-gocomet-given-by-edge");
/// Which home of the tenant's the forwarding edge knows: another one than the next region knows, and they do not agree yet.
static HOME_EPOCH: HeaderName = HeaderName::from_static("x-gocomet-home-epoch");
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
    /// How long a body that routing has to read may take.
    body_timeout: Duration,
    tasks: TaskTracker,
    /// Ends tunnels.
    stop: CancellationToken,
    /// What an edge without a database knows beside the directory.
    alone: Option<Alone>,
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
            body_timeout: app.config.http.request_timeout,
            tasks: app.tasks.clone(),
            stop: app.stop.clone(),
            alone: None,
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

    /// The home of the tenant a call names, as known here.
    fn home_epoch(&self, request: &Request) -> Option<String> {
        let epoch = (self.0.directory)().homes.get(&decide::tenant_of(request)?)?.epoch;
        Some(format!("{}.{}", epoch.term, epoch.n))
    }

    fn base_url(&self, region: &RegionName) -> Option<Url> {
        let configured = self.0.peers.0.get(region).cloned();
        configured.or_else(|| (self.0.directory)().regions.get(region)?.base_url.parse().ok())
    }
}

/// Where a call goes on to.
struct Target {
    region: RegionName,
    base_url: Option<Url>,
    /// With this header.
    mark: &'static HeaderName,
}

/// Routes a call: answers it here, forwards it home, or refuses it.
pub async fn route(edge: &Edge, request: Request, next: Next) -> Response {
    let (decision, request) = match decide::decide(edge, request).await {
        Ok(decided) => decided,
        Err(problem) => return problem.into_response(),
    };
    let own = &edge.0.region;
    let target = match (&decision, &edge.0.alone) {
        (Decision::Own, _) | (Decision::Anywhere, None) => return next.run(request).await,
        (Decision::Home(region), None) if region == own => return answer_at_home(next.run(request).await),
        (_, Some(alone)) => match alone.admit(edge, &decision, &request) {
            Ok(target) => target,
            Err(problem) => return problem.into_response(),
        },
        (Decision::Home(region), None) => Target::region(edge, region.clone()),
    };
    // Looked at before the call is gone: only what is remembered here can stand in for an answer.
    let remembered = edge.0.alone.as_ref().and_then(|alone| alone.remembered(&request));
    // On the heap: what most calls never do must not make the future of each of them larger, which is moved several times.
    match Box::pin(go_on(edge, target, request)).await {
        Ok(response) => response,
        Err(problem) => remembered.unwrap_or_else(|| problem.into_response()),
    }
}

/// The database knows of a tenant's new home a moment before this node does: then the call is to come again.
fn answer_at_home(response: Response) -> Response {
    match response.status() {
        StatusCode::MISDIRECTED_REQUEST => {
            let detail = "the tenant has just moved to another region";
            Problem::new(Code::TenantMoving, detail).retry_after(1).into_response()
        }
        _ => response,
    }
}

impl Target {
    fn region(edge: &Edge, region: RegionName) -> Self {
        Self { base_url: edge.base_url(&region), region, mark: &FORWARDED_BY }
    }
}

async fn go_on(edge: &Edge, target: Target, request: Request) -> Result<Response, Problem> {
    let Target { region, base_url, mark } = target;
    if request.headers().contains_key(mark) {
        let known_there = request.headers().get(&HOME_EPOCH).and_then(|epoch| epoch.to_str().ok());
        if known_there.is_some_and(|epoch| edge.home_epoch(&request).as_deref() != Some(epoch)) {
            let detail = "the tenant has just moved, and not every region knows it";
            return Err(Problem::new(Code::TenantMoving, detail).retry_after(1));
        }
        let detail = format!("region {} is not the tenant's home, nor was the one before", edge.0.region);
        return Err(Problem::new(Code::RoutingLoop, detail));
    }
    let unreachable = |detail: String| Problem::new(Code::HomeRegionUnreachable, detail).retry_after(2);
    let base_url = base_url.ok_or_else(|| unreachable(format!("the home region {region} is not known here yet")))?;
    forward::forward(edge, &base_url, mark, request).await.map_err(|error| {
        tracing::warn!(%error, %region, "a call could not be forwarded");
        unreachable(format!("the home region {region} does not answer"))
    })
}
