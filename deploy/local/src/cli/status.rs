//! `local status` for people.

use serde_json::Value;

/// Programs by region, then the links that are not as they should be.
pub(crate) fn table(status: &Value) -> String {
    let mut lines = Vec::new();
    for region in status["regions"].as_array().into_iter().flatten() {
        lines.push(format!("{}  {}", text(&region["name"]), text(&region["http"])));
        for (service, pid) in region["services"].as_object().into_iter().flatten() {
            let state = pid.as_u64().map_or("does not run".to_owned(), |pid| format!("process {pid}"));
            lines.push(format!("  {service:<14} {state}"));
        }
    }
    let all: Vec<&Value> = status["links"].as_array().into_iter().flatten().collect();
    let changed: Vec<String> = all.iter().filter_map(|link| changes(link)).collect();
    lines.push(match (all.len(), changed.len()) {
        (0, _) => "regions reach each other directly".to_owned(),
        (count, 0) => format!("{count} links, all healthy"),
        _ => changed.join("\n"),
    });
    lines.join("\n")
}

fn changes(link: &Value) -> Option<String> {
    let (cut, delay, loss) = (link["cut"].as_bool()?, link["delay_ms"].as_u64()?, link["loss_percent"].as_f64()?);
    let words = [
        cut.then(|| "cut".to_owned()),
        (delay > 0).then(|| format!("{delay} ms late")),
        (loss > 0.0).then(|| format!("{loss} % lost")),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    (!words.is_empty()).then(|| format!("{} → {}: {}", text(&link["from"]), text(&link["to"]), words.join(", ")))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_wrong_stands_out() {
        let status = json!({
            "regions": [{"name": "us-east", "http": "http://127.0.0.1:18000", "services": {"postgres": 12, "redis": null}}],
            "links": [
                {"from": "us-east", "to": "eu-west", "cut": true, "delay_ms": 80, "loss_percent": 0.0},
                {"from": "eu-west", "to": "us-east", "cut": false, "delay_ms": 0, "loss_percent": 0.0},
            ],
        });
        let expected = "us-east  http://127.0.0.1:18000\n  postgres       process 12\n  redis          does not run\nus-east → eu-west: cut, 80 ms late";
        assert_eq!(table(&status), expected);
    }
}
