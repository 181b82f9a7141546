//! What the ledger comes to: a driver's balance, and what stands on the tenant's own accounts.

use axum::{Json, extract::State};
use serde::Serialize;
use shared::{ids::DriverId, money::Money};

use super::{PaymentError, payout::Balance, store};
use crate::{
    app::App,
    http::{Page, PageQuery, Path, Problem, ProblemBody, Query},
    identity::{BACK_OFFICE, Caller},
};

/// A driver's balances, one by currency; none before the first trip was paid.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DriverBalance {
    driver_id: DriverId,
    balances: Vec<Balance>,
}

/// What the ledger comes to for a tenant.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct TenantBalances {
    accounts: Vec<AccountBalance>,
    drivers: Vec<DriversBalance>,
    /// What is in all riders' wallets together, one by currency.
    riders: Vec<Money>,
}

/// An account's balance. Positive: owed to the account's holder; negative: held by it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct AccountBalance {
    /// `tenant:revenue`, `tenant:tax`, `tenant:promotions`, `tenant:cash`, `tenant:disputes`, `tenant:credits`,
    /// `tenant:withdrawals`, `tenant:payouts`, `tenant:suspense`, or a payment service's: `psp:sandbox`, `psp:stripe:acme`.
    account: String,
    balance: Money,
}

/// All drivers' balances of a currency.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct DriversBalance {
    /// What drivers have coming, together.
    coming: Money,
    /// What other drivers owe, together: commission and tax of trips paid in cash.
    owed: Money,
}

/// A driver's balance: what he earned and was not paid, less what he owes of trips paid in cash. For the driver and the back
/// office.
#[utoipa::path(get, path = "/v1/drivers/{id}/balance", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path)),
    responses((status = 200, body = DriverBalance), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 404, body = ProblemBody)))]
#[tracing::instrument(name = "drivers.balance", skip_all, fields(driver.id = %id))]
pub(super) async fn get_driver_balance(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
) -> Result<Json<DriverBalance>, Problem> {
    if !caller.is_back_office() {
        caller.driver_is(id)?;
    }
    let published = app.tenants.config(caller.tenant()).await?;
    let hold_until_durable = published.config.payouts.hold_until_durable;
    let mut tx = app.db.read(caller.tenant()).await?;
    if !store::is_driver(&mut tx, id).await? {
        return Err(PaymentError::NoSuchDriver(id).into());
    }
    let reading = store::Reading { region: &app.region, hold_until_durable };
    Ok(Json(DriverBalance { driver_id: id, balances: store::balances_of_driver(&mut tx, id, reading).await? }))
}

/// What stands on the tenant's own accounts and those of its payment services, what its drivers have coming, and what is in its
/// riders' wallets, by currency; for the back office. Together it is zero.
#[utoipa::path(get, path = "/v1/balances", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header)),
    responses((status = 200, body = TenantBalances), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody)))]
#[tracing::instrument(name = "payments.balances", skip_all)]
pub(super) async fn get_balances(State(app): State<App>, caller: Caller) -> Result<Json<TenantBalances>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let mut tx = app.db.read(caller.tenant()).await?;
    let accounts = store::balances_of_tenant(&mut tx).await?;
    let drivers = store::balances_of_drivers(&mut tx).await?;
    let riders = store::balances_of_riders(&mut tx).await?;
    Ok(Json(TenantBalances {
        accounts: accounts.into_iter().map(|(account, balance)| AccountBalance { account, balance }).collect(),
        drivers: drivers.into_iter().map(|(coming, owed)| DriversBalance { coming, owed }).collect(),
        riders,
    }))
}

/// The balances of drivers who have, or had, any; for the back office.
#[utoipa::path(get, path = "/v1/balances/drivers", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), PageQuery),
    responses((status = 200, body = Page<DriverBalance>), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "payments.driver_balances", skip_all)]
pub(super) async fn list_driver_balances(
    State(app): State<App>,
    caller: Caller,
    Query(page): Query<PageQuery>,
) -> Result<Json<Page<DriverBalance>>, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    let published = app.tenants.config(caller.tenant()).await?;
    let hold_until_durable = published.config.payouts.hold_until_durable;
    let mut tx = app.db.read(caller.tenant()).await?;
    let drivers = store::drivers_with_balances(&mut tx, page.after()?, page.limit() + 1).await?;
    let drivers = Page::new(drivers, page.limit(), |driver| driver.0);
    let reading = store::Reading { region: &app.region, hold_until_durable };
    let mut items = Vec::with_capacity(drivers.items.len());
    for driver_id in drivers.items {
        items
            .push(DriverBalance { driver_id, balances: store::balances_of_driver(&mut tx, driver_id, reading).await? });
    }
    Ok(Json(Page { items, next_cursor: drivers.next_cursor }))
}
