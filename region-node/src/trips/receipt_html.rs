//! A receipt as one HTML page that prints well and loads nothing.

use std::fmt::Write;

use super::receipt::{Receipt, ReceiptPart, address, named, written};
use crate::{
    payments::{DisputeStatus, PaymentKind, PaymentStatus, RefundStatus, RefundTo},
    pricing::{kilometres, minutes},
};

const STYLE: &str = "
body{margin:0;background:#f3f4f6;color:#111827;font:15px/1.5 system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}
main{max-width:36rem;margin:2rem auto;padding:2.5rem;background:#fff;border-radius:12px;box-shadow:0 1px 4px #0002}
header{display:flex;justify-content:space-between;align-items:baseline;border-bottom:2px solid #111827;padding-bottom:1rem}
h1{margin:0;font-size:1.4rem}header span{color:#6b7280}
.total{font-size:2.4rem;font-weight:700;margin:1.5rem 0 0}.when{color:#6b7280;margin:0 0 1.5rem}
dl{display:grid;grid-template-columns:7rem 1fr;gap:.35rem 1rem;margin:0 0 1.5rem}dt{color:#6b7280}dd{margin:0;overflow-wrap:anywhere}
table{width:100%;border-collapse:collapse}td{padding:.45rem 0;border-bottom:1px solid #e5e7eb}
td:last-child{text-align:right;white-space:nowrap;font-variant-numeric:tabular-nums}
tr.sum td{border-bottom:0;border-top:2px solid #111827;font-weight:700}
footer{margin-top:1.5rem;color:#6b7280;font-size:.8rem}
@media print{body{background:#fff}main{box-shadow:none;margin:0;max-width:none}}";

/// The page.
pub(super) fn render(receipt: &Receipt) -> String {
    let mut details = String::new();
    let mut detail = |name: &str, value: &str| {
        if !value.is_empty() {
            let _ = write!(details, "<dt>{name}</dt><dd>{}</dd>", escape(value));
        }
    };
    detail("From", &address(&receipt.pickup));
    detail("To", &address(&receipt.dropoff));
    detail("Distance", &receipt.distance_m.map(kilometres).unwrap_or_default());
    detail("Time", &receipt.duration_s.map(minutes).unwrap_or_default());
    if receipt.paused_s > 0 {
        detail("Paused", &minutes(receipt.paused_s));
    }
    detail("Rider", &receipt.rider);
    detail("Driver", &receipt.driver);
    if let Some(vehicle) = &receipt.vehicle {
        detail("Vehicle", format!("{} {}", vehicle.model, vehicle.plate).trim());
    }
    for (what, how) in payments(receipt) {
        detail(&escape(&what), &how);
    }

    let mut lines = String::new();
    for line in &receipt.lines {
        let _ = write!(lines, "<tr><td>{}</td><td>{}</td></tr>", escape(&line.description), line.amount);
    }
    let mut beside = String::new();
    for (name, amount) in receipt.beside_total() {
        let _ = write!(beside, "<tr><td>{}</td><td>{amount}</td></tr>", escape(&name));
    }
    let (company, total) = (escape(&receipt.company), receipt.total);
    format!(
        r#"<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Receipt of {company}</title><style>{STYLE}</style></head>
<body><main><header><h1>{company}</h1><span>Receipt</span></header>
<p class="total">{total}</p><p class="when">{when}</p>
<dl>{details}</dl>
<table><tbody>{lines}<tr class="sum"><td>Total</td><td>{total}</td></tr>{beside}</tbody></table>
<footer>Trip {trip}<br>{footnote}</footer></main></body></html>
"#,
        when = written(receipt.ended_at),
        trip = receipt.trip_id,
        footnote = footnote(receipt),
    )
}

/// What was paid for, and how: `card, settled`, what was refunded, what was disputed. Where there are several payments each says
/// its amount; one that was declined is told of only while nothing has taken its place.
pub(super) fn payments(receipt: &Receipt) -> Vec<(String, String)> {
    let live = receipt.payments.iter().filter(|part| part.status != PaymentStatus::Failed);
    let live: Vec<&ReceiptPart> = live.collect();
    let mut told = Vec::new();
    if live.iter().all(|part| part.kind == PaymentKind::Tip) {
        let begun = receipt.payment.as_ref();
        let begun = begun.map(|payment| format!("{}, {}", payment.method, payment.status.replace('_', " ")));
        told.push(("Payment".to_owned(), begun.unwrap_or_else(|| "not paid yet".to_owned())));
    }
    let is_one_of_many = live.len() + told.len() > 1;
    for part in live {
        let amount = if is_one_of_many { format!("{} by ", part.amount) } else { String::new() };
        told.push((name(part), format!("{amount}{}", became(part))));
    }
    told
}

fn name(part: &ReceiptPart) -> String {
    match (part.kind, &part.share_of) {
        (PaymentKind::Tip, _) => "Tip".to_owned(),
        (_, Some(of)) => format!("Share of {}", named(of)),
        (_, None) => "Payment".to_owned(),
    }
}

fn became(part: &ReceiptPart) -> String {
    let mut text = format!("{}, {}", part.method, part.status.as_str().replace('_', " "));
    for refund in &part.refunds {
        let way = match refund.to {
            RefundTo::Source => "",
            RefundTo::Wallet => " to the wallet",
        };
        let _ = match refund.status {
            RefundStatus::Settled => write!(text, ", {} refunded{way}", refund.amount),
            RefundStatus::Pending | RefundStatus::Authorized | RefundStatus::Unknown => {
                write!(text, ", {} being refunded{way}", refund.amount)
            }
            RefundStatus::Failed => Ok(()),
        };
    }
    for dispute in &part.disputes {
        let _ = match dispute.status {
            DisputeStatus::Open => write!(text, ", {} disputed", dispute.amount),
            DisputeStatus::Won => write!(text, ", {} disputed in vain", dispute.amount),
            DisputeStatus::Lost => write!(text, ", {} taken back by the bank", dispute.amount),
        };
    }
    text
}

/// What the amounts were made by.
pub(super) fn footnote(receipt: &Receipt) -> String {
    match receipt.tariff_version {
        Some(version) => format!("Tariff version {version}. {}", receipt.rounding),
        None => "A cancellation's fee follows the company's policy as it was when the ride was booked.".to_owned(),
    }
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trips::receipt::tests::{cancelled, example};

    #[test]
    fn the_page_stays_as_it_is() {
        insta::assert_snapshot!(render(&example()));
    }

    #[test]
    fn a_receipt_shows_every_line_and_the_total() {
        let receipt = example();
        let page = render(&receipt);
        for line in &receipt.lines {
            assert!(page.contains(&line.amount.to_string()), "{line:?}");
        }
        assert!(page.contains("1 March 2026, 12:21 UTC"));
        assert!(page.contains("7.9 km") && page.contains("21 min 30 s") && page.contains("card, settled"));
    }

    #[test]
    fn a_receipt_says_which_tax_its_lines_contain_and_what_the_driver_was_tipped() {
        let mut receipt = example();
        let money = |amount| Some(shared::money::Money::new(amount, receipt.total.currency));
        (receipt.included_tax, receipt.tip) = (money(145), money(300));
        let page = render(&receipt);
        assert!(page.contains("<td>Tax included in the total</td><td>1.45 USD</td>"), "{page}");
        assert!(page.contains("<td>Tip for the driver</td><td>3.00 USD</td>"), "{page}");
    }

    #[test]
    fn a_cancellation_s_page_shows_its_fee_and_no_way() {
        let page = render(&cancelled());
        assert!(page.contains("Cancellation fee: called off too late") && page.contains("5.00 USD"));
        assert!(!page.contains("Distance") && !page.contains("Tariff version"), "{page}");
    }

    #[test]
    fn nothing_people_typed_becomes_markup() {
        let mut receipt = example();
        receipt.pickup.address = Some("<script>alert('x')</script>".into());
        let page = render(&receipt);
        assert!(!page.contains("<script>"));
        assert!(page.contains("&lt;script&gt;") && page.contains("Cabs &amp; Söhne") && page.contains("NY 1&lt;2"));
    }
}
