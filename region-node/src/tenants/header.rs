//! The tenant a call names.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, Uri, request::Parts},
};
use shared::{ids::TenantId, problem::Code};

use super::Directory;
use crate::{app::App, http::Problem};

const TENANT: &str = "x-tenant-id";

/// The tenant of `X-Tenant-Id`, known to the directory.
pub struct TenantHeader(pub TenantId);

impl TenantHeader {
    /// The refusal of a call that names none.
    pub(crate) fn missing() -> Problem {
        Problem::new(Code::TenantRequired, "name the tenant in the header X-Tenant-Id")
    }
}

impl FromRequestParts<App> for TenantHeader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let OptionalTenant(tenant) = OptionalTenant::from_request_parts(parts, app).await?;
        tenant.map(Self).ok_or_else(Self::missing)
    }
}

/// The tenant of `X-Tenant-Id`, if one is named.
pub struct OptionalTenant(pub Option<TenantId>);

impl FromRequestParts<App> for OptionalTenant {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let directory = app.tenants.directory();
        match tenant_in_query(&parts.uri) {
            Some(name) if !parts.headers.contains_key(TENANT) => {
                known(name, &directory).map(|tenant| Self(Some(tenant)))
            }
            _ => named_tenant(&parts.headers, &directory).map(Self),
        }
    }
}

/// The tenant that `headers` name, if they name one; it must be in the directory.
pub(crate) fn named_tenant(headers: &HeaderMap, directory: &Directory) -> Result<Option<TenantId>, Problem> {
    let Some(value) = headers.get(TENANT) else { return Ok(None) };
    known(value.to_str().unwrap_or_default(), directory).map(Some)
}

/// The tenant in the query, where whoever calls cannot set headers: browsers' sockets and payment services.
pub(crate) fn tenant_in_query(uri: &Uri) -> Option<&str> {
    let is_read = ["/socket.io", "/v1/psp/webhooks/"].iter().any(|path| uri.path().starts_with(path));
    uri.query().filter(|_| is_read)?.split('&').find_map(|pair| pair.strip_prefix("tenant="))
}

fn known(name: &str, directory: &Directory) -> Result<TenantId, Problem> {
    let tenant = name.parse().ok().filter(|tenant| directory.homes.contains_key(tenant));
    let unknown = || Problem::new(Code::UnknownTenant, format!("no tenant '{}'", name.escape_default()));
    tenant.ok_or_else(unknown)
}
