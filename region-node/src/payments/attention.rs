//! What was given up: payments and refunds nobody goes on with by itself, which somebody of the back office works through; and refunds
//! that were sent back by their banks, so that riders have not had their money.
//!
//! What was given up can be looked at, and tried again. That decides nothing: the PSP is asked, and its answer alone ends it. What
//! was sent back has ended; somebody finds another way to the rider, and says so.

use axum::{Json, extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::ids::{PaymentId, RefundId};
use time::OffsetDateTime;

use super::{
    Payment, PaymentError, Refund, Sequence,
    record::{PaymentRecord, RefundRecord},
    resume::Due,
    store,
};
use crate::{
    app::App,
    http::{Command, Empty, Page, PageQuery, Path, Problem, ProblemBody, Query, Stop},
    identity::{BACK_OFFICE, Caller},
};

/// Which payments, refunds or disputes.
#[derive(Debug, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct AttentionQuery {
    /// `true`: what waits for somebody to look at it. There is no other list.
    #[garde(skip)]
    attention: bool,
    /// `next_cursor` of the page before.
    #[garde(length(max = 64))]
    cursor: Option<String>,
    /// Items on a page, 1 to 100; 20 if not said.
    #[garde(range(min = 1, max = 100))]
    limit: Option<u16>,
}

impl AttentionQuery {
    pub(super) fn page(self) -> Result<PageQuery, Problem> {
        if !self.attention {
            return Err(Problem::field("attention", "must be true"));
        }
        Ok(PageQuery { cursor: self.cursor, limit: self.limit })
    }
}

/// A payment, and what somebody who has to look at it needs to know.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct AttendedPayment {
    #[serde(flatten)]
    payment: Payment,
    #[serde(flatten)]
    attention: Attention,
}

/// A refund, and what somebody who has to look at it needs to know.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct AttendedRefund {
    #[serde(flatten)]
    refund: Refund,
    /// Whether its bank has sent it back after it was settled, so that the rider does not have the money; `failure_code` says why.
    sent_back: bool,
    #[serde(flatten)]
    attention: Attention,
}

/// How attempts went.
#[derive(Debug, Serialize, utoipa::ToSchema)]
struct Attention {
    /// Begun so many times, since somebody had it tried again last.
    attempts: i32,
    /// Why the last attempt came to nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// When it is tried again by itself; missing while it waits for somebody, and once it has ended.
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    next_attempt_at: Option<OffsetDateTime>,
    /// Who had it tried again last: a role and a client.
    #[serde(skip_serializing_if = "Option::is_none")]
    retried_by: Option<String>,
    #[serde(with = "time::serde::rfc3339::option", skip_serializing_if = "Option::is_none")]
    retried_at: Option<OffsetDateTime>,
}

impl From<Sequence> for Attention {
    fn from(sequence: Sequence) -> Self {
        let (retried_by, retried_at) = sequence.retried.map(|retried| (retried.by, retried.at)).unzip();
        Self {
            attempts: sequence.attempts,
            last_error: sequence.last_error,
            next_attempt_at: sequence.next_attempt_at,
            retried_by,
            retried_at,
        }
    }
}

impl From<PaymentRecord> for AttendedPayment {
    fn from(record: PaymentRecord) -> Self {
        Self { payment: record.view(), attention: record.sequence.into() }
    }
}

impl From<RefundRecord> for AttendedRefund {
    fn from(record: RefundRecord) -> Self {
        Self { refund: record.view(), sent_back: record.is_sent_back(), attention: record.sequence.into() }
    }
}

/// Payments that were given up, newest first, for the back office: the PSP never said what became of them, or each attempt to
/// go on with them failed. Nothing is charged or settled until somebody has them tried again.
#[utoipa::path(get, path = "/v1/payments", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), AttentionQuery),
    responses((status = 200, body = Page<AttendedPayment>), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "payments.attention", skip_all)]
pub(super) async fn list_given_up_payments(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<AttentionQuery>,
) -> Result<Json<Page<AttendedPayment>>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let page = query.page()?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let found = store::given_up_payments(&mut tx, page.after()?, page.limit() + 1).await?;
    let found = found.into_iter().map(AttendedPayment::from).collect();
    Ok(Json(Page::new(found, page.limit(), |attended: &AttendedPayment| attended.payment.id.0)))
}

/// Refunds somebody has to look at, newest first, for the back office: those that were given up, as payments are, and those that were
/// settled and sent back by their banks days later. Such a one is booked back; give the money back another way, into the rider's
/// wallet or anew, and say so with `attend`.
#[utoipa::path(get, path = "/v1/refunds", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), AttentionQuery),
    responses((status = 200, body = Page<AttendedRefund>), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "refunds.attention", skip_all)]
pub(super) async fn list_refunds_to_attend(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<AttentionQuery>,
) -> Result<Json<Page<AttendedRefund>>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let page = query.page()?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let found = store::refunds_to_attend(&mut tx, page.after()?, page.limit() + 1).await?;
    let found = found.into_iter().map(AttendedRefund::from).collect();
    Ok(Json(Page::new(found, page.limit(), |attended: &AttendedRefund| attended.refund.id.0)))
}

/// Goes on with a payment that was given up: asks the PSP what became of it and, only if it never saw it, for the money. The
/// answer says how far that came; where the PSP stays silent the payment is tried again by itself, as often as a new one is.
#[utoipa::path(post, path = "/v1/payments/{id}/retry", tag = "payments", security(("bearer" = [])),
    request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = PaymentId, Path)),
    responses((status = 200, body = AttendedPayment), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "payments.retry", skip_all, fields(payment.id = %id))]
pub(super) async fn retry_payment(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PaymentId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let now = app.clock.now();
    let mut tx = command.begin(&app, &caller).await?;
    let payment = store::lock_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    let not_given_up = PaymentError::NotGivenUp { what: "payment", status: payment.status().as_str() };
    let retried = payment.sequence.clone().retried(caller.key_owner(), now, now + app.psp.hold());
    let sequence = retried.ok_or(not_given_up)?;
    store::save_payment(&mut tx, &PaymentRecord { sequence, ..payment }, now).await?;
    tx.commit().await?;
    tracing::info!(audit.by = caller.key_owner(), audit.deed = "payment.retry", "payment {id} is tried again by hand");
    Due::Payment(caller.tenant().clone(), id).go_on(&app).await;
    let mut tx = command.resume(&app, &caller).await?;
    let payment = store::load_payment(&mut tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    tx.finish(StatusCode::OK, &AttendedPayment::from(payment)).await
}

/// Goes on with a refund that was given up; see the payments' retry.
#[utoipa::path(post, path = "/v1/refunds/{id}/retry", tag = "payments", security(("bearer" = [])),
    request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = RefundId, Path)),
    responses((status = 200, body = AttendedRefund), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "refunds.retry", skip_all, fields(refund.id = %id))]
pub(super) async fn retry_refund(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RefundId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let now = app.clock.now();
    let mut tx = command.begin(&app, &caller).await?;
    let refund = store::lock_refund(&mut tx, id).await?.ok_or(PaymentError::NoSuchRefund(id))?;
    let not_given_up = PaymentError::NotGivenUp { what: "refund", status: refund.status().as_str() };
    let retried = refund.sequence.clone().retried(caller.key_owner(), now, now + app.psp.hold());
    let sequence = retried.ok_or(not_given_up)?;
    store::save_refund(&mut tx, &RefundRecord { sequence, ..refund }, now).await?;
    tx.commit().await?;
    tracing::info!(audit.by = caller.key_owner(), audit.deed = "refund.retry", "refund {id} is tried again by hand");
    Due::Refund(caller.tenant().clone(), id).go_on(&app).await;
    let mut tx = command.resume(&app, &caller).await?;
    let refund = store::load_refund(&mut tx, id).await?.ok_or(PaymentError::NoSuchRefund(id))?;
    tx.finish(StatusCode::OK, &AttendedRefund::from(refund)).await
}

/// Says that somebody has seen to a refund that its bank sent back: it leaves the list.
#[utoipa::path(post, path = "/v1/refunds/{id}/attend", tag = "payments", security(("bearer" = [])),
    request_body = Empty,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = RefundId, Path)),
    responses((status = 200, body = Refund), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody)))]
#[tracing::instrument(name = "refunds.attend", skip_all, fields(refund.id = %id))]
pub(super) async fn attend_refund(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RefundId>,
    command: Command<Empty>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let by = caller.key_owner();
    let mut tx = command.begin(&app, &caller).await?;
    let refund = store::load_refund(&mut tx, id).await?.ok_or(PaymentError::NoSuchRefund(id))?;
    if !store::attend_refund(&mut tx, id, &by, app.clock.now()).await? {
        return Err(PaymentError::NothingToAttend { what: "refund" }.into());
    }
    let answer = tx.finish(StatusCode::OK, &refund.view()).await?;
    tracing::info!(
        audit.by = by,
        audit.deed = "refund.attend",
        "somebody has seen to refund {id}, which was sent back"
    );
    Ok(answer)
}
