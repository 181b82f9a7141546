use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, header},
    response::{IntoResponse, Response},
};
use garde::Validate;
use serde::Deserialize;
use shared::ids::DriverId;
use time::{Duration, OffsetDateTime};

use super::{
    BOOKED_WITHIN, Reader, Span, Whose,
    csv::Csv,
    json::{Json, Statement},
    pdf,
};
use crate::{
    app::App,
    http::{Path, Problem, ProblemBody, Query, preferred},
    identity::{BACK_OFFICE, Caller},
    payments::{PaymentError, store},
};

const LONGEST: Duration = Duration::days(366);

/// Of which time.
#[derive(Debug, Deserialize, Validate, utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
pub(in crate::payments) struct StatementQuery {
    /// From here on, 366 days before `to` at most.
    #[garde(skip)]
    #[serde(with = "time::serde::rfc3339")]
    #[param(value_type = String, format = DateTime)]
    from: OffsetDateTime,
    /// Until just before then; five minutes ago, if not said or later than that: what is younger may be being booked.
    #[garde(skip)]
    #[serde(default, with = "time::serde::rfc3339::option")]
    #[param(value_type = Option<String>, format = DateTime)]
    to: Option<OffsetDateTime>,
}

/// How a statement is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Pdf,
}

const OFFERED: [(Format, &str); 3] =
    [(Format::Json, "application/json"), (Format::Csv, "text/csv"), (Format::Pdf, "application/pdf")];

/// A driver's statement, for the driver and the back office: what he had coming at `from`, what he earned, gave back and was
/// paid, and what he had coming at `to`.
#[utoipa::path(get, path = "/v1/drivers/{id}/statement", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), ("id" = DriverId, Path), StatementQuery,
           ("Accept" = Option<String>, Header, description = "application/json, text/csv or application/pdf")),
    responses((status = 200, content((Statement = "application/json"), (String = "text/csv"), (Vec<u8> = "application/pdf"))),
              (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 404, body = ProblemBody),
              (status = 406, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "drivers.statement", skip_all, fields(driver.id = %id))]
pub(in crate::payments) async fn get_driver_statement(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<DriverId>,
    Query(query): Query<StatementQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    if !caller.is_back_office() {
        caller.driver_is(id)?;
    }
    let mut tx = app.db.read(caller.tenant()).await?;
    if !store::is_driver(&mut tx, id).await? {
        return Err(PaymentError::NoSuchDriver(id).into());
    }
    drop(tx);
    statement(&app, &caller, Whose::Driver(id), &query, &headers).await
}

/// The statement of the tenant's own accounts and those of its payment services, for the back office.
#[utoipa::path(get, path = "/v1/statement", tag = "payments", security(("bearer" = [])),
    params(("X-Tenant-Id" = String, Header), StatementQuery,
           ("Accept" = Option<String>, Header, description = "application/json, text/csv or application/pdf")),
    responses((status = 200, content((Statement = "application/json"), (String = "text/csv"), (Vec<u8> = "application/pdf"))),
              (status = 401, body = ProblemBody), (status = 403, body = ProblemBody), (status = 406, body = ProblemBody),
              (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "payments.statement", skip_all)]
pub(in crate::payments) async fn get_statement(
    State(app): State<App>,
    caller: Caller,
    Query(query): Query<StatementQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    caller.must_be(&BACK_OFFICE)?;
    statement(&app, &caller, Whose::Tenant, &query, &headers).await
}

async fn statement(
    app: &App,
    caller: &Caller,
    whose: Whose,
    query: &StatementQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let latest = app.clock.now() - BOOKED_WITHIN;
    let to = query.to.unwrap_or(latest).min(latest);
    let from = query.from;
    if from >= to {
        return Err(Problem::field(
            "from",
            "must be before to, and more than five minutes ago: what is younger may be being booked",
        ));
    }
    if to - from > LONGEST {
        return Err(Problem::field("from", "must be 366 days before to at most"));
    }
    let format = preferred(headers, &OFFERED).ok_or(PaymentError::NotAcceptable)?;
    let reader = Reader::open(app.db.clone(), Span { tenant: caller.tenant().clone(), whose, from, to }).await?;
    let (kind, ending, body) = match format {
        Format::Json => ("application/json", "json", Body::from_stream(reader.written(Json::new()))),
        Format::Csv => ("text/csv; charset=utf-8", "csv", Body::from_stream(reader.written(Csv::new(to)))),
        Format::Pdf => ("application/pdf", "pdf", whole_pdf(app, reader).await?.into()),
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::VARY, HeaderValue::from_static("accept"));
    if format != Format::Json {
        let name = format!("attachment; filename=\"statement-{}-{}.{ending}\"", from.date(), to.date());
        headers.insert(header::CONTENT_DISPOSITION, HeaderValue::from_str(&name).expect("dates are ASCII"));
    }
    Ok(response)
}

async fn whole_pdf(app: &App, mut reader: Reader) -> Result<Vec<u8>, Problem> {
    let published = app.tenants.config(&reader.span.tenant).await?;
    let mut lines = Vec::new();
    while let Some(page) = reader.next().await? {
        lines.extend(page);
        if lines.len() > pdf::MOST_LINES {
            let detail = format!(
                "has more than the {} entries a PDF takes; ask for a shorter time, or for text/csv",
                pdf::MOST_LINES
            );
            return Err(Problem::field("from", detail));
        }
    }
    Ok(pdf::render(&published.config.name, &reader.span, &reader.sums, &lines))
}
