use shared::money::Money;
use time::{OffsetDateTime, UtcOffset};

use super::{Line, Span, Standing, Sums, Whose};
use crate::pdf::{Document, Font, GREY, INK, LEFT, Pages, RIGHT, RULE, fitting};

/// The most entries of a PDF, which is made whole in memory: a hundred pages.
pub(super) const MOST_LINES: usize = 5_000;
const SIZE: f32 = 9.0;
const STEP: f32 = 13.0;
/// Where columns begin: after the time, after the kind.
const KIND: f32 = LEFT + 130.0;
const ABOUT: f32 = LEFT + 215.0;

/// The document.
pub(super) fn render(company: &str, span: &Span, sums: &Sums, lines: &[Line]) -> Vec<u8> {
    let title = format!("Statement of {company}");
    let mut pages = Pages::new();
    let sheet = &mut pages.sheet;
    sheet.text(LEFT, Font::Bold, 20.0, INK, &fitting(Font::Bold, 20.0, RIGHT - LEFT - 120.0, company));
    sheet.text_to(RIGHT, Font::Regular, 12.0, GREY, "Statement");
    sheet.rule(INK, 1.5);
    sheet.down(34.0);
    sheet.text(LEFT, Font::Regular, 10.5, INK, &format!("From {} to before {}", when(span.from), when(span.to)));
    if let Whose::Driver(id) = span.whose {
        sheet.down(16.0);
        sheet.text(LEFT, Font::Regular, 10.5, GREY, &format!("Driver {id}"));
    }
    pages.standings("Opening balance", span, &sums.opening());
    pages.heading("Entries");
    for line in lines {
        pages.row(&when(line.posted_at), &label(line.kind.as_str()), &about(span, line), line.amount);
    }
    if lines.is_empty() {
        pages.sheet.text(LEFT, Font::Regular, SIZE, GREY, "None.");
        pages.down(STEP);
    }
    pages.heading("Totals");
    for total in sums.totals() {
        let of = format!("{} {}", total.count, if total.count == 1 { "line" } else { "lines" });
        pages.row(&of, &label(total.kind.as_str()), &account(span, &total.account), total.amount);
    }
    pages.standings("Closing balance", span, &sums.closing());
    Document { title, pages: pages.end() }.render()
}

/// `2026-03-01 12:00:00 UTC`.
fn when(at: OffsetDateTime) -> String {
    let at = at.to_offset(UtcOffset::UTC);
    format!("{} {:02}:{:02}:{:02} UTC", at.date(), at.hour(), at.minute(), at.second())
}

/// What an entry is about, in the room there is.
fn about(span: &Span, line: &Line) -> String {
    let what = match (line.payout_id, line.trip_id, line.payment_id) {
        (Some(payout), ..) => format!("payout {payout}"),
        (None, Some(trip), _) => format!("trip {trip}"),
        (None, None, Some(payment)) => format!("payment {payment}"),
        (None, None, None) => String::new(),
    };
    match span.whose {
        Whose::Driver(_) => what,
        Whose::Tenant => line.account.clone(),
    }
}

/// A driver has but one account.
fn account(span: &Span, account: &str) -> String {
    match span.whose {
        Whose::Driver(_) => String::new(),
        Whose::Tenant => account.to_owned(),
    }
}

/// `cancellation fee`.
fn label(kind: &str) -> String {
    kind.replace('_', " ")
}

impl Pages {
    fn heading(&mut self, text: &str) {
        self.down(22.0);
        self.sheet.text(LEFT, Font::Bold, 11.0, INK, text);
        self.sheet.rule(RULE, 0.75);
        self.down(22.0);
    }

    fn standings(&mut self, heading: &str, span: &Span, standings: &[Standing]) {
        self.heading(heading);
        for one in standings {
            self.row("", "", &account(span, &one.account), one.balance);
        }
        if standings.is_empty() {
            self.sheet.text(LEFT, Font::Regular, SIZE, GREY, "Nothing.");
            self.down(STEP);
        }
    }

    fn row(&mut self, first: &str, kind: &str, about: &str, amount: Money) {
        let room = RIGHT - ABOUT - 80.0;
        self.sheet.text(LEFT, Font::Regular, SIZE, GREY, first);
        self.sheet.text(KIND, Font::Regular, SIZE, INK, kind);
        self.sheet.text(ABOUT, Font::Regular, SIZE, GREY, &fitting(Font::Regular, SIZE, room, about));
        self.sheet.text_to(RIGHT, Font::Regular, SIZE, INK, &amount.to_string());
        self.down(STEP);
    }
}
