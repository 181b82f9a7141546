//! A driver's documents: until when each is good. The tenant sets them, and requires some kinds of them in its config.

use std::collections::BTreeMap;

use axum::{Json, extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{
    ids::DriverId,
    problem::Code,
    tenant_config::{MAX_DOCUMENTS, is_class_name},
};
use time::{OffsetDateTime, UtcOffset};

use super::{DocumentFault, Terms, relearn, store};
use crate::{
    app::App,
    http::{Command, Path, Problem, ProblemBody, Stop},
    identity::{BACK_OFFICE, Caller, Subject},
};

/// All documents a driver has from now on.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(super) struct DocumentsRequest {
    /// At most 10, each of another kind; what is left out is no longer there.
    #[garde(length(max = MAX_DOCUMENTS), dive, custom(kinds_differ))]
    documents: Vec<Document>,
}

/// One document.
#[derive(Clone, Debug, Deserialize, Serialize, Validate, utoipa::ToSchema)]
pub(super) struct Document {
    /// As in the tenant's `required_documents`: `licence`.
    #[garde(custom(is_kind))]
    kind: String,
    /// From then on it is no longer good.
    #[garde(skip)]
    #[serde(with = "time::serde::rfc3339")]
    expires_at: OffsetDateTime,
}

/// A driver's documents.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DriverDocuments {
    /// Whose.
    driver_id: DriverId,
    /// By kind.
    documents: Vec<Document>,
}

/// Replaces a driver's documents. Without those the tenant requires, or with one of them expired, a driver cannot go online
/// and is offered no rides.
#[utoipa::path(put, path = "/v1/drivers/{id}/documents", tag = "drivers", security(("bearer" = [])),
    request_body = DocumentsRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = DriverId, Path)),
    responses((status = 200, body = DriverDocuments), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "drivers.documents", skip_all, fields(driver.id = %id))]
pub(super) async fn set_documents(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
    command: Command<DocumentsRequest>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let given = command.body.documents.iter();
    let documents: BTreeMap<_, _> =
        given.map(|document| (document.kind.clone(), document.expires_at.to_offset(UtcOffset::UTC))).collect();
    let mut tx = command.begin(&app, &caller).await?;
    if !store::set_documents(&mut tx, id, &documents).await? {
        return Err(Problem::not_found(format!("no driver {id}")).into());
    }
    let changed = store::standing(&mut tx, id, app.clock.now()).await?;
    let answer = tx.finish(StatusCode::OK, &DriverDocuments::new(id, &Terms::new(documents, None))).await?;
    relearn(&app, caller.tenant(), id, changed);
    Ok(answer)
}

/// A driver's documents.
#[utoipa::path(get, path = "/v1/drivers/{id}/documents", tag = "drivers", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path)),
    responses((status = 200, body = DriverDocuments), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody)))]
pub(super) async fn get_documents(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
) -> Result<Json<DriverDocuments>, Problem> {
    if !caller.is_back_office() && caller.subject != Subject::Driver(id) {
        caller.driver_is(id)?;
    }
    let mut tx = app.db.read(caller.tenant()).await?;
    let terms = store::terms(&mut tx, id).await?.ok_or_else(|| Problem::not_found(format!("no driver {id}")))?;
    Ok(Json(DriverDocuments::new(id, &terms)))
}

impl DriverDocuments {
    fn new(driver_id: DriverId, terms: &Terms) -> Self {
        let all = terms.documents.iter().flat_map(|documents| documents.iter());
        let documents = all.map(|(kind, until)| Document { kind: kind.clone(), expires_at: *until }).collect();
        Self { driver_id, documents }
    }
}

impl From<DocumentFault> for Problem {
    fn from(fault: DocumentFault) -> Self {
        let detail = fault.to_string();
        match fault {
            DocumentFault::Missing(_) => Problem::new(Code::DocumentMissing, detail),
            DocumentFault::Expired(_) => Problem::new(Code::DocumentExpired, detail),
        }
    }
}

fn is_kind(kind: &str, (): &()) -> garde::Result {
    if is_class_name(kind) { Ok(()) } else { Err(garde::Error::new("must match [a-z0-9_-]{1,30}")) }
}

fn kinds_differ(documents: &[Document], (): &()) -> garde::Result {
    let kinds: std::collections::BTreeSet<_> = documents.iter().map(|document| &document.kind).collect();
    if kinds.len() == documents.len() { Ok(()) } else { Err(garde::Error::new("must name each kind once")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sqlx::PgPool;
    use time::Duration;

    use super::*;
    use crate::testing::{TestRegion, TestUser};

    fn expiring(at: OffsetDateTime) -> serde_json::Value {
        let at = at.replace_nanosecond(0).unwrap().format(&time::format_description::well_known::Rfc3339).unwrap();
        json!({"documents": [{"kind": "licence", "expires_at": at}]})
    }

    async fn go(driver: &TestUser, status: &str) -> crate::testing::TestAnswer {
        driver.post(&format!("/v1/drivers/{}/status", driver.id), json!({"status": status})).await
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn without_a_good_document_a_driver_goes_offline_but_not_online(pool: PgPool) {
        let config = json!({"dispatch": {"required_documents": ["licence"]}});
        let region = TestRegion::with_config(pool, config).await;
        let (admin, driver) = (region.admin().await, region.driver().await);
        let path = format!("/v1/drivers/{}/documents", driver.id);
        assert_eq!(go(&driver, "online").await.problem(409).code, "document_missing");
        let now = region.clock.now();
        admin.put(&path, expiring(now - Duration::DAY)).await.ok(200);
        assert_eq!(go(&driver, "online").await.problem(409).code, "document_expired");
        go(&driver, "offline").await.ok(200);
        let set = admin.put(&path, expiring(now + Duration::DAY)).await.ok(200);
        assert_eq!(go(&driver, "online").await.ok(200)["status"], "online");
        assert_eq!(driver.get(&path).await.ok(200), set);
        assert_eq!(admin.get(&path).await.ok(200), set);
    }

    #[sqlx::test(migrations = "../migrations")]
    async fn only_the_tenant_sets_documents_and_only_of_its_own_drivers(pool: PgPool) {
        let region = TestRegion::new(pool).await;
        let (driver, other, rider) = (region.driver().await, region.driver().await, region.rider().await);
        let path = format!("/v1/drivers/{}/documents", driver.id);
        let body = expiring(region.clock.now());
        assert_eq!(driver.put(&path, body.clone()).await.problem(403).code, "forbidden");
        assert_eq!(other.get(&path).await.problem(404).code, "not_found");
        assert_eq!(rider.get(&path).await.problem(403).code, "forbidden");
        let office = region.new_tenant("other", json!({})).await;
        let stranger = region.admin_of("other".parse().unwrap(), &office).await;
        assert_eq!(stranger.put(&path, body.clone()).await.problem(404).code, "not_found");
        assert_eq!(stranger.get(&path).await.problem(404).code, "not_found");
        let admin = region.admin().await;
        let twice = json!({"documents": [body["documents"][0], body["documents"][0]]});
        assert_eq!(admin.put(&path, twice).await.problem(422).fields, ["documents"]);
    }
}
