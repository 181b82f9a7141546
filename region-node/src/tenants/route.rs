//! Where to call: for clients (`/v1/route`) and for edges that follow this node (`/v1/directory`).

use std::collections::BTreeSet;

use axum::{Json, extract::State};
use serde::Serialize;
use shared::{
    ids::{RegionName, TenantId},
    problem::Code,
    tenant_config::{MapView, TenantConfig},
};

use super::{Directory, TenantHeader};
use crate::{
    app::App,
    db::Epoch,
    http::{Problem, ProblemBody},
    identity::Operator,
};

/// Where a tenant's clients connect directly, and what they show before anybody has signed in.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(crate) struct Route {
    tenant: TenantId,
    #[schema(value_type = String)]
    home_region: RegionName,
    base_url: String,
    epoch: Epoch,
    /// The company's name, as riders see it.
    name: String,
    /// Where its map opens; missing until its config says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    map: Option<MapView>,
    /// Kinds of vehicle riders may ask for; missing where the config has not arrived yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    vehicle_classes: Option<BTreeSet<String>>,
}

impl Route {
    /// The route of a tenant in `directory`, which alone is enough to say where to call.
    pub(crate) fn find(directory: &Directory, tenant: TenantId) -> Result<Self, Problem> {
        let unknown = || Problem::new(Code::UnknownTenant, format!("no tenant '{tenant}'"));
        let home = directory.homes.get(&tenant).ok_or_else(unknown)?;
        let region = directory.regions.get(&home.region).ok_or_else(|| {
            let detail = format!("the home region {} is not known here yet", home.region);
            Problem::new(Code::HomeRegionUnreachable, detail).retry_after(2)
        })?;
        Ok(Self {
            home_region: home.region.clone(),
            base_url: region.base_url.clone(),
            epoch: home.epoch,
            name: home.name.clone(),
            map: None,
            vehicle_classes: None,
            tenant,
        })
    }

    /// With what a client shows of a tenant of this config.
    pub(crate) fn described_by(mut self, config: &TenantConfig) -> Self {
        if !config.name.is_empty() {
            self.name.clone_from(&config.name);
        }
        self.map = Some(config.map).filter(|map| *map != MapView::default());
        self.vehicle_classes = Some(config.vehicle_classes.clone());
        self
    }
}

/// Tells a client where its tenant is at home, and what to show of it.
#[utoipa::path(get, path = "/v1/route", tag = "tenants", params(("X-Tenant-Id" = String, Header)),
    responses((status = 200, body = Route), (status = 400, body = ProblemBody), (status = 404, body = ProblemBody)))]
pub(super) async fn route(State(app): State<App>, TenantHeader(tenant): TenantHeader) -> Result<Json<Route>, Problem> {
    let route = Route::find(&app.tenants.directory(), tenant.clone())?;
    // A client must learn where to call even if the config cannot be read just now.
    Ok(Json(match app.tenants.config(&tenant).await {
        Ok(published) => route.described_by(&published.config),
        Err(_) => route,
    }))
}

/// All regions, homes and keys, for edges without a database.
#[utoipa::path(get, path = "/v1/directory", tag = "tenants", security(("bearer" = [])),
    responses((status = 200, body = Directory), (status = 403, body = ProblemBody)))]
pub(super) async fn directory(State(app): State<App>, _: Operator) -> Json<Directory> {
    Json(Directory::clone(&app.tenants.directory()))
}
