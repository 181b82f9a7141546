//! One trace leads from a foreign edge through the home region to the regions that replicate, and what programs count is
//! exported too: received here as a collector receives it.
#![expect(clippy::unwrap_used, reason = "what a story takes for granted ends it when it fails")]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::Router;
use deploy_local::Cluster;
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{
            ExportMetricsServiceRequest, ExportMetricsServiceResponse,
            metrics_service_server::{MetricsService, MetricsServiceServer},
        },
        trace::v1::{
            ExportTraceServiceRequest, ExportTraceServiceResponse,
            trace_service_server::{TraceService, TraceServiceServer},
        },
    },
    common::v1::{KeyValue, any_value::Value},
    resource::v1::Resource,
};
use system_tests::{
    harness::{TestCluster, eventually_within, tell},
    stories,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status};

/// Spans are exported every few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn telemetry() {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let collector = Collector::default();
    let endpoint = collector.listen(&tasks, &stop).await;
    let mut builder = Cluster::builder();
    for (name, value) in
        [("TELEMETRY__OTLP_ENDPOINT", endpoint.as_str()), ("TELEMETRY__LOG_FILTER", "info,sqlx=warn,fred=warn")]
    {
        builder =
            builder.node_env(&format!("REGION_NODE_{name}"), value).sync_env(&format!("GLOBAL_SYNC_{name}"), value);
    }
    for (name, value) in [("OTEL_METRIC_EXPORT_INTERVAL", "1000"), ("OTEL_BSP_SCHEDULE_DELAY", "500")] {
        builder = builder.node_env(name, value).sync_env(name, value);
    }
    let cluster = TestCluster::start_as(builder).await;
    let stories = stories!(cluster; one_trace_leads_from_a_foreign_edge_home_and_into_the_other_regions);
    tell(&cluster, 1, stories).await;
    collector.has_metrics_of_every_program(&cluster).await;
    collector.has_one_trace_of_a_payment().await;
    drop(cluster);
    stop.cancel();
    tasks.close();
    tasks.wait().await;
}

async fn one_trace_leads_from_a_foreign_edge_home_and_into_the_other_regions(cluster: TestCluster) {
    let abroad = cluster.city("manhattan-cabs").through(&cluster.http_url("eu-west"));
    let served = abroad.serve_ride().await;
    served.rider.pay(served.trip.id).await;
    cluster.converged().await;
}

/// A span as far as it matters here.
#[derive(Clone, Debug)]
struct Seen {
    trace: Vec<u8>,
    id: Vec<u8>,
    parent: Vec<u8>,
    name: String,
    region: String,
    path: String,
}

/// What every region-node counts,
const EVERYWHERE: &[&str] = &[
    "region_node_build_info",
    "region_node_http_requests_total",
    "region_node_http_request_duration_seconds",
    "region_node_db_connections",
    "region_node_db_connections_max",
    "region_node_directory_age_seconds",
];
/// that of the region where the ride was,
const AT_HOME: &[&str] = &[
    "region_node_live_drivers",
    "region_node_rides_total",
    "region_node_offers_total",
    "region_node_dispatch_request_to_offer_seconds",
    "region_node_dispatch_round_duration_seconds",
    "region_node_payments_total",
];
/// and that of the one whose edge was asked.
const AT_THE_EDGE: &[&str] = &["region_node_forwarded_requests_total"];

/// Who counted what: the service, its region, the metric.
type Counted = (String, String, String);

/// A collector that keeps everything.
#[derive(Clone, Default)]
struct Collector {
    spans: Arc<Mutex<Vec<Seen>>>,
    metrics: Arc<Mutex<BTreeSet<Counted>>>,
}

impl Collector {
    /// Listens until told to stop; the address for `otlp_endpoint`.
    async fn listen(&self, tasks: &TaskTracker, stop: &CancellationToken) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // A gRPC call is a POST to the method's path.
        let service = Router::new()
            .route_service(
                "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
                TraceServiceServer::new(self.clone()),
            )
            .route_service(
                "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
                MetricsServiceServer::new(self.clone()),
            );
        let stop = stop.clone();
        tasks.spawn(async move {
            stop.run_until_cancelled(axum::serve(listener, service).into_future()).await;
        });
        format!("http://{address}")
    }

    /// The payment's span at the edge, its continuation at home, and a settlement applied elsewhere, all of one trace.
    async fn has_one_trace_of_a_payment(&self) {
        eventually_within(PATIENCE, "one trace crosses edge, home and replication", async || {
            let mut traces: BTreeMap<Vec<u8>, Vec<Seen>> = BTreeMap::new();
            for span in lock(&self.spans).iter() {
                traces.entry(span.trace.clone()).or_default().push(span.clone());
            }
            let whole = |spans: &&Vec<Seen>| {
                let find = |name: &str, region: &str| {
                    spans.iter().find(move |span| span.name == name && span.region == region)
                };
                let edge = spans.iter().find(|span| span.region == "eu-west" && span.path == "/v1/payments");
                let home = spans.iter().find(|span| span.region == "us-east" && span.path == "/v1/payments");
                let applied = find("replication.apply", "eu-west").and(find("replication.apply", "ap-south"));
                edge.zip(home).is_some_and(|(edge, home)| home.parent == edge.id) && applied.is_some()
            };
            let of_payments: Vec<_> =
                traces.values().filter(|spans| spans.iter().any(|span| span.path == "/v1/payments")).collect();
            if of_payments.iter().any(whole) { Ok(()) } else { Err(format!("{of_payments:?}")) }
        })
        .await;
    }

    async fn has_metrics_of_every_program(&self, cluster: &TestCluster) {
        eventually_within(PATIENCE, "every program's metrics arrive", async || {
            let seen = lock(&self.metrics).clone();
            for region in cluster.regions() {
                let here = match region.as_str() {
                    "us-east" => AT_HOME,
                    "eu-west" => AT_THE_EDGE,
                    _ => &[],
                };
                let of_node = EVERYWHERE.iter().chain(here).map(|metric| ("region-node", *metric));
                let of_sync = ["global_sync_applied_total", "global_sync_leader"].map(|metric| ("global-sync", metric));
                for (service, metric) in of_node.chain(of_sync) {
                    if !seen.contains(&(service.into(), region.clone(), metric.into())) {
                        return Err(format!("{metric} of {service} in {region} is missing"));
                    }
                }
            }
            Ok(())
        })
        .await;
    }
}

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut seen = lock(&self.spans);
        for of_program in request.into_inner().resource_spans {
            let (_, region) = who(of_program.resource.as_ref());
            for span in of_program.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                seen.push(Seen {
                    path: text(&span.attributes, "path"),
                    trace: span.trace_id,
                    id: span.span_id,
                    parent: span.parent_span_id,
                    name: span.name,
                    region: region.clone(),
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collector {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut seen = lock(&self.metrics);
        for of_program in request.into_inner().resource_metrics {
            let (service, region) = who(of_program.resource.as_ref());
            for metric in of_program.scope_metrics.into_iter().flat_map(|scope| scope.metrics) {
                seen.insert((service.clone(), region.clone(), metric.name));
            }
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

/// Service and region of a program.
fn who(resource: Option<&Resource>) -> (String, String) {
    let attributes = resource.map(|resource| resource.attributes.as_slice()).unwrap_or_default();
    (text(attributes, "service.name"), text(attributes, "gocomet.region"))
}

fn text(attributes: &[KeyValue], key: &str) -> String {
    let value = attributes.iter().find(|attribute| attribute.key == key).and_then(|found| found.value.clone());
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        _ => String::new(),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
