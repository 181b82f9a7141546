//! Documents of A4 pages as PDF, in the fonts every reader has.

use pdf_writer::{Content, Finish, Name, Pdf, Rect, Ref, Str, TextStr};

const PAGE: (f32, f32) = (595.0, 842.0);
/// Below this a page is full.
const FOOT: f32 = 64.0;
pub(crate) const LEFT: f32 = 64.0;
pub(crate) const RIGHT: f32 = PAGE.0 - LEFT;
pub(crate) const INK: [f32; 3] = [0.067, 0.094, 0.153];
pub(crate) const GREY: [f32; 3] = [0.42, 0.447, 0.502];
pub(crate) const RULE: [f32; 3] = [0.898, 0.906, 0.922];

/// A document of [`Pages`].
pub(crate) struct Document {
    pub(crate) title: String,
    pub(crate) pages: Vec<Vec<u8>>,
}

impl Document {
    /// The document's bytes.
    pub(crate) fn render(&self) -> Vec<u8> {
        let [catalog, pages, regular, bold, info] = [1, 2, 4, 5, 7].map(Ref::new);
        // A page and its contents: 3 and 6, 8 and 9, 10 and 11 …
        let leaf = |index: i32| match index {
            0 => [Ref::new(3), Ref::new(6)],
            later => [Ref::new(6 + 2 * later), Ref::new(7 + 2 * later)],
        };
        let leaves: Vec<([Ref; 2], &Vec<u8>)> = (0..).map(leaf).zip(&self.pages).collect();
        let mut pdf = Pdf::new();
        pdf.catalog(catalog).pages(pages);
        let count = i32::try_from(leaves.len()).expect("far fewer pages than that");
        pdf.pages(pages).kids(leaves.iter().map(|([page, _], _)| *page)).count(count);
        for ([page, contents], _) in &leaves {
            let mut leaf = pdf.page(*page);
            leaf.media_box(Rect::new(0.0, 0.0, PAGE.0, PAGE.1)).parent(pages).contents(*contents);
            leaf.resources().fonts().pair(Font::Regular.name(), regular).pair(Font::Bold.name(), bold);
            leaf.finish();
        }
        pdf.type1_font(regular).base_font(Name(b"Helvetica")).encoding_predefined(Name(b"WinAnsiEncoding"));
        pdf.type1_font(bold).base_font(Name(b"Helvetica-Bold")).encoding_predefined(Name(b"WinAnsiEncoding"));
        pdf.document_info(info).title(TextStr(&self.title));
        for ([_, contents], drawn) in &leaves {
            pdf.stream(*contents, drawn);
        }
        pdf.finish()
    }
}

/// Whether the fonts have every character of a text.
pub(crate) fn can_write(text: &str) -> bool {
    text.chars().all(|c| win_ansi_byte(c).is_some())
}

/// A page while it is drawn, from top to bottom.
pub(crate) struct Sheet {
    content: Content,
    y: f32,
}

impl Sheet {
    /// An empty page, at its top.
    fn new() -> Self {
        Self { content: Content::new(), y: PAGE.1 - 84.0 }
    }

    /// Whether it is drawn down to its foot.
    fn is_full(&self) -> bool {
        self.y < FOOT
    }

    /// What was drawn.
    fn finish(self) -> Vec<u8> {
        self.content.finish().into_vec()
    }

    /// Goes down.
    pub(crate) fn down(&mut self, points: f32) {
        self.y -= points;
    }

    /// Text that begins at `x`.
    pub(crate) fn text(&mut self, x: f32, font: Font, size: f32, color: [f32; 3], text: &str) {
        let [r, g, b] = color;
        let bytes = win_ansi(text);
        self.content.set_fill_rgb(r, g, b).begin_text().set_font(font.name(), size);
        self.content.next_line(x, self.y).show(Str(&bytes)).end_text();
    }

    /// Text that ends at `right`.
    pub(crate) fn text_to(&mut self, right: f32, font: Font, size: f32, color: [f32; 3], text: &str) {
        self.text(right - width(font, size, text), font, size, color, text);
    }

    /// A line of a name and its value, if there is one.
    pub(crate) fn detail(&mut self, name: &str, value: &str) {
        if value.is_empty() {
            return;
        }
        self.text(LEFT, Font::Regular, 10.5, GREY, name);
        let room = RIGHT - LEFT - 90.0;
        self.text(LEFT + 90.0, Font::Regular, 10.5, INK, &fitting(Font::Regular, 10.5, room, value));
        self.down(18.0);
    }

    /// A line across, just below the text.
    pub(crate) fn rule(&mut self, color: [f32; 3], thickness: f32) {
        let ([r, g, b], y) = (color, self.y - 8.0);
        self.content.set_stroke_rgb(r, g, b).set_line_width(thickness).move_to(LEFT, y).line_to(RIGHT, y).stroke();
    }
}

/// Pages while they are filled from top to bottom.
pub(crate) struct Pages {
    done: Vec<Vec<u8>>,
    pub(crate) sheet: Sheet,
}

impl Pages {
    /// One page, empty.
    pub(crate) fn new() -> Self {
        Self { done: Vec::new(), sheet: Sheet::new() }
    }

    /// Goes down, onto another page where this one is full.
    pub(crate) fn down(&mut self, points: f32) {
        self.sheet.down(points);
        if self.sheet.is_full() {
            let full = std::mem::replace(&mut self.sheet, Sheet::new());
            self.done.push(full.finish());
        }
    }

    /// All of them, for [`Document::pages`].
    pub(crate) fn end(mut self) -> Vec<Vec<u8>> {
        self.done.push(self.sheet.finish());
        self.done
    }
}

/// The fonts every reader has.
#[derive(Clone, Copy)]
pub(crate) enum Font {
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

fn width(font: Font, size: f32, text: &str) -> f32 {
    // Accented letters are about as wide as most letters.
    const OTHER: u16 = 556;
    let of = |c: char| (c as usize).checked_sub(32).and_then(|i| font.widths().get(i)).copied().unwrap_or(OTHER);
    text.chars().map(|c| f32::from(of(c))).sum::<f32>() * size / 1000.0
}

/// As much of `text` as there is room for.
pub(crate) fn fitting(font: Font, size: f32, room: f32, text: &str) -> String {
    if width(font, size, text) <= room {
        return text.to_owned();
    }
    let mut cut: Vec<char> = text.chars().collect();
    while !cut.is_empty() && width(font, size, &cut.iter().collect::<String>()) + width(font, size, "...") > room {
        cut.pop();
    }
    cut.iter().collect::<String>() + "..."
}

/// A text as the fonts are encoded; what they cannot write is a question mark.
pub(crate) fn win_ansi(text: &str) -> Vec<u8> {
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

    #[test]
    fn a_text_too_long_is_cut_to_its_room() {
        let cut = fitting(Font::Regular, 10.0, 100.0, &"w".repeat(200));
        assert!(cut.ends_with("...") && width(Font::Regular, 10.0, &cut) <= 100.0);
    }
}
