//! Packets as they stand on the wire.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

/// What a server sends.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Packet {
    Open {
        ping_interval: Duration,
        ping_timeout: Duration,
    },
    Ping,
    Close,
    Connected,
    Refused {
        message: String,
        data: Value,
    },
    Disconnected,
    Event {
        name: String,
        payload: Value,
        ack: Option<u64>,
    },
    Ack {
        id: u64,
        payload: Value,
    },
    /// Legal, and nothing to us.
    Other,
}

pub(super) const PONG: &str = "3";
pub(super) const DISCONNECT: &str = "41";

pub(super) fn connect(auth: &Value) -> String {
    format!("40{auth}")
}

pub(super) fn event(name: &str, payload: &Value, ack: Option<u64>) -> String {
    let id = ack.map(|id| id.to_string()).unwrap_or_default();
    format!("42{id}{}", json!([name, payload]))
}

/// Reads a packet; none if it is not one.
pub(super) fn parse(text: &str) -> Option<Packet> {
    let (kind, rest) = split_first(text)?;
    match kind {
        '0' => parse_open(rest),
        '1' => Some(Packet::Close),
        '2' => Some(Packet::Ping),
        '4' => parse_message(rest),
        '3' | '5' | '6' => Some(Packet::Other),
        _ => None,
    }
}

fn parse_open(json: &str) -> Option<Packet> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Open {
        ping_interval: u64,
        ping_timeout: u64,
    }
    let open: Open = serde_json::from_str(json).ok()?;
    let [ping_interval, ping_timeout] = [open.ping_interval, open.ping_timeout].map(Duration::from_millis);
    Some(Packet::Open { ping_interval, ping_timeout })
}

fn parse_message(text: &str) -> Option<Packet> {
    let (kind, rest) = split_first(text)?;
    match kind {
        '0' => Some(Packet::Connected),
        '1' => Some(Packet::Disconnected),
        '2' => {
            let (ack, json) = split_id(rest);
            let mut parts = parse_array(json)?.into_iter();
            let name = parts.next()?.as_str()?.to_owned();
            Some(Packet::Event { name, payload: parts.next().unwrap_or_default(), ack })
        }
        '3' => {
            let (id, json) = split_id(rest);
            Some(Packet::Ack { id: id?, payload: parse_array(json)?.into_iter().next().unwrap_or_default() })
        }
        '4' => {
            let error: Value = serde_json::from_str(rest).ok()?;
            let message = error.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
            Some(Packet::Refused { message, data: error.get("data").cloned().unwrap_or_default() })
        }
        _ => None,
    }
}

fn split_first(text: &str) -> Option<(char, &str)> {
    let first = text.chars().next()?;
    Some((first, &text[first.len_utf8()..]))
}

fn split_id(text: &str) -> (Option<u64>, &str) {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    (text[..digits].parse().ok(), &text[digits..])
}

fn parse_array(json: &str) -> Option<Vec<Value>> {
    serde_json::from_str(json).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_packet_is_read() {
        let open = parse(r#"0{"sid":"x","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1}"#);
        let (ping_interval, ping_timeout) = (Duration::from_secs(25), Duration::from_secs(20));
        assert_eq!(open, Some(Packet::Open { ping_interval, ping_timeout }));
        assert_eq!(parse("2"), Some(Packet::Ping));
        assert_eq!(parse(r#"40{"sid":"y"}"#), Some(Packet::Connected));
        let refused = Packet::Refused { message: "no".into(), data: json!({"code": "invalid_token"}) };
        assert_eq!(parse(r#"44{"message":"no","data":{"code":"invalid_token"}}"#), Some(refused));
        let event = Packet::Event { name: "a".into(), payload: json!({"b": 1}), ack: None };
        assert_eq!(parse(r#"42["a",{"b":1}]"#), Some(event));
        let asking = Packet::Event { name: "a".into(), payload: Value::Null, ack: Some(12) };
        assert_eq!(parse(r#"4212["a"]"#), Some(asking));
        assert_eq!(parse(r#"437[{"ok":true}]"#), Some(Packet::Ack { id: 7, payload: json!({"ok": true}) }));
    }

    #[test]
    fn what_is_written_is_read_back() {
        let text = event("ride:accept", &json!({"ride_id": "ü"}), Some(3));
        let payload = json!({"ride_id": "ü"});
        assert_eq!(parse(&text), Some(Packet::Event { name: "ride:accept".into(), payload, ack: Some(3) }));
    }

    #[test]
    fn rubbish_is_no_packet_and_no_panic() {
        for rubbish in ["", "9", "ü", "4", "42", "42{}", "42[]", "42[1]", "43[1]", "0{}", "44", "49"] {
            assert_eq!(parse(rubbish), None, "{rubbish}");
        }
    }
}
