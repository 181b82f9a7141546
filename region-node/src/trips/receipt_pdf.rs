//! A receipt as one A4 page of PDF, in the fonts every reader has.

use pdf_writer::{Content, Finish, Name, Pdf, Rect, Ref, Str, TextStr};

use super::{
    receipt::{Receipt, address, coordinates, written},
    receipt_html::{footnote, payment},
};
use crate::{
    pricing::{kilometres, minutes},
    rides::Place,
};

const PAGE: (f32, f32) = (595.0, 842.0);
const LEFT: f32 = 64.0;
const RIGHT: f32 = PAGE.0 - LEFT;
/// For a text with an amount to its right.
const ROOM: f32 = RIGHT - LEFT - 120.0;
const INK: [f32; 3] = [0.067, 0.094, 0.153];
const GREY: [f32; 3] = [0.42, 0.447, 0.502];
const RULE: [f32; 3] = [0.898, 0.906, 0.922];

/// The document.
pub(super) fn render(receipt: &Receipt) -> Vec<u8> {
    let [catalog, pages, page, regular, bold, contents, info] = [1, 2, 3, 4, 5, 6, 7].map(Ref::new);
    let mut pdf = Pdf::new();
    pdf.catalog(catalog).pages(pages);
    pdf.pages(pages).kids([page]).count(1);
    let mut leaf = pdf.page(page);
    leaf.media_box(Rect::new(0.0, 0.0, PAGE.0, PAGE.1)).parent(pages).contents(contents);
    leaf.resources().fonts().pair(Font::Regular.name(), regular).pair(Font::Bold.name(), bold);
    leaf.finish();
    pdf.type1_font(regular).base_font(Name(b"Helvetica")).encoding_predefined(Name(b"WinAnsiEncoding"));
    pdf.type1_font(bold).base_font(Name(b"Helvetica-Bold")).encoding_predefined(Name(b"WinAnsiEncoding"));
    pdf.document_info(info).title(TextStr(&format!("Receipt of {}", receipt.company)));
    pdf.stream(contents, &draw(receipt));
    pdf.finish()
}

fn draw(receipt: &Receipt) -> Vec<u8> {
    let mut sheet = Sheet { content: Content::new(), y: PAGE.1 - 84.0 };
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
    sheet.content.finish().into_vec()
}

/// The page while it is drawn, from top to bottom.
struct Sheet {
    content: Content,
    y: f32,
}

impl Sheet {
    fn down(&mut self, points: f32) {
        self.y -= points;
    }

    fn text(&mut self, x: f32, font: Font, size: f32, color: [f32; 3], text: &str) {
        let [r, g, b] = color;
        let bytes = win_ansi(text);
        self.content.set_fill_rgb(r, g, b).begin_text().set_font(font.name(), size);
        self.content.next_line(x, self.y).show(Str(&bytes)).end_text();
    }

    /// Text that ends at `right`.
    fn text_to(&mut self, right: f32, font: Font, size: f32, color: [f32; 3], text: &str) {
        self.text(right - width(font, size, text), font, size, color, text);
    }

    fn detail(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.text(LEFT, Font::Regular, 10.5, GREY, name);
        let room = RIGHT - LEFT - 90.0;
        self.text(LEFT + 90.0, Font::Regular, 10.5, INK, &fitting(Font::Regular, 10.5, room, value));
        self.down(18.0);
    }

    /// A line across, just below the text.
    fn rule(&mut self, color: [f32; 3], thickness: f32) {
        let ([r, g, b], y) = (color, self.y - 8.0);
        self.content.set_stroke_rgb(r, g, b).set_line_width(thickness).move_to(LEFT, y).line_to(RIGHT, y).stroke();
    }
}

#[derive(Clone, Copy)]
enum Font {
    Regular,
    Bold,
}

impl Font {
    fn name(self) -> Name<'static> {
        match self {
            Self::Regular => Name(b"Regular"),
            Self::Bold => Name(b"Bold"),
        }
    }

    /// Widths of the characters from space to `~`, thousandths of the size (Adobe's metrics of the core fonts).
    fn widths(self) -> &'static [u16; 95] {
        match self {
            Self::Regular => &HELVETICA,
            Self::Bold => &HELVETICA_BOLD,
        }
    }
}

/// An address the fonts can write, else coordinates.
fn place(place: &Place) -> String {
    let address = address(place);
    if address.chars().all(|c| win_ansi_byte(c).is_some()) { address } else { coordinates(place) }
}

fn width(font: Font, size: f32, text: &str) -> f32 {
    // Accented letters are about as wide as most letters.
    const OTHER: u16 = 556;
    let of = |c: char| (c as usize).checked_sub(32).and_then(|i| font.widths().get(i)).copied().unwrap_or(OTHER);
    text.chars().map(|c| f32::from(of(c))).sum::<f32>() * size / 1000.0
}

/// As much of `text` as there is room for.
fn fitting(font: Font, size: f32, room: f32, text: &str) -> String {
    if width(font, size, text) <= room {
        return text.to_owned();
    }
    let mut cut: Vec<char> = text.chars().collect();
    while !cut.is_empty() && width(font, size, &cut.iter().collect::<String>()) + width(font, size, "...") > room {
        cut.pop();
    }
    cut.iter().collect::<String>() + "..."
}

fn win_ansi(text: &str) -> Vec<u8> {
    text.chars().map(|c| win_ansi_byte(c).unwrap_or(b'?')).collect()
}

/// Where a character stands in WinAnsiEncoding, if it does.
fn win_ansi_byte(c: char) -> Option<u8> {
    match c {
        ' '..='~' | '\u{a0}'..='\u{ff}' => u8::try_from(u32::from(c)).ok(),
        '€' => Some(0x80),
        '…' => Some(0x85),
        'Š' => Some(0x8a),
        'Œ' => Some(0x8c),
        'Ž' => Some(0x8e),
        '‘' => Some(0x91),
        '’' => Some(0x92),
        '“' => Some(0x93),
        '”' => Some(0x94),
        '–' => Some(0x96),
        '—' => Some(0x97),
        'š' => Some(0x9a),
        'œ' => Some(0x9c),
        'ž' => Some(0x9e),
        'Ÿ' => Some(0x9f),
        _ => None,
    }
}

#[rustfmt::skip]
const HELVETICA: [u16; 95] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278,
    556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 278, 278, 584, 584, 584, 556,
    1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556,
    333, 556, 556, 500, 556, 556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556,
    556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
];

#[rustfmt::skip]
const HELVETICA_BOLD: [u16; 95] = [
    278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278,
    556, 556, 556, 556, 556, 556, 556, 556, 556, 556, 333, 333, 584, 584, 584, 611,
    975, 722, 722, 722, 722, 667, 611, 778, 722, 278, 556, 722, 611, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 333, 278, 333, 584, 556,
    333, 556, 611, 556, 611, 556, 333, 611, 611, 278, 278, 556, 278, 889, 611, 611,
    611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389, 280, 389, 584,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trips::receipt::tests::{cancelled, example};

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

    #[test]
    fn a_text_too_long_is_cut_to_its_room() {
        let cut = fitting(Font::Regular, 10.0, 100.0, &"w".repeat(200));
        assert!(cut.ends_with("...") && width(Font::Regular, 10.0, &cut) <= 100.0);
    }
}
