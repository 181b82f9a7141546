//! A receipt as one A4 page of PDF.

use super::{
    receipt::{Receipt, address, coordinates, written},
    receipt_html::{footnote, payment},
};
use crate::{
    pdf::{Document, Font, GREY, INK, LEFT, RIGHT, RULE, Sheet, can_write, fitting},
    pricing::{kilometres, minutes},
    rides::Place,
};

/// For a text with an amount to its right.
const ROOM: f32 = RIGHT - LEFT - 120.0;

/// The document.
pub(super) fn render(receipt: &Receipt) -> Vec<u8> {
    Document { title: format!("Receipt of {}", receipt.company), pages: vec![draw(receipt)] }.render()
}

fn draw(receipt: &Receipt) -> Vec<u8> {
    let mut sheet = Sheet::new();
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
    sheet.detail("Payment", &payment(receipt));
    sheet.down(14.0);

    for line in &receipt.lines {
        sheet.text(LEFT, Font::Regular, 10.5, INK, &fitting(Font::Regular, 10.5, ROOM, &line.description));
        sheet.text_to(RIGHT, Font::Regular, 10.5, INK, &line.amount.to_string());
        sheet.rule(RULE, 0.75);
        sheet.down(24.0);
    }
    sheet.text(LEFT, Font::Bold, 12.0, INK, "Total");
    sheet.text_to(RIGHT, Font::Bold, 12.0, INK, &receipt.total.to_string());
    for (name, amount) in receipt.beside_total() {
        sheet.down(20.0);
        sheet.text(LEFT, Font::Regular, 10.5, GREY, &fitting(Font::Regular, 10.5, ROOM, &name));
        sheet.text_to(RIGHT, Font::Regular, 10.5, GREY, &amount.to_string());
    }
    sheet.down(44.0);
    sheet.text(LEFT, Font::Regular, 8.0, GREY, &format!("Trip {}", receipt.trip_id));
    sheet.down(12.0);
    sheet.text(LEFT, Font::Regular, 8.0, GREY, &footnote(receipt));
    sheet.finish()
}

/// An address the fonts can write, else coordinates.
fn place(place: &Place) -> String {
    let address = address(place);
    if can_write(&address) { address } else { coordinates(place) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pdf::win_ansi,
        trips::receipt::tests::{cancelled, example},
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
    fn the_page_stays_as_it_is() {
        insta::assert_snapshot!(String::from_utf8_lossy(&draw(&example())));
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
