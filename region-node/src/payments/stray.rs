//! Disputes about charges of ours whose payments are not here.
//!
//! A payment is gone with a home that was taken by force, or forgotten with an old backup; the PSP has its charge all the same, and a
//! bank may take that back. Nothing can be booked about a payment nobody has here, so what the PSP says is kept, and waits for
//! somebody of the back office to see to it.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use serde::Serialize;
use shared::{
    ids::{PaymentId, StrayDisputeId},
    money::Money,
};
use time::OffsetDateTime;

use super::{DisputeStatus, PaymentError, attention::AttentionQuery, psp::DisputeNews, store};
use crate::{
    app::App,
    db::TenantTx,
    http::{Command, Empty, Page, Path, Problem, ProblemBody, Query, Stop},
    identity::{BACK_OFFICE, Caller},
};

/// A dispute about a charge whose payment is not here.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct StrayDispute {
    pub(super) id: StrayDisputeId,
    /// The payment the charge was made for, by what the payment service has written down with it.
    pub(super) payment_id: PaymentId,
    /// The account: `sandbox`, `stripe:acme`.
    pub(super) provider: String,
    /// The payment service's name for the dispute.
    pub(super) provider_ref: String,
    /// The payment service's name for the charge.
    pub(super) charge_ref: String,
    pub(super) status: DisputeStatus,
    /// What the bank takes back.
    pub(super) amount: Money,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) opened_at: OffsetDateTime,
    /// When the payment service last told something new of it.
    #[serde(with = "time::serde::rfc3339")]
    pub(super) told_at: OffsetDateTime,
    /// Who has seen to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) attended: Option<Attended>,
}

/// Somebody of the back office has seen to something.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
pub(super) struct Attended {
    /// A role and a client.
    pub(super) by: String,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) at: OffsetDateTime,
}

/// Keeps what a PSP says of a dispute about `payment`, which is not here.
pub(super) async fn keep(
    tx: &mut TenantTx,
    provider: &str,
    payment: PaymentId,
    news: &DisputeNews,
    now: OffsetDateTime,
) -> Result<(), Problem> {
    if news.amount.amount < 1 {
        return Err(PaymentError::MalformedEvent(format!("a dispute about {}", news.amount)).into());
    }
    if store::keep_stray_dispute(tx, provider, payment, news, now).await? {
        let (dispute, status) = (&news.reference, news.status);
        tracing::error!(payment.id = %payment, dispute, "a dispute about payment {payment}, which is not here, is {status}");
    }
    Ok(())
}

/// Disputes about charges of ours whose payments are not here, newest first, for the back office: gone with a home that was taken by
/// force, or forgotten with an old backup. Nothing is booked of them; find the charge at the payment service, answer the bank there,
/// and write the loss into the company's own books.
#[utoipa::path(get, path = "/v1/disputes", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), AttentionQuery),
    responses((status = 200, body = Page<StrayDispute>), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "disputes.attention", skip_all)]
pub(super) async fn list_stray_disputes(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<AttentionQuery>,
) -> Result<Json<Page<StrayDispute>>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let page = query.page()?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let found = store::stray_disputes_to_attend(&mut tx, page.after()?, page.limit() + 1).await?;
    Ok(Json(Page::new(found, page.limit(), |dispute: &StrayDispute| dispute.id.0)))
}

/// Says that somebody has seen to a dispute about a payment that is not here, as far as it was told: it leaves the list, and comes
/// back if the bank decides it later.
#[utoipa::path(post, path = "/v1/disputes/{id}/attend", tag = "payments", security(("bearer" = [])),
    request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = StrayDisputeId, Path)),
    responses((status = 200, body = StrayDispute), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "disputes.attend", skip_all, fields(dispute.id = %id))]
pub(super) async fn attend_stray_dispute(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<StrayDisputeId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let by = caller.key_owner();
    let mut tx = command.begin(&app, &caller).await?;
    let is_attended = store::attend_stray_dispute(&mut tx, id, &by, app.clock.now()).await?;
    let dispute = store::load_stray_dispute(&mut tx, id).await?.ok_or(PaymentError::NoSuchDispute(id))?;
    if !is_attended {
        return Err(PaymentError::NothingToAttend { what: "dispute" }.into());
    }
    let answer = tx.finish(StatusCode::OK, &dispute).await?;
    tracing::info!(audit.by = by, audit.deed = "dispute.attend", "somebody has seen to dispute {id}");
    Ok(answer)
}
