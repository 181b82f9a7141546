use axum::{Json, extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{
    claims::Role,
    ids::{DriverId, PayoutId},
    money::Money,
};
use time::OffsetDateTime;

use super::{PayoutRecord, Reading, Wish, make, note};
use crate::{
    app::App,
    http::{Command, Page, PageQuery, Path, Problem, ProblemBody, Query, Stop},
    identity::{BACK_OFFICE, Caller, Subject},
    payments::{PaymentError, payment::AskedAmount, store},
};

/// How much to pay a driver.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(in crate::payments) struct PayoutRequest {
    /// All he can be paid now in the tenant's currency, if not said.
    #[garde(skip)]
    #[serde(default)]
    amount: Option<AskedAmount>,
}

/// Money paid to a driver.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(in crate::payments) struct Payout {
    payout_id: PayoutId,
    driver_id: DriverId,
    amount: Money,
    /// The day a daily one is of, in the tenant's city; missing if somebody asked for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(format = Date)]
    day: Option<String>,
    /// Who asked for it: a role and a client, or `schedule`. For the back office.
    #[serde(skip_serializing_if = "Option::is_none")]
    made_by: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    created_at: OffsetDateTime,
}

impl Payout {
    fn seen_by(caller: &Caller, record: PayoutRecord) -> Self {
        Self {
            payout_id: record.id,
            driver_id: record.driver_id,
            amount: record.amount,
            day: record.day.map(|day| day.to_string()),
            made_by: caller.is_back_office().then_some(record.made_by),
            created_at: record.created_at,
        }
    }
}

/// Pays a driver what his balance holds, or a part of it, never more: what he owes of trips paid in cash is settled first.
/// Payouts of one driver are made one at a time. The money itself is moved by the tenant's bank. A region that was taken back to
/// a backup makes none (503) before every other region has said what it knows of them.
#[utoipa::path(post, path = "/v1/drivers/{id}/payouts", tag = "payments", security(("bearer" = [])),
    request_body = PayoutRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = DriverId, Path)),
    responses((status = 201, body = Payout), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody),
              (status = 503, body = ProblemBody)))]
#[tracing::instrument(name = "payouts.make", skip_all, fields(driver.id = %id))]
pub(in crate::payments) async fn make_payout(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
    command: Command<PayoutRequest>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let published = app.tenants.config(caller.tenant()).await?;
    let asked = command.body.amount;
    let currency = asked.and_then(AskedAmount::currency).unwrap_or(published.config.currency);
    let amount = asked.map(|amount| amount.minor_units(currency)).transpose()?;
    if amount.is_some_and(|amount| amount < 1) {
        return Err(Problem::field("amount", "must be at least 1 minor unit").into());
    }
    let mut tx = command.begin(&app, &caller).await?;
    let wish = Wish { driver: id, currency, amount, at_least: 1, day: None, made_by: caller.key_owner() };
    let hold_until_durable = published.config.payouts.hold_until_durable;
    let payout = make(&mut tx, wish, Reading { region: &app.region, hold_until_durable }, app.clock.now()).await??;
    let answer = tx.finish(StatusCode::CREATED, &Payout::seen_by(&caller, payout.clone())).await?;
    note(&payout, caller.tenant(), "asked");
    Ok(answer)
}

/// Which payouts.
#[derive(Debug, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::payments) struct PayoutsQuery {
    /// Only this driver's; a driver sees his own alone.
    #[garde(skip)]
    #[serde(default)]
    driver: Option<DriverId>,
    /// `next_cursor` of the page before.
    #[garde(length(max = 64))]
    #[serde(default)]
    cursor: Option<String>,
    /// Items on a page, 1 to 100; 20 if not said.
    #[garde(range(min = 1, max = 100))]
    #[serde(default)]
    limit: Option<u16>,
}

/// Payouts, the newest first: all of the tenant's for the back office, a driver's own for the driver.
#[utoipa::path(get, path = "/v1/payouts", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), PayoutsQuery),
    responses((status = 200, body = Page<Payout>), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "payouts.list", skip_all)]
pub(in crate::payments) async fn list_payouts(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<PayoutsQuery>,
) -> Result<Json<Page<Payout>>, Problem> {
    let driver = match (caller.is_back_office(), query.driver) {
        (true, driver) => driver,
        (false, Some(driver)) => Some(caller.driver_is(driver)?),
        (false, None) => Some(caller.driver()?),
    };
    let page = PageQuery { cursor: query.cursor, limit: query.limit };
    let (before, limit) = (page.after()?, page.limit());
    let mut tx = app.db.read(caller.tenant()).await?;
    let rows = store::list_payouts(&mut tx, driver, before, limit + 1).await?;
    let Page { items, next_cursor } = Page::new(rows, limit, |payout| payout.id.0);
    Ok(Json(Page { items: items.into_iter().map(|payout| Payout::seen_by(&caller, payout)).collect(), next_cursor }))
}

/// A payout, for the back office and the driver it was paid to.
#[utoipa::path(get, path = "/v1/payouts/{id}", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = PayoutId, Path)),
    responses((status = 200, body = Payout), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "payouts.get", skip_all, fields(payout.id = %id))]
pub(in crate::payments) async fn get_payout(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<PayoutId>,
) -> Result<Json<Payout>, Problem> {
    caller.must_be(&[Role::Driver, Role::TenantAdmin, Role::Operator])?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let payout = store::load_payout(&mut tx, id).await?;
    let is_theirs =
        |payout: &PayoutRecord| caller.is_back_office() || caller.subject == Subject::Driver(payout.driver_id);
    let payout = payout.filter(is_theirs).ok_or(PaymentError::NoSuchPayout(id))?;
    Ok(Json(Payout::seen_by(&caller, payout)))
}
