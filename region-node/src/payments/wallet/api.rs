use axum::{Json, extract::State, http::StatusCode, response::Response};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{
    ids::{CreditId, RiderId},
    money::Money,
};

use super::{CreditRecord, WalletEntry};
use crate::{
    app::App,
    http::{Command, Page, PageQuery, Path, Problem, ProblemBody, Query, Stop},
    identity::{self, BACK_OFFICE, Caller},
    payments::{PaymentError, payment::AskedAmount, store},
};

/// What a rider has with the company, and a page of how it came to be.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(in crate::payments) struct Wallet {
    rider_id: RiderId,
    /// In the tenant's currency.
    balance: Money,
    /// What it has moved by, the newest first.
    items: Vec<WalletEntry>,
    /// Where the next page begins; null after the last.
    next_cursor: Option<String>,
}

/// The calling rider's wallet.
#[utoipa::path(get, path = "/v1/riders/me/wallet", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), PageQuery),
    responses((status = 200, body = Wallet), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "wallets.own", skip_all)]
pub(in crate::payments) async fn get_own_wallet(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Wallet>, Problem> {
    let rider = caller.rider()?;
    wallet(&app, &caller, rider, &page).await
}

/// A rider's wallet, for the rider and the back office.
#[utoipa::path(get, path = "/v1/riders/{id}/wallet", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = RiderId, Path), PageQuery),
    responses((status = 200, body = Wallet), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "wallets.get", skip_all, fields(rider.id = %id))]
pub(in crate::payments) async fn get_wallet(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RiderId>,
    Query(page): Query<PageQuery>,
) -> Result<Json<Wallet>, Problem> {
    if !caller.is_back_office() && caller.rider()? != id {
        return Err(PaymentError::NoSuchRider(id).into());
    }
    wallet(&app, &caller, id, &page).await
}

async fn wallet(app: &App, caller: &Caller, rider: RiderId, page: &PageQuery) -> Result<Json<Wallet>, Problem> {
    let published = app.tenants.config(caller.tenant()).await?;
    let (before, limit) = (page.after()?, page.limit());
    let mut tx = app.db.read(caller.tenant()).await?;
    if !store::is_rider(&mut tx, rider).await? {
        return Err(PaymentError::NoSuchRider(rider).into());
    }
    let balance = store::wallet_balance(&mut tx, rider, published.config.currency).await?;
    let rows = store::wallet_entries(&mut tx, rider, before, limit + 1).await?;
    let Page { items, next_cursor } = Page::new(rows, limit, |entry| entry.entry_id.0);
    Ok(Json(Wallet { rider_id: rider, balance, items, next_cursor }))
}

/// How much to give a rider, and why.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
pub(in crate::payments) struct CreditRequest {
    /// In the tenant's currency.
    #[garde(skip)]
    amount: AskedAmount,
    /// For the books and the rider.
    #[garde(length(chars, min = 1, max = 200))]
    reason: String,
}

/// Gives a rider something into his wallet, such as for a ride that went wrong. It is the company's cost.
#[utoipa::path(post, path = "/v1/riders/{id}/wallet/credits", tag = "payments", security(("bearer" = [])),
    request_body = CreditRequest,
    params(("X-Tenant-Id" = String, Header), ("Idempotency-Key" = Option<String>, Header), ("id" = RiderId, Path)),
    responses((status = 201, body = CreditRecord), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody), (status = 409, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "wallets.credit", skip_all, fields(rider.id = %id))]
pub(in crate::payments) async fn credit_wallet(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<RiderId>,
    command: Command<CreditRequest>,
) -> Result<Response, Stop> {
    caller.must_be(&BACK_OFFICE)?;
    let currency = app.tenants.config(caller.tenant()).await?.config.currency;
    let amount = command.body.amount.to_give(currency)?;
    let mut tx = command.begin(&app, &caller).await?;
    if !identity::hold_rider(&mut tx, id).await? {
        return Err(PaymentError::NoSuchRider(id).into());
    }
    let credit = CreditRecord {
        credit_id: CreditId::new(),
        rider_id: id,
        amount,
        reason: command.body.reason.clone(),
        made_by: caller.key_owner(),
        created_at: app.clock.now(),
    };
    super::credit(&mut tx, &credit).await?;
    let answer = tx.finish(StatusCode::CREATED, &credit).await?;
    metrics::counter!("region_node_wallet_credits_total", "tenant" => caller.tenant().to_string()).increment(1);
    let CreditRecord { credit_id, made_by, .. } = &credit;
    tracing::info!(audit.by = made_by, audit.deed = "wallet.credit", "rider {id} is given credit {credit_id}");
    Ok(answer)
}
