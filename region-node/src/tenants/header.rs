//! The tenant a call names.

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, request::Parts},
};
use shared::{ids::TenantId, problem::Code};

use super::Directory;
use crate::{app::App, http::Problem};

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
        named_tenant(&parts.headers, &app.tenants.directory()).map(Self)
    }
}

/// The tenant that `headers` name, if they name one; it must be in the directory.
pub(crate) fn named_tenant(headers: &HeaderMap, directory: &Directory) -> Result<Option<TenantId>, Problem> {
    let Some(value) = headers.get("x-tenant-id") else { return Ok(None) };
    let name = value.to_str().unwrap_or_default();
    let tenant = name.parse().ok().filter(|tenant| directory.homes.contains_key(tenant));
    let unknown = || Problem::new(Code::UnknownTenant, format!("no tenant '{}'", name.escape_default()));
    tenant.map(Some).ok_or_else(unknown)
}
