//! A receipt as PDF: one A4 page, unless it has very many lines.

use super::{
    receipt::{Receipt, address, coordinates, written},
    receipt_html::{footnote, payments},
};
use crate::{
    pdf::{Document, Font, GREY, INK, LEFT, Pages, RIGHT, RULE, can_write, fitting},
    pricing::{kilometres, minutes},
    rides::Place,
};

/// For a text with an amount to its right.
const ROOM: f32 = RIGHT - LEFT - 120.0;

/// The document.
pub(super) fn render(receipt: &Receipt) -> Vec<u8> {
    Document { title: format!("Receipt of {}", receipt.company), pages: draw(receipt) }.render()
}

fn draw(receipt: &Receipt) -> Vec<Vec<u8>> {
    let mut pages = Pages::new();
    let sheet = &mut pages.sheet;
    sheet.text(LEFT, Font::Bold, 20.0, INK, &fitting(Font::Bold, 20.0, ROOM, &receipt.company));
    sheet.text_to(RIGHT, Font::Regular, 12.0, GREY, "Receipt");
    sheet.rule(INK, 1.5);
    sheet.down(52.0);
    sheet.text(LEFT, Font::Bold, 30.0, INK, &receipt.total.to_string());
    sheet.down(20.0);
    sheet.text(LEFT, Font::Regular, 10.5, GREY, &written(receipt.ended_at));
    sheet.down(34.0);

    sheet.detail("From", &place(&receipt.pickup));
    sheet.detail("To", &place(&receipt.dropoff));
    sheet.detail("Distance", &receipt.distance_m.map(kilometres).unwrap_or_default());
    sheet.detail("Time", &receipt.duration_s.map(minutes).unwrap_or_default());
    if receipt.paused_s > 0 {
        sheet.detail("Paused", &minutes(receipt.paused_s));
    }
    sheet.detail("Rider", &receipt.rider);
    sheet.detail("Driver", &receipt.driver);
    if let Some(vehicle) = &receipt.vehicle {
        sheet.detail("Vehicle", format!("{} {}", vehicle.model, vehicle.plate).trim());
    }
    for (what, how) in payments(receipt) {
        sheet.detail(&fitting(Font::Regular, 10.5, 85.0, &what), &how);
    }
    sheet.down(14.0);

    for line in &receipt.lines {
        let description = fitting(Font::Regular, 10.5, ROOM, &line.description);
        pages.sheet.text(LEFT, Font::Regular, 10.5, INK, &description);
        pages.sheet.text_to(RIGHT, Font::Regular, 10.5, INK, &line.amount.to_string());
        pages.sheet.rule(RULE, 0.75);
        pages.down(24.0);
    }
    pages.sheet.text(LEFT, Font::Bold, 12.0, INK, "Total");
    pages.sheet.text_to(RIGHT, Font::Bold, 12.0, INK, &receipt.total.to_string());
    for (name, amount) in receipt.beside_total() {
        pages.down(20.0);
        pages.sheet.text(LEFT, Font::Regular, 10.5, GREY, &fitting(Font::Regular, 10.5, ROOM, &name));
        pages.sheet.text_to(RIGHT, Font::Regular, 10.5, GREY, &amount.to_string());
    }
    pages.down(44.0);
    pages.sheet.text(LEFT, Font::Regular, 8.0, GREY, &format!("Trip {}", receipt.trip_id));
    pages.down(12.0);
    pages.sheet.text(LEFT, Font::Regular, 8.0, GREY, &footnote(receipt));
    pages.end()
}

/// An address the fonts can write, else coordinates.
fn place(place: &Place) -> String {
    let address = address(place);
    if can_write(&address) { address } else { coordinates(place) }
}

#[cfg(test)]
mod tests {
    use shared::money::Money;

    use super::*;
    use crate::{
        fare_shares::ShareStatus,
        payments::{Dispute, DisputeStatus, RefundStatus, RefundTo},
        pdf::win_ansi,
        pricing::{FareLine, LineCode},
        trips::receipt::{
            ReceiptRefund, ReceiptShare,
            tests::{cancelled, example},
        },
    };

    fn contains(haystack: &[u8], needle: &str) -> bool {
        let needle = win_ansi(needle);
        haystack.windows(needle.len()).any(|window| window == needle)
    }

    #[test]
    fn a_receipt_is_one_page_with_every_amount() {
        let receipt = example();
        let pdf = render(&receipt);
        assert!(pdf.starts_with(b"%PDF-1.7") && pdf.ends_with(b"%%EOF"));
        for line in &receipt.lines {
            assert!(contains(&pdf, &line.amount.to_string()), "{line:?}");
        }
        // The writer puts what is not ASCII in hexadecimal.
        let hex = hex::encode_upper(win_ansi("Cabs & Söhne"));
        assert!(contains(&pdf, &hex));
    }

    #[test]
    fn a_receipt_of_many_lines_and_shares_goes_on_on_another_page_and_loses_none() {
        let mut receipt = example();
        let currency = receipt.total.currency;
        let usd = |amount| Money::new(amount, currency);
        let line = |n: i64| FareLine { code: LineCode::Toll, description: format!("Toll: gate {n}."), amount: usd(n) };
        receipt.lines = (1..=25).map(line).collect();
        let share =
            |n: i64| ReceiptShare { name: format!("Friend{n}"), amount: usd(100 + n), status: ShareStatus::Fixed };
        receipt.shares = (1..=7).map(share).collect();
        let paid = &mut receipt.payments[0];
        paid.refunds = vec![ReceiptRefund { status: RefundStatus::Settled, amount: usd(123), to: RefundTo::Source }];
        paid.disputes = vec![Dispute { status: DisputeStatus::Open, amount: usd(456) }];
        let pages = draw(&receipt);
        assert_eq!(pages.len(), 2);
        for page in &pages {
            let text = String::from_utf8_lossy(page);
            let heights =
                text.lines().filter_map(|line| line.strip_suffix(" Td")?.split(' ').nth(1)?.parse::<f32>().ok());
            let heights: Vec<f32> = heights.collect();
            assert!(!heights.is_empty() && heights.iter().all(|y| *y > 60.0), "{heights:?}");
        }
        let pdf = pages.concat();
        let gates = (1..=25).map(|n| format!("Toll: gate {n}."));
        let friends = (1..=7).map(|n| format!("Share of Friend{n}"));
        for text in
            gates.chain(friends).chain(["1.23 USD refunded", "4.56 USD disputed", "Total", "Trip "].map(str::to_owned))
        {
            assert!(contains(&pdf, &text), "{text}");
        }
    }

    #[test]
    fn the_page_stays_as_it_is() {
        insta::assert_snapshot!(String::from_utf8_lossy(&draw(&example())[0]));
    }

    #[test]
    fn a_cancellation_s_page_shows_its_fee_and_no_way() {
        let pdf = render(&cancelled());
        assert!(contains(&pdf, "Cancellation fee: called off too late") && contains(&pdf, "5.00 USD"));
        assert!(!contains(&pdf, "Distance") && !contains(&pdf, "Tariff version"));
    }

    #[test]
    fn an_address_the_fonts_cannot_write_becomes_coordinates() {
        assert!(contains(&render(&example()), "40.70610, -74.00870"));
    }
}
