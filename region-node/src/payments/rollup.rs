//! What a tenant's settlements come to by day and currency, made of the replicated facts alone: every region answers by itself,
//! and all answer alike once they hold the same facts.

use axum::{Json, extract::State};
use garde::Validate;
use serde::{Deserialize, Serialize};
use shared::{ids::TenantId, money::Money, problem::Code};
use time::{Date, Duration, UtcOffset, macros::format_description};

use super::{settlements::Reader, store};
use crate::{
    app::App,
    http::{Problem, ProblemBody, Query},
};

const LONGEST: Duration = Duration::days(366);
const DAY: &[time::format_description::BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");

/// Which days of which tenant.
#[derive(Debug, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct RollupQuery {
    /// Whose; a back office sees its own alone, an operator names one.
    #[garde(skip)]
    #[serde(default)]
    tenant: Option<TenantId>,
    /// The first day (UTC), such as `2026-03-01`; 30 days before `to`, if not said.
    #[garde(skip)]
    #[serde(default)]
    from: Option<String>,
    /// The last day; today, if not said. 366 days at most.
    #[garde(skip)]
    #[serde(default)]
    to: Option<String>,
}

/// What a tenant's settlements come to.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Rollup {
    tenant: TenantId,
    /// The first day.
    from: String,
    /// The last day.
    to: String,
    /// One for each day and currency in which money moved, in their order.
    items: Vec<RollupDay>,
}

/// What a day's facts in one currency come to.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct RollupDay {
    /// By which payments and refunds were asked for, and disputes opened or decided (UTC).
    day: String,
    /// Settlements.
    count: i64,
    /// What they come to.
    gross: Money,
    refund_count: i64,
    /// What went back.
    refunds: Money,
    /// What disputes took and gave back: signed.
    adjustments: Money,
    /// Gross less refunds, with adjustments.
    net: Money,
}

/// What a tenant's settlements come to by day and currency. Every region answers by itself, and all answer alike once they hold
/// the same facts.
#[utoipa::path(get, path = "/v1/settlements/rollup", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = Option<String>, Header, description = "not needed by an operator"), RollupQuery),
    responses((status = 200, body = Rollup), (status = 401, body = ProblemBody), (status = 403, body = ProblemBody),
              (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "settlements.rollup", skip_all)]
pub(super) async fn get_rollup(
    State(app): State<App>,
    reader: Reader,
    Query(query): Query<RollupQuery>,
) -> Result<Json<Rollup>, Problem> {
    let tenant = match (reader, query.tenant) {
        (Reader::Operator, Some(tenant)) => tenant,
        (Reader::Operator, None) => return Err(Problem::field("tenant", "must be said by an operator")),
        (Reader::Tenant(own), Some(tenant)) if tenant != own => {
            let detail = format!("a back office of '{own}' sees its own settlements");
            return Err(Problem::new(Code::TenantMismatch, detail));
        }
        (Reader::Tenant(own), _) => own,
    };
    let today = app.clock.now().to_offset(UtcOffset::UTC).date();
    let to = day("to", query.to.as_deref())?.unwrap_or(today);
    let from = day("from", query.from.as_deref())?.unwrap_or(to.saturating_sub(Duration::days(30)));
    if from > to {
        return Err(Problem::field("from", "must not be after to"));
    }
    if to - from >= LONGEST {
        return Err(Problem::field("from", "must be within 366 days of to"));
    }
    let mut tx = app.db.anywhere(&tenant).await?;
    let rows = store::rollup(&mut tx, from, to).await?;
    let items = rows.into_iter().map(RollupDay::from).collect();
    Ok(Json(Rollup { tenant, from: from.to_string(), to: to.to_string(), items }))
}

fn day(field: &'static str, text: Option<&str>) -> Result<Option<Date>, Problem> {
    let wrong = |_| Problem::field(field, "must be a day, such as 2026-03-01");
    text.map(|text| Date::parse(text, DAY).map_err(wrong)).transpose()
}

/// Sums of a day's facts in one currency.
pub(super) struct RollupRow {
    pub(super) day: Date,
    pub(super) settlements: i64,
    pub(super) gross: Money,
    pub(super) refunds: i64,
    pub(super) refunded: Money,
    pub(super) adjusted: Money,
}

impl From<RollupRow> for RollupDay {
    fn from(row: RollupRow) -> Self {
        let net = row.gross.amount.saturating_sub(row.refunded.amount).saturating_add(row.adjusted.amount);
        Self {
            day: row.day.to_string(),
            count: row.settlements,
            gross: row.gross,
            refund_count: row.refunds,
            refunds: row.refunded,
            adjustments: row.adjusted,
            net: Money::new(net, row.gross.currency),
        }
    }
}
