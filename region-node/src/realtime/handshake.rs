//! Who may connect: the same tokens and the same refusals as over HTTP.

use serde::Deserialize;
use shared::{ids::TenantId, problem::Code};

use super::refusal::Refusal;
use crate::{
    app::App,
    identity::{Caller, verify},
};

/// What a client sends when it connects.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Auth {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    tenant: Option<String>,
}

/// Checks a connection; `parts` is the HTTP request it came with, by which an edge may have routed it.
pub(super) fn authenticate(app: &App, auth: Auth, parts: &axum::http::request::Parts) -> Result<Caller, Refusal> {
    let routed_by = named_in(parts);
    if let (Some(routed_by), Some(named)) = (&routed_by, &auth.tenant)
        && routed_by != named
    {
        return Err(Code::TenantMismatch.into());
    }
    let tenant = auth.tenant.or(routed_by).ok_or(Code::TenantRequired)?;
    let tenant: TenantId = tenant.parse().map_err(|_| Code::UnknownTenant)?;
    let directory = app.tenants.directory();
    let home = directory.homes.get(&tenant).ok_or(Code::UnknownTenant)?;
    if home.region != app.region {
        let base_url = directory.regions.get(&home.region).map(|region| region.base_url.clone());
        return Err(Refusal { code: Code::WrongRegion, base_url });
    }
    let token = auth.token.filter(|token| !token.is_empty()).ok_or(Code::Unauthenticated)?;
    verify(&app.tokens, &token, &tenant).map_err(|problem| problem.code().into())
}

/// The tenant in the header, or, for browsers, in the query.
fn named_in(parts: &axum::http::request::Parts) -> Option<String> {
    let header = parts.headers.get("x-tenant-id").and_then(|value| value.to_str().ok());
    let query = || parts.uri.query()?.split('&').find_map(|pair| pair.strip_prefix("tenant="));
    header.or_else(query).map(str::to_owned)
}

impl From<Code> for Refusal {
    fn from(code: Code) -> Self {
        Self { code, base_url: None }
    }
}
