use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

use super::{Line, Span, Standing, Sums, Written};
use shared::money::Money;

const HEAD: &str = "line,time,account,kind,count,amount,currency,entry_id,trip_id,payment_id,refund_id,payout_id\r\n";

/// Writes a statement as comma-separated values (RFC 4180): `opening` lines, `entry` lines, `total` lines, `closing` lines.
/// Amounts are decimals of the currency. No value has a comma, a quote or free text.
pub(super) struct Csv {
    to: OffsetDateTime,
}

impl Csv {
    pub(super) fn new(to: OffsetDateTime) -> Self {
        Self { to }
    }
}

impl Written for Csv {
    fn start(&self, span: &Span, sums: &Sums) -> String {
        HEAD.to_owned() + &standings("opening", span.from, &sums.opening())
    }

    fn lines(&mut self, lines: &[Line]) -> String {
        lines.iter().map(entry).collect()
    }

    fn end(&mut self, sums: &Sums) -> String {
        let to = time(self.to);
        let total = |total: super::Total| {
            let (amount, currency) = decimal(total.amount);
            format!("total,{to},{},{},{},{amount},{currency},,,,,\r\n", total.account, total.kind, total.count)
        };
        let totals: String = sums.totals().into_iter().map(total).collect();
        totals + &standings("closing", self.to, &sums.closing())
    }
}

fn entry(line: &Line) -> String {
    let id = |id: Option<Uuid>| id.map(|id| id.to_string()).unwrap_or_default();
    let (amount, currency) = decimal(line.amount);
    format!(
        "entry,{},{},{},,{amount},{currency},{},{},{},{},{}\r\n",
        time(line.posted_at),
        line.account,
        line.kind,
        line.entry_id,
        id(line.trip_id.map(Uuid::from)),
        id(line.payment_id.map(Uuid::from)),
        id(line.refund_id.map(Uuid::from)),
        id(line.payout_id.map(Uuid::from)),
    )
}

fn standings(line: &str, at: OffsetDateTime, standings: &[Standing]) -> String {
    let at = time(at);
    let standing = |one: &Standing| {
        let (amount, currency) = decimal(one.balance);
        format!("{line},{at},{},,,{amount},{currency},,,,,\r\n", one.account)
    };
    standings.iter().map(standing).collect()
}

/// `12.50`, `USD`.
fn decimal(money: Money) -> (String, String) {
    let written = money.to_string();
    let (amount, currency) = written.split_once(' ').expect("an amount and its currency");
    (amount.to_owned(), currency.to_owned())
}

fn time(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).expect("a year of four digits")
}
