//! Metrics to an OTLP endpoint beside the Prometheus page: whatever the program counts is told to both.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Level, Metadata, Recorder, SharedString,
    Unit,
};
use metrics_exporter_prometheus::PrometheusRecorder;
use metrics_util::registry::{Registry, Storage};
use opentelemetry::{KeyValue, metrics::Meter};

use super::LATENCY_BUCKETS_S;

/// Tells Prometheus and OTLP.
pub(super) struct Both {
    prometheus: Arc<PrometheusRecorder>,
    /// Each metric's pair of instruments, made once.
    known: Registry<Key, Instruments>,
}

impl Both {
    pub(super) fn new(prometheus: PrometheusRecorder, meter: Meter) -> Self {
        let prometheus = Arc::new(prometheus);
        Self { known: Registry::new(Instruments { prometheus: prometheus.clone(), meter }), prometheus }
    }
}

impl Recorder for Both {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.prometheus.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.prometheus.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.prometheus.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        self.known.get_or_create_counter(key, |counter| Counter::from_arc(counter.clone()))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        self.known.get_or_create_gauge(key, |gauge| Gauge::from_arc(gauge.clone()))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        self.known.get_or_create_histogram(key, |histogram| Histogram::from_arc(histogram.clone()))
    }
}

/// Prometheus asks for it and does not look at it.
static ABOUT: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, None);

struct Instruments {
    prometheus: Arc<PrometheusRecorder>,
    meter: Meter,
}

impl Storage<Key> for Instruments {
    type Counter = Arc<BothCounters>;
    type Gauge = Arc<BothGauges>;
    type Histogram = Arc<BothHistograms>;

    fn counter(&self, key: &Key) -> Arc<BothCounters> {
        Arc::new(BothCounters {
            prometheus: self.prometheus.register_counter(key, &ABOUT),
            otlp: self.meter.u64_counter(key.name().to_owned()).build(),
            labels: labels(key),
            total: AtomicU64::new(0),
        })
    }

    fn gauge(&self, key: &Key) -> Arc<BothGauges> {
        Arc::new(BothGauges {
            prometheus: self.prometheus.register_gauge(key, &ABOUT),
            otlp: self.meter.f64_gauge(key.name().to_owned()).build(),
            labels: labels(key),
            value: AtomicU64::new(0.0_f64.to_bits()),
        })
    }

    fn histogram(&self, key: &Key) -> Arc<BothHistograms> {
        let histogram = self.meter.f64_histogram(key.name().to_owned());
        Arc::new(BothHistograms {
            prometheus: self.prometheus.register_histogram(key, &ABOUT),
            otlp: histogram.with_boundaries(LATENCY_BUCKETS_S.to_vec()).build(),
            labels: labels(key),
        })
    }
}

fn labels(key: &Key) -> Vec<KeyValue> {
    key.labels().map(|label| KeyValue::new(label.key().to_owned(), label.value().to_owned())).collect()
}

struct BothCounters {
    prometheus: Counter,
    otlp: opentelemetry::metrics::Counter<u64>,
    labels: Vec<KeyValue>,
    total: AtomicU64,
}

impl CounterFn for BothCounters {
    fn increment(&self, value: u64) {
        self.total.fetch_add(value, Ordering::Relaxed);
        self.prometheus.increment(value);
        self.otlp.add(value, &self.labels);
    }

    fn absolute(&self, value: u64) {
        let before = self.total.fetch_max(value, Ordering::Relaxed);
        self.prometheus.absolute(value);
        self.otlp.add(value.saturating_sub(before), &self.labels);
    }
}

struct BothGauges {
    prometheus: Gauge,
    otlp: opentelemetry::metrics::Gauge<f64>,
    labels: Vec<KeyValue>,
    /// The bits of the number: OTLP's gauges can only be set.
    value: AtomicU64,
}

impl BothGauges {
    fn change(&self, change: impl Fn(f64) -> f64) {
        let changed = |bits| Some(change(f64::from_bits(bits)).to_bits());
        let before = self.value.fetch_update(Ordering::Relaxed, Ordering::Relaxed, changed);
        let before = before.unwrap_or_else(|unchanged| unchanged);
        self.otlp.record(change(f64::from_bits(before)), &self.labels);
    }
}

impl GaugeFn for BothGauges {
    fn increment(&self, value: f64) {
        self.prometheus.increment(value);
        self.change(|before| before + value);
    }

    fn decrement(&self, value: f64) {
        self.prometheus.decrement(value);
        self.change(|before| before - value);
    }

    fn set(&self, value: f64) {
        self.prometheus.set(value);
        self.change(|_| value);
    }
}

struct BothHistograms {
    prometheus: Histogram,
    otlp: opentelemetry::metrics::Histogram<f64>,
    labels: Vec<KeyValue>,
}

impl HistogramFn for BothHistograms {
    fn record(&self, value: f64) {
        self.prometheus.record(value);
        self.otlp.record(value, &self.labels);
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Mutex, time::Duration};

    use metrics_exporter_prometheus::PrometheusBuilder;
    use opentelemetry::metrics::MeterProvider;
    use opentelemetry_sdk::{
        error::OTelSdkResult,
        metrics::{
            SdkMeterProvider, Temporality,
            data::{AggregatedMetrics, MetricData, ResourceMetrics},
            exporter::PushMetricExporter,
        },
    };

    use super::*;

    /// A metric's name and its numbers.
    type Numbers = (String, Vec<f64>);

    /// Keeps what is exported.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<Numbers>>>);

    impl PushMetricExporter for Kept {
        async fn export(&self, exported: &ResourceMetrics) -> OTelSdkResult {
            let metrics = exported.scope_metrics().flat_map(|scope| scope.metrics());
            self.0.lock().unwrap().extend(metrics.map(|metric| {
                let mut numbers: Vec<f64> = match metric.data() {
                    AggregatedMetrics::U64(MetricData::Sum(sum)) => {
                        sum.data_points().map(|point| point.value() as f64).collect()
                    }
                    AggregatedMetrics::F64(MetricData::Gauge(gauge)) => {
                        gauge.data_points().map(|point| point.value()).collect()
                    }
                    AggregatedMetrics::F64(MetricData::Histogram(histogram)) => {
                        histogram.data_points().map(|point| point.count() as f64).collect()
                    }
                    other => panic!("{other:?}"),
                };
                numbers.sort_by(f64::total_cmp);
                (metric.name().to_owned(), numbers)
            }));
            Ok(())
        }

        fn force_flush(&self) -> OTelSdkResult {
            Ok(())
        }

        fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
            Ok(())
        }

        fn temporality(&self) -> Temporality {
            Temporality::Cumulative
        }
    }

    #[test]
    fn what_is_counted_reaches_prometheus_and_otlp() {
        let kept = Kept::default();
        let provider = SdkMeterProvider::builder().with_periodic_exporter(kept.clone()).build();
        let prometheus = PrometheusBuilder::new().build_recorder();
        let page = prometheus.handle();
        metrics::with_local_recorder(&Both::new(prometheus, provider.meter("test")), || {
            for region in ["a", "a", "b"] {
                metrics::counter!("rides_total", "region" => region).increment(2);
            }
            metrics::counter!("seen_total").absolute(7);
            metrics::counter!("seen_total").absolute(5);
            metrics::gauge!("drivers").set(5.0);
            metrics::gauge!("drivers").decrement(1.5);
            metrics::histogram!("wait_seconds").record(0.2);
        });
        provider.force_flush().unwrap();
        let page = page.render();
        assert!(page.contains("rides_total{region=\"a\"} 4") && page.contains("drivers 3.5"), "{page}");
        let mut exported = kept.0.lock().unwrap().clone();
        exported.sort_by(|a, b| a.0.cmp(&b.0));
        let expected = [
            ("drivers", vec![3.5]),
            ("rides_total", vec![2.0, 4.0]),
            ("seen_total", vec![7.0]),
            ("wait_seconds", vec![1.0]),
        ];
        assert_eq!(exported, expected.map(|(name, numbers)| (name.to_owned(), numbers)));
    }
}
