//! The tenant a call names.

use axum::{extract::FromRequestParts, http::request::Parts};
use shared::{ids::TenantId, problem::Code};

use crate::{app::App, http::Problem};

/// The tenant of `X-Tenant-Id`, known to the directory.
pub struct TenantHeader(pub TenantId);

impl TenantHeader {
    /// The refusal of a call that names none.
    pub fn missing() -> Problem {
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
        let Some(value) = parts.headers.get("x-tenant-id") else { return Ok(Self(None)) };
        let name = value.to_str().unwrap_or_default();
        let unknown = || Problem::new(Code::UnknownTenant, format!("no tenant '{}'", name.escape_default()));
        let tenant: TenantId = name.parse().map_err(|_| unknown())?;
        if !app.tenants.directory().homes.contains_key(&tenant) {
            return Err(unknown());
        }
        Ok(Self(Some(tenant)))
    }
}
