//! Which of the formats an answer can have its caller wants.

use axum::http::{HeaderMap, header};

/// The format the Accept headers ask for (RFC 9110, 12.5.1), of those `offered` with their media types: the highest weight wins,
/// then our own order; the first where nothing is asked for. A range's weight counts for a format only if no more specific range
/// names it.
pub(crate) fn preferred<F: Copy>(headers: &HeaderMap, offered: &[(F, &str)]) -> Option<F> {
    let accepts: Vec<&str> = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    negotiate(&accepts.join(","), offered)
}

fn negotiate<F: Copy>(accept: &str, offered: &[(F, &str)]) -> Option<F> {
    if accept.trim().is_empty() {
        return offered.first().map(|(format, _)| *format);
    }
    let ranges: Vec<(String, f32)> = accept
        .split(',')
        .map(|range| {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or_default().to_ascii_lowercase();
            let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
            (name, weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0)))
        })
        .collect();
    let weight = |media_type: &str| {
        let kind = media_type.split_once('/').map_or(media_type, |(kind, _)| kind);
        let names = [media_type.to_owned(), format!("{kind}/*"), "*/*".to_owned()];
        names.iter().find_map(|name| ranges.iter().find(|(range, _)| range == name)).map_or(0.0, |(_, weight)| *weight)
    };
    let mut best = None;
    for (format, media_type) in offered {
        let weight = weight(media_type);
        if weight > best.map_or(0.0, |(_, best)| best) {
            best = Some((*format, weight));
        }
    }
    best.map(|(format, _)| format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_header_chooses_the_format() {
        let offered = [("json", "application/json"), ("html", "text/html"), ("pdf", "application/pdf")];
        for (accept, format) in [
            ("", Some("json")),
            ("*/*", Some("json")),
            ("application/json", Some("json")),
            ("application/pdf", Some("pdf")),
            ("TEXT/HTML", Some("html")),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", Some("html")),
            ("application/json;q=0.5, application/pdf;q=0.9", Some("pdf")),
            ("application/*", Some("json")),
            ("*/*, application/json;q=0", Some("html")),
            ("image/png", None),
            ("application/pdf;q=0", None),
            ("nonsense", None),
        ] {
            assert_eq!(negotiate(accept, &offered), format, "{accept}");
        }
    }
}
