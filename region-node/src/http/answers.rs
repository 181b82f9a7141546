//! Answers, counted per endpoint.

use std::{sync::Arc, time::Duration};

use axum::http::{Method, StatusCode};
use dashmap::DashMap;
use metrics::{Counter, Histogram};

/// Counts answers and their time. To look two metrics up by their labels costs more than to take a position, so each is looked
/// up once. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Answers(Arc<DashMap<String, Vec<Kind>>>);

/// An endpoint's answers to one method, with one status.
struct Kind {
    method: &'static str,
    status: StatusCode,
    seconds: Histogram,
    count: Counter,
}

impl Answers {
    /// Counts an answer of the endpoint at `route`.
    pub(super) fn count(&self, method: &Method, route: &str, status: StatusCode, took: Duration) {
        let method = name(method);
        if let Some(kinds) = self.0.get(route)
            && let Some(kind) = kinds.iter().find(|kind| kind.method == method && kind.status == status)
        {
            return kind.count(took);
        }
        let kind = Kind::new(method, route, status);
        kind.count(took);
        self.0.entry(route.to_owned()).or_default().push(kind);
    }
}

impl Kind {
    fn new(method: &'static str, route: &str, status: StatusCode) -> Self {
        let labels = [("method", method.to_owned()), ("route", route.to_owned())];
        let seconds = metrics::histogram!("region_node_http_request_duration_seconds", &labels);
        let [method_label, route] = labels;
        let status_label = ("status", status.as_u16().to_string());
        let count = metrics::counter!("region_node_http_requests_total", &[method_label, route, status_label]);
        Self { method, status, seconds, count }
    }

    fn count(&self, took: Duration) {
        self.seconds.record(took);
        self.count.increment(1);
    }
}

/// Clients may make methods up, and each would be a metric of its own for ever.
fn name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::PATCH => "PATCH",
        Method::DELETE => "DELETE",
        Method::HEAD => "HEAD",
        Method::OPTIONS => "OPTIONS",
        Method::CONNECT => "CONNECT",
        Method::TRACE => "TRACE",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_that_clients_make_up_are_counted_as_one() {
        let answers = Answers::default();
        for number in 0..50 {
            let method = Method::from_bytes(format!("MADEUP{number}").as_bytes()).unwrap();
            answers.count(&method, "unmatched", StatusCode::METHOD_NOT_ALLOWED, Duration::ZERO);
        }
        answers.count(&Method::GET, "unmatched", StatusCode::NOT_FOUND, Duration::ZERO);
        let counted: Vec<_> = answers.0.get("unmatched").unwrap().iter().map(|kind| kind.method).collect();
        assert_eq!(counted, ["other", "GET"]);
    }
}
