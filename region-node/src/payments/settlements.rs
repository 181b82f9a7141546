//! The replicated ledger, answered by whichever region is asked.

use axum::{
    Json,
    extract::{FromRequestParts, State},
    http::request::Parts,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{
    claims::Role,
    ids::{FactId, PaymentId, TenantId, TripId},
    money::Currency,
    problem::Code,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::store::{self, SettlementRow};
use crate::{
    app::App,
    http::{Page, Problem, ProblemBody, Query},
    identity::{self, Caller},
};

/// Which settlements.
#[derive(Debug, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SettlementsQuery {
    /// `next_cursor` of the page before, or the `fact_id` of the last item seen: a reader that follows the ledger goes on
    /// from there.
    #[garde(length(max = 64))]
    #[serde(default)]
    after: Option<String>,
    /// Items on a page, 1 to 1000; 100 if not said.
    #[garde(range(min = 1, max = 1000))]
    #[serde(default)]
    limit: Option<u16>,
    /// Only this tenant's; a back office sees its own alone.
    #[garde(skip)]
    #[serde(default)]
    tenant: Option<TenantId>,
}

/// Money that moved, as every region knows it.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Settlement {
    fact_id: FactId,
    payment_id: PaymentId,
    trip_id: TripId,
    tenant: TenantId,
    kind: SettlementKind,
    /// Minor units; the kind says which way they went, an adjustment its sign.
    amount: i64,
    currency: Currency,
    origin_region: String,
    origin_seq: i64,
    /// When the payment or refund was asked for, by its home region's clock, which is not always when its money moved; of a dispute,
    /// when it was opened, and, of what its decision brought, when the payment service said that it was decided.
    #[serde(with = "time::serde::rfc3339")]
    settled_at: OffsetDateTime,
    /// Whoever took the tenant's home by force after this was moved had not heard of it by then.
    late: bool,
}

/// Which way money moved.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
enum SettlementKind {
    Settlement,
    Refund,
    Adjustment,
}

/// Who reads: an operator, of all tenants, or one tenant's back office.
pub(super) enum Reader {
    Operator,
    Tenant(TenantId),
}

impl FromRequestParts<App> for Reader {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        if identity::claims(parts, &app.tokens)?.role == Role::Operator {
            return Ok(Self::Operator);
        }
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.must_be(&[Role::TenantAdmin])?;
        Ok(Self::Tenant(caller.tenant().clone()))
    }
}

/// The ledger of settled money, in the order in which this region learned of it. Every region answers by itself, and all
/// answer alike once they have exchanged what they know.
#[utoipa::path(get, path = "/v1/settlements", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = Option<String>, Header, description = "not needed by an operator"), SettlementsQuery),
    responses((status = 200, body = Page<Settlement>), (status = 401, body = ProblemBody),
              (status = 403, body = ProblemBody), (status = 422, body = ProblemBody)))]
pub(super) async fn list_settlements(
    State(app): State<App>,
    reader: Reader,
    Query(query): Query<SettlementsQuery>,
) -> Result<Json<Page<Settlement>>, Problem> {
    let limit = i64::from(query.limit.unwrap_or(100));
    let after = query.after.as_deref().map(fact_of).transpose()?;
    let rows = match reader {
        Reader::Tenant(own) => {
            if query.tenant.is_some_and(|tenant| tenant != own) {
                let detail = format!("a back office of '{own}' sees its own settlements");
                return Err(Problem::new(Code::TenantMismatch, detail));
            }
            let mut tx = app.db.anywhere(&own).await?;
            page(tx.conn(), Some(&own), after, limit).await?
        }
        Reader::Operator => {
            let mut tx = app.db.system().await?;
            page(tx.conn(), query.tenant.as_ref(), after, limit).await?
        }
    };
    let page = Page::new(rows, limit, |row| row.fact_id);
    let items = page.items.into_iter().map(Settlement::try_from).collect::<Result<_, _>>()?;
    Ok(Json(Page { items, next_cursor: page.next_cursor }))
}

async fn page(
    conn: &mut sqlx::PgConnection,
    tenant: Option<&TenantId>,
    after: Option<Uuid>,
    limit: i64,
) -> Result<Vec<SettlementRow>, Problem> {
    let position = match after {
        None => 0,
        Some(fact) => store::position_of(conn, fact).await?.ok_or_else(|| unknown_cursor("names no fact here"))?,
    };
    Ok(store::list_settlements(conn, tenant.map(TenantId::as_str), position, limit + 1).await?)
}

/// The fact a cursor stands for.
fn fact_of(cursor: &str) -> Result<Uuid, Problem> {
    let decoded = || URL_SAFE_NO_PAD.decode(cursor).ok().and_then(|bytes| Uuid::from_slice(&bytes).ok());
    Uuid::parse_str(cursor).ok().or_else(decoded).ok_or_else(|| unknown_cursor("must be a next_cursor or a fact_id"))
}

fn unknown_cursor(message: &str) -> Problem {
    Problem::field("after", message)
}

impl TryFrom<SettlementRow> for Settlement {
    type Error = Problem;

    fn try_from(row: SettlementRow) -> Result<Self, Problem> {
        let unreadable = || Problem::new(Code::Internal, "a ledger fact cannot be read");
        Ok(Self {
            fact_id: row.fact_id.into(),
            payment_id: row.payment_id.into(),
            trip_id: row.trip_id.into(),
            tenant: row.tenant_id.parse().map_err(|_| unreadable())?,
            kind: match row.kind.as_str() {
                "settlement" => SettlementKind::Settlement,
                "refund" => SettlementKind::Refund,
                "adjustment" => SettlementKind::Adjustment,
                _ => return Err(unreadable()),
            },
            amount: row.amount,
            currency: row.currency.parse().map_err(|_| unreadable())?,
            origin_region: row.origin_region,
            origin_seq: row.origin_seq,
            settled_at: row.settled_at,
            late: row.late,
        })
    }
}
