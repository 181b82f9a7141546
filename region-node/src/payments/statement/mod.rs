//! Statements of a driver's or the tenant's accounts over a span of time: what stood there before, each entry, totals by kind,
//! and what stands there after, by account and currency.
//!
//! The ledger only ever grows, so a statement of a span that is over is always the same, and opens with what the one before
//! closed with. It ends some minutes ago at the latest: an entry is dated before it is committed, by nodes whose clocks differ, so
//! what is younger may not all be there yet. It is read page by page, each in a transaction of its own, and written as it is read:
//! however long it is, memory holds a page of it, and a slow reader no connection to the database. Only a PDF is made whole, and is
//! bounded.

pub(super) mod api;
mod csv;
mod json;
mod pdf;

use std::collections::BTreeMap;

use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use shared::{
    ids::{DriverId, FactId, PaymentId, PayoutId, RefundId, TenantId, TripId},
    money::{Currency, Money},
};
use time::{Duration, OffsetDateTime};

use super::{EntryKind, store};
use crate::{db::Db, http::Problem};

/// What is dated longer ago is committed, or never will be: no transaction takes longer than this less what clocks of nodes differ
/// by.
pub(super) const BOOKED_WITHIN: Duration = Duration::minutes(5);
/// Lines of a page.
const PAGE: i64 = 1_000;
const FIRST_SLICE: Duration = Duration::hours(1);
const SHORTEST_SLICE: Duration = Duration::minutes(1);
const LONGEST_SLICE: Duration = Duration::days(400);

/// Whose accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    Driver(DriverId),
    /// The tenant's own, and those of its payment services.
    Tenant,
}

/// A span of the ledger: from one moment until just before another.
#[derive(Clone, Debug)]
struct Span {
    tenant: TenantId,
    whose: Whose,
    from: OffsetDateTime,
    to: OffsetDateTime,
}

/// A posting, and what it is about.
#[derive(Clone, Debug, Serialize, utoipa::ToSchema)]
pub(super) struct Line {
    pub(super) entry_id: FactId,
    #[serde(with = "time::serde::rfc3339")]
    pub(super) posted_at: OffsetDateTime,
    pub(super) kind: EntryKind,
    /// `driver:…`, `tenant:revenue`, `psp:sandbox`, …
    pub(super) account: String,
    /// Positive: owed to the account's holder; negative: held by it.
    pub(super) amount: Money,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payment_id: Option<PaymentId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trip_id: Option<TripId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refund_id: Option<RefundId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) payout_id: Option<PayoutId>,
    /// Which of its entry's postings it is.
    #[serde(skip)]
    pub(super) number: i16,
}

/// What stands on an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(super) struct Standing {
    pub(super) account: String,
    pub(super) balance: Money,
}

/// What lines of a kind come to on an account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
pub(super) struct Total {
    account: String,
    kind: EntryKind,
    /// How many lines.
    count: u64,
    amount: Money,
}

/// What opens a statement, and what the lines read so far come to.
#[derive(Clone, Debug)]
struct Sums {
    opening: BTreeMap<(String, Currency), i64>,
    totals: BTreeMap<(String, Currency, &'static str), (EntryKind, u64, i64)>,
}

impl Sums {
    fn new(opening: Vec<Standing>) -> Self {
        let opening =
            opening.into_iter().map(|one| ((one.account, one.balance.currency), one.balance.amount)).collect();
        Self { opening, totals: BTreeMap::new() }
    }

    fn add(&mut self, line: &Line) {
        let key = (line.account.clone(), line.amount.currency, line.kind.as_str());
        let (_, count, amount) = self.totals.entry(key).or_insert((line.kind, 0, 0));
        *count += 1;
        *amount += line.amount.amount;
    }

    fn opening(&self) -> Vec<Standing> {
        standings(&self.opening)
    }

    fn totals(&self) -> Vec<Total> {
        let total =
            |((account, currency, _), (kind, count, amount)): (&(String, Currency, _), &(EntryKind, u64, i64))| Total {
                account: account.clone(),
                kind: *kind,
                count: *count,
                amount: Money::new(*amount, *currency),
            };
        self.totals.iter().map(total).collect()
    }

    fn closing(&self) -> Vec<Standing> {
        let mut closing = self.opening.clone();
        for ((account, currency, _), (_, _, amount)) in &self.totals {
            *closing.entry((account.clone(), *currency)).or_default() += amount;
        }
        standings(&closing)
    }
}

fn standings(sums: &BTreeMap<(String, Currency), i64>) -> Vec<Standing> {
    let standing = |((account, currency), amount): (&(String, Currency), &i64)| Standing {
        account: account.clone(),
        balance: Money::new(*amount, *currency),
    };
    sums.iter().map(standing).collect()
}

/// A statement whose lines are read one page after another.
struct Reader {
    db: Db,
    span: Span,
    sums: Sums,
    /// Lines before this are read, and those of it up to `last`.
    position: OffsetDateTime,
    last: Option<store::Place>,
    /// So long a piece of the span is looked at next.
    slice: Duration,
}

impl Reader {
    /// Reads what opens the statement.
    async fn open(db: Db, span: Span) -> Result<Self, Problem> {
        let mut tx = db.read(&span.tenant).await?;
        let opening = store::standings_before(&mut tx, span.whose, span.from).await?;
        // The tenant's lines are found by their time, through an index that is coarse: the slice follows how dense they are.
        let slice = match span.whose {
            Whose::Driver(_) => span.to - span.from,
            Whose::Tenant => FIRST_SLICE,
        };
        Ok(Self { db, position: span.from, span, sums: Sums::new(opening), last: None, slice })
    }

    /// The next lines in the order of their time; none after the last.
    async fn next(&mut self) -> Result<Option<Vec<Line>>, Problem> {
        let Span { whose, to, .. } = self.span;
        while self.position < to {
            let until = to.min(self.position + self.slice);
            let mut tx = self.db.read(&self.span.tenant).await?;
            let lines = store::ledger_lines(&mut tx, whose, (self.position, until), self.last, PAGE).await?;
            tx.rollback().await?;
            match lines.last() {
                Some(last) if i64::try_from(lines.len()).is_ok_and(|count| count >= PAGE) => {
                    self.position = last.posted_at;
                    self.last = Some((last.posted_at, last.entry_id, last.number));
                    self.slice = SHORTEST_SLICE.max(self.slice / 2);
                }
                _ => {
                    self.position = until;
                    self.last = None;
                    self.slice = LONGEST_SLICE.min(self.slice * 2);
                }
            }
            if !lines.is_empty() {
                lines.iter().for_each(|line| self.sums.add(line));
                return Ok(Some(lines));
            }
        }
        Ok(None)
    }

    /// The statement in pieces: what comes before the lines, each page of them, and what comes after.
    fn written(self, format: impl Written + Send + 'static) -> impl Stream<Item = Result<String, Problem>> {
        let start = format.start(&self.span, &self.sums);
        let pages = stream::try_unfold((self, Some(format)), |(mut reader, format)| async move {
            let Some(mut format) = format else { return Ok(None) };
            let (piece, format) = match reader.next().await? {
                Some(lines) => (format.lines(&lines), Some(format)),
                None => (format.end(&reader.sums), None),
            };
            Ok(Some((piece, (reader, format))))
        });
        stream::once(std::future::ready(Ok(start))).chain(pages)
    }
}

/// A way to write a statement down piece by piece.
trait Written {
    /// What comes before the lines.
    fn start(&self, span: &Span, sums: &Sums) -> String;
    /// A page of them.
    fn lines(&mut self, lines: &[Line]) -> String;
    /// What comes after.
    fn end(&mut self, sums: &Sums) -> String;
}
