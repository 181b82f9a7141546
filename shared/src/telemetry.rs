//! Logs, traces and metrics, the same in every program: logs to standard output, traces and metrics to an OTLP endpoint if
//! one is configured, and a trace context that travels in a `traceparent` text (W3C Trace Context).

use std::collections::HashMap;

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::{
    Context, KeyValue,
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::WithExportConfig;
use opentelemetry_sdk::{Resource, propagation::TraceContextPropagator, trace::SdkTracerProvider};
use serde::Deserialize;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Where logs and traces go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Which lines are written, as `tracing_subscriber::EnvFilter` reads it: `info,sqlx=warn`.
    pub log_filter: String,
    /// OTLP over gRPC, such as `http://127.0.0.1:4317`; traces are exported only if set.
    #[serde(default)]
    pub otlp_endpoint: Option<String>,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// One JSON object a line, for machines.
    Json,
    /// Coloured text, for people.
    Pretty,
}

/// Telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter cannot be read.
    #[error("telemetry.log_filter: {0}")]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// The endpoint is not an address.
    #[error("telemetry.otlp_endpoint: {0}")]
    Endpoint(#[from] opentelemetry_otlp::ExporterBuildError),
    /// Another part of the program started it before.
    #[error("telemetry was started twice: {0}")]
    Twice(String),
}

/// Keeps telemetry running; dropping it sends what is still buffered.
#[derive(Debug)]
pub struct Telemetry {
    /// Renders the Prometheus page.
    pub metrics: PrometheusHandle,
    traces: Option<SdkTracerProvider>,
}

/// Starts logs, metrics and, if configured, the export of traces. Call it once, inside the Tokio runtime.
pub fn start(service: &'static str, region: &str, config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let traces =
        config.otlp_endpoint.as_ref().map(|endpoint| tracer_provider(service, region, endpoint)).transpose()?;
    let export = traces.as_ref().map(|provider| tracing_opentelemetry::layer().with_tracer(provider.tracer(service)));
    let lines = match config.log_format {
        LogFormat::Json => tracing_subscriber::fmt::layer().json().flatten_event(true).boxed(),
        LogFormat::Pretty => tracing_subscriber::fmt::layer().boxed(),
    };
    tracing_subscriber::registry()
        .with(EnvFilter::try_new(&config.log_filter)?)
        .with(export)
        .with(lines)
        .try_init()
        .map_err(|error| TelemetryError::Twice(error.to_string()))?;
    let metrics = PrometheusBuilder::new()
        .set_buckets(&LATENCY_BUCKETS_S)
        .expect("the list of buckets is not empty")
        .install_recorder()
        .map_err(|error| TelemetryError::Twice(error.to_string()))?;
    Ok(Telemetry { metrics, traces })
}

/// Histograms count durations in these steps, seconds.
const LATENCY_BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

fn tracer_provider(service: &'static str, region: &str, endpoint: &str) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = opentelemetry_otlp::SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attribute(KeyValue::new("gocomet.region", region.to_owned()))
        .build();
    Ok(SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build())
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        if let Some(traces) = &self.traces
            && let Err(error) = traces.shutdown()
        {
            tracing::warn!(%error, "some traces were not exported");
        }
    }
}

/// The `traceparent` of the current span, to send to whoever continues the work; `None` when nothing is traced.
pub fn current_traceparent() -> Option<String> {
    let context = Span::current().context();
    if !context.span().span_context().is_valid() {
        return None;
    }
    let mut carrier = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove("traceparent")
}

/// Makes `span` a child of the work that `traceparent` names; a malformed one is ignored.
pub fn continue_trace(span: &Span, traceparent: &str) {
    let carrier = HashMap::from([("traceparent".to_owned(), traceparent.to_owned())]);
    let context: Context = TraceContextPropagator::new().extract(&carrier);
    if context.span().span_context().is_valid() {
        // Fails only when no exporter runs, and then there is no trace to continue.
        let _ = span.set_parent(context);
    }
}
