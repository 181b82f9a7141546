//! Looking at payments and refunds.

use axum::{Json, extract::State};
use shared::ids::PaymentId;

use super::{Payment, PaymentError, Refund, record::PaymentRecord, store};
use crate::{
    app::App,
    db::TenantTx,
    http::{Page, Path, Problem, ProblemBody},
    identity::{Caller, Subject},
};

/// A payment, for its rider, its driver and the back office.
#[utoipa::path(get, path = "/v1/payments/{id}", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = PaymentId, Path)),
    responses((status = 200, body = Payment), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
pub(super) async fn get_payment(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PaymentId>,
) -> Result<Json<Payment>, Problem> {
    let mut tx = app.db.read(caller.tenant()).await?;
    Ok(Json(visible(&mut tx, &caller, id).await?.view()))
}

/// A payment's refunds, oldest first, all on one page.
#[utoipa::path(get, path = "/v1/payments/{id}/refunds", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = PaymentId, Path)),
    responses((status = 200, body = Page<Refund>), (status = 401, body = ProblemBody), (status = 404, body = ProblemBody)))]
pub(super) async fn list_refunds(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PaymentId>,
) -> Result<Json<Page<Refund>>, Problem> {
    let mut tx = app.db.read(caller.tenant()).await?;
    visible(&mut tx, &caller, id).await?;
    let items = store::refunds_of_payment(&mut tx, id).await?.iter().map(|refund| refund.view()).collect();
    Ok(Json(Page { items, next_cursor: None }))
}

/// The payment, if the caller may see it.
async fn visible(tx: &mut TenantTx, caller: &Caller, id: PaymentId) -> Result<PaymentRecord, Problem> {
    let payment = store::load_payment(tx, id).await?.ok_or(PaymentError::NotFound(id))?;
    let may_see = match caller.subject {
        Subject::Rider(rider) => rider == payment.rider_id,
        Subject::Driver(driver) => Some(driver) == payment.driver_id,
        Subject::Client(_) => true,
    };
    if may_see { Ok(payment) } else { Err(PaymentError::NotFound(id).into()) }
}
