//! Where to call: for clients (`/v1/route`) and for edges that follow this node (`/v1/directory`).

use axum::{Json, extract::State};
use serde::Serialize;
use shared::{
    ids::{RegionName, TenantId},
    problem::Code,
};

use super::{Directory, TenantHeader};
use crate::{
    app::App,
    db::Epoch,
    http::{Problem, ProblemBody},
    identity::Operator,
};

/// Where a tenant's clients connect directly.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Route {
    tenant: TenantId,
    #[schema(value_type = String)]
    home_region: RegionName,
    base_url: String,
    epoch: Epoch,
}

impl Route {
    /// The route of a tenant in `directory`.
    pub(crate) fn find(directory: &Directory, tenant: TenantId) -> Result<Self, Problem> {
        let unknown = || Problem::new(Code::UnknownTenant, format!("no tenant '{tenant}'"));
        let home = directory.homes.get(&tenant).ok_or_else(unknown)?;
        let region = directory.regions.get(&home.region).ok_or_else(|| {
            let detail = format!("the home region {} is not known here yet", home.region);
            Problem::new(Code::HomeRegionUnreachable, detail).retry_after(2)
        })?;
        Ok(Self { home_region: home.region.clone(), base_url: region.base_url.clone(), epoch: home.epoch, tenant })
    }
}

/// Tells a client where its tenant is at home.
#[utoipa::path(get, path = "/v1/route", tag = "tenants", params(("X-Tenant-Id" = String, Header)),
    responses((status = 200, body = Route), (status = 400, body = ProblemBody), (status = 404, body = ProblemBody)))]
pub(super) async fn route(State(app): State<App>, TenantHeader(tenant): TenantHeader) -> Result<Json<Route>, Problem> {
    Route::find(&app.tenants.directory(), tenant).map(Json)
}

/// All regions, homes and keys, for edges without a database.
#[utoipa::path(get, path = "/v1/directory", tag = "tenants", security(("bearer" = [])),
    responses((status = 200, body = Directory), (status = 403, body = ProblemBody)))]
pub(super) async fn directory(State(app): State<App>, _: Operator) -> Json<Directory> {
    Json(Directory::clone(&app.tenants.directory()))
}
