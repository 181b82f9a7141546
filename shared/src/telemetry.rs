//! Logs, traces and metrics, the same in every program: logs to standard output, traces and metrics to an OTLP endpoint if
//! one is configured, and a trace context that travels in a `traceparent` text (W3C Trace Context).

mod otlp_metrics;

use std::{
    collections::HashMap,
    sync::mpsc::{self, RecvTimeoutError},
    time::Duration,
};

use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use opentelemetry::{
    Context, KeyValue,
    metrics::MeterProvider,
    propagation::TextMapPropagator,
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{MetricExporter, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource, metrics::SdkMeterProvider, propagation::TraceContextPropagator, trace::SdkTracerProvider,
};
use serde::Deserialize;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{EnvFilter, Layer, layer::SubscriberExt, util::SubscriberInitExt};

/// Where logs, traces and metrics go.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TelemetryConfig {
    /// How a log line looks.
    pub log_format: LogFormat,
    /// Which lines are written, as `tracing_subscriber::EnvFilter` reads it: `info,sqlx=warn`.
    pub log_filter: String,
    /// OTLP over gRPC, such as `http://127.0.0.1:4317`; traces and metrics are exported only if set.
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
    /// The system gives no more threads.
    #[error("telemetry has no thread to work on: {0}")]
    Thread(#[from] std::io::Error),
}

/// Keeps telemetry running; dropping it sends what is still buffered.
#[derive(Debug)]
pub struct Telemetry {
    /// Renders the Prometheus page.
    pub metrics: PrometheusHandle,
    otlp: Option<Otlp>,
    _upkeep: mpsc::Sender<()>,
}

/// What is exported to an OTLP endpoint.
#[derive(Debug)]
struct Otlp {
    traces: SdkTracerProvider,
    metrics: SdkMeterProvider,
}

/// Starts logs, metrics and, if configured, the export of traces and metrics. Call it once, inside the Tokio runtime.
pub fn start(service: &'static str, region: &str, config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let otlp = config.otlp_endpoint.as_ref().map(|endpoint| Otlp::export(service, region, endpoint)).transpose()?;
    let spans = otlp.as_ref().map(|otlp| tracing_opentelemetry::layer().with_tracer(otlp.traces.tracer(service)));
    let lines = match config.log_format {
        LogFormat::Json => tracing_subscriber::fmt::layer().json().flatten_event(true).boxed(),
        LogFormat::Pretty => tracing_subscriber::fmt::layer().boxed(),
    };
    tracing_subscriber::registry()
        .with(EnvFilter::try_new(&config.log_filter)?)
        .with(spans)
        .with(lines)
        .try_init()
        .map_err(|error| TelemetryError::Twice(error.to_string()))?;
    let prometheus = PrometheusBuilder::new()
        .set_buckets(&LATENCY_BUCKETS_S)
        .expect("the list of buckets is not empty")
        .build_recorder();
    let metrics = prometheus.handle();
    match &otlp {
        Some(otlp) => metrics::set_global_recorder(otlp_metrics::Both::new(prometheus, otlp.metrics.meter(service)))
            .map_err(|error| TelemetryError::Twice(error.to_string()))?,
        None => metrics::set_global_recorder(prometheus).map_err(|error| TelemetryError::Twice(error.to_string()))?,
    }
    Ok(Telemetry { _upkeep: keep_up(metrics.clone())?, metrics, otlp })
}

/// Histograms count durations in these steps, seconds.
pub const LATENCY_BUCKETS_S: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What histograms have recorded is kept as it came until somebody reads the page.
const UPKEEP_EVERY: Duration = Duration::from_secs(5);

/// Sums up what histograms recorded even if nobody ever reads the page, until the sender is dropped.
fn keep_up(metrics: PrometheusHandle) -> std::io::Result<mpsc::Sender<()>> {
    let (sender, ended) = mpsc::channel();
    std::thread::Builder::new().name("metrics".to_owned()).spawn(move || {
        while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(UPKEEP_EVERY) {
            metrics.run_upkeep();
        }
    })?;
    Ok(sender)
}

impl Otlp {
    fn export(service: &'static str, region: &str, endpoint: &str) -> Result<Self, TelemetryError> {
        let spans = SpanExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let counts = MetricExporter::builder().with_tonic().with_endpoint(endpoint).build()?;
        let resource = Resource::builder()
            .with_service_name(service)
            .with_attribute(KeyValue::new("gocomet.region", region.to_owned()))
            .build();
        Ok(Self {
            traces: SdkTracerProvider::builder().with_batch_exporter(spans).with_resource(resource.clone()).build(),
            metrics: SdkMeterProvider::builder().with_periodic_exporter(counts).with_resource(resource).build(),
        })
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        let Some(otlp) = &self.otlp else { return };
        for (what, sent) in [("traces", otlp.traces.shutdown()), ("metrics", otlp.metrics.shutdown())] {
            if let Err(error) = sent {
                tracing::warn!(%error, "some {what} were not exported");
            }
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
