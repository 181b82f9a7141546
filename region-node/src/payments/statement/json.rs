use serde::Serialize;
use shared::ids::{DriverId, TenantId};
use time::OffsetDateTime;

use super::{Line, Span, Standing, Sums, Total, Whose, Written};

/// A statement. `entries` come in the order of their time; an answer that breaks off before `closing` is not whole.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Statement {
    tenant: TenantId,
    /// Missing from the tenant's.
    #[serde(skip_serializing_if = "Option::is_none")]
    driver_id: Option<DriverId>,
    #[serde(with = "time::serde::rfc3339")]
    from: OffsetDateTime,
    /// Entries before this.
    #[serde(with = "time::serde::rfc3339")]
    to: OffsetDateTime,
    /// What stood on each account at `from`.
    opening: Vec<Standing>,
    entries: Vec<Line>,
    /// What they come to, by account and kind.
    totals: Vec<Total>,
    /// What stood on each account at `to`.
    closing: Vec<Standing>,
}

/// Writes a [`Statement`] without ever having it whole.
pub(super) struct Json {
    is_first: bool,
}

impl Json {
    pub(super) fn new() -> Self {
        Self { is_first: true }
    }
}

impl Written for Json {
    fn start(&self, span: &Span, sums: &Sums) -> String {
        let head = Statement {
            tenant: span.tenant.clone(),
            driver_id: match span.whose {
                Whose::Driver(id) => Some(id),
                Whose::Tenant => None,
            },
            from: span.from,
            to: span.to,
            opening: sums.opening(),
            entries: Vec::new(),
            totals: Vec::new(),
            closing: Vec::new(),
        };
        let mut head = text(&head);
        let end = head.find(r#""entries":["#).expect("its name is above") + r#""entries":["#.len();
        head.truncate(end);
        head
    }

    fn lines(&mut self, lines: &[Line]) -> String {
        let mut piece = String::new();
        for line in lines {
            if !std::mem::take(&mut self.is_first) {
                piece.push(',');
            }
            piece += &text(line);
        }
        piece
    }

    fn end(&mut self, sums: &Sums) -> String {
        format!(r#"],"totals":{},"closing":{}}}"#, text(&sums.totals()), text(&sums.closing()))
    }
}

fn text(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a statement is plain data")
}
