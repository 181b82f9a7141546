//! Where a call is answered.

use axum::{body::Body, extract::Request, http::Method};
use serde::{Deserialize, de::DeserializeOwned};
use shared::{
    ids::{RegionName, TenantId},
    problem::Code,
};

use super::Edge;
use crate::{
    http::{Problem, read_body},
    identity::KnownIn,
    tenants::tenant_in_query,
};

/// Where a call is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Decision {
    /// By the process it arrived at, whatever its role.
    Own,
    /// By any full node: in the region it arrived in, if one is there.
    Anywhere,
    /// In this region alone.
    Home(RegionName),
}

/// Decides; the request is given back, its body buffered if the decision had to look at it.
pub(super) async fn decide(edge: &Edge, request: Request) -> Result<(Decision, Request), Problem> {
    let path = request.uri().path();
    if path == "/v1/auth/token" && request.method() == Method::POST {
        return Box::pin(decide_sign_in(edge, request)).await;
    }
    if rehomed(path).is_some() && request.method() == Method::POST {
        return Box::pin(decide_rehoming(edge, request)).await;
    }
    let is_remembered = edge.0.alone.is_some() && is_remembered(edge, &request);
    if path.starts_with("/health") || path == "/metrics" || is_remembered {
        return Ok((Decision::Own, request));
    }
    let routed = path.starts_with("/v1/") || path.starts_with("/socket.io");
    let decision = if let Some(region) = region_named_in(path) {
        decide_by_region(edge, region)
    } else if !routed || is_answered_anywhere(path, request.method()) {
        Decision::Anywhere
    } else {
        decide_by_tenant(edge, tenant_of(&request))
    };
    Ok((decision, request))
}

/// What an edge without a database answers from memory: the keys, and the routes of tenants it has heard of. One made a moment
/// ago is asked for at a full node.
fn is_remembered(edge: &Edge, request: &Request) -> bool {
    match request.uri().path() {
        "/.well-known/jwks.json" => true,
        "/v1/route" => tenant_of(request).is_some_and(|tenant| (edge.0.directory)().homes.contains_key(&tenant)),
        _ => false,
    }
}

/// The region a call is about.
fn region_named_in(path: &str) -> Option<&str> {
    path.strip_prefix("/v1/regions/")?.split('/').next()
}

fn is_known(edge: &Edge, region: &RegionName) -> bool {
    *region == edge.0.region || edge.base_url(region).is_some()
}

/// A region nobody knows is refused by whoever answers.
fn decide_by_region(edge: &Edge, region: &str) -> Decision {
    let region = region.parse().ok().filter(|region| is_known(edge, region));
    region.map_or(Decision::Anywhere, Decision::Home)
}

/// What every region holds, and therefore answers: config, the ledger, regions, homes.
fn is_answered_anywhere(path: &str, method: &Method) -> bool {
    matches!(
        path,
        "/v1/regions" | "/v1/route" | "/v1/settlements" | "/v1/settlements/rollup" | "/v1/directory" | "/v1/moves"
    ) || path.starts_with("/v1/moves/")
        || (path == "/v1/tenants" && method == Method::POST)
        || path.strip_prefix("/v1/tenants/").is_some_and(|rest| {
            ["/config", "/config/versions", "/config/pin/here"].iter().any(|path| rest.ends_with(path))
        })
}

/// The tenant that is to move by a call of this path, or no more.
fn rehomed(path: &str) -> Option<&str> {
    let rest = path.strip_prefix("/v1/tenants/")?;
    rest.strip_suffix("/rehome").or_else(|| rest.strip_suffix("/rehome/cancel"))
}

/// The tenant a call names: in the path, where an operator moves it, in the header, or, for those who cannot set one, in the
/// query.
pub(super) fn tenant_of(request: &Request) -> Option<TenantId> {
    if let Some(tenant) = rehomed(request.uri().path()) {
        return tenant.parse().ok();
    }
    let named = request.headers().get("x-tenant-id").and_then(|value| value.to_str().ok());
    named.or_else(|| tenant_in_query(request.uri()))?.parse().ok()
}

/// A tenant nobody knows is refused by whoever answers.
fn decide_by_tenant(edge: &Edge, tenant: Option<TenantId>) -> Decision {
    let directory = (edge.0.directory)();
    let home = tenant.and_then(|tenant| directory.homes.get(&tenant));
    home.map_or(Decision::Anywhere, |home| Decision::Home(home.region.clone()))
}

#[derive(Deserialize)]
struct GrantKind {
    grant_type: Option<String>,
    refresh_token: Option<String>,
}

/// Riders and drivers sign in at home, where their accounts are, and their sessions go on there; back offices and operators sign
/// in anywhere, and their sessions go on where they began.
async fn decide_sign_in(edge: &Edge, request: Request) -> Result<(Decision, Request), Problem> {
    let tenant = tenant_of(&request);
    let (request, grant) = look_into::<GrantKind>(edge, request).await?;
    let kind = grant.as_ref().and_then(|grant| grant.grant_type.as_deref());
    let decision = match kind {
        Some("password") => decide_by_tenant(edge, tenant),
        Some("refresh_token") => {
            let token = grant.as_ref().and_then(|grant| grant.refresh_token.as_deref()).unwrap_or_default();
            match KnownIn::of(token) {
                Some(KnownIn::HomeOf(tenant)) => decide_by_tenant(edge, Some(tenant)),
                Some(KnownIn::Region(region)) => decide_by_region(edge, region.as_str()),
                None => Decision::Anywhere,
            }
        }
        _ => Decision::Anywhere,
    };
    Ok((decision, request))
}

#[derive(Deserialize)]
struct Rehoming {
    mode: Option<String>,
    to_region: Option<RegionName>,
}

/// A tenant's home hands it over; where the home is gone, the region that is to take its place is asked.
async fn decide_rehoming(edge: &Edge, request: Request) -> Result<(Decision, Request), Problem> {
    let tenant = tenant_of(&request);
    let (request, rehoming) = look_into::<Rehoming>(edge, request).await?;
    let successor =
        rehoming.filter(|asked| asked.mode.as_deref() == Some("failover")).and_then(|asked| asked.to_region);
    let successor = successor.filter(|region| is_known(edge, region));
    Ok((successor.map_or_else(|| decide_by_tenant(edge, tenant), Decision::Home), request))
}

/// What the body says, if it says that; the request is given back with its body.
async fn look_into<T: DeserializeOwned>(edge: &Edge, request: Request) -> Result<(Request, Option<T>), Problem> {
    let (parts, body) = request.into_parts();
    let read = tokio::time::timeout(edge.0.body_timeout, read_body(body, edge.0.body_limit_bytes)).await;
    let bytes = read.map_err(|_| Problem::new(Code::RequestTimeout, "the body took too long; try again"))??;
    let said = serde_json::from_slice(&bytes).ok();
    Ok((Request::from_parts(parts, Body::from(bytes)), said))
}
