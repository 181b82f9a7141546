//! The whole API: every feature's endpoints, and the layers around them.
//!
//! From the outside in: request id and trace; CORS, so that a page can read refusals too; panics become problems; limits; the
//! edge, which forwards calls of tenants at home elsewhere; time-out and compression; the endpoints.

use std::{
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::Body,
    extract::{MatchedPath, Request, State},
    http::{HeaderName, HeaderValue, Method, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use rand::RngExt;
use shared::problem::Code;
use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;
use tower::ServiceBuilder;
use tower_http::{
    catch_panic::CatchPanicLayer,
    compression::{
        CompressionLayer,
        predicate::{NotForContentType, Predicate, SizeAbove},
    },
};
use tracing::Instrument;
use utoipa::{
    OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::router::OpenApiRouter;

use super::{Limits, Problem, answers::Answers, client_address::Proxies, cors, limits};
use crate::{
    app::App,
    config::HttpConfig,
    dispatch, drivers, edge, fare_shares, identity, moves, payments,
    realtime::{self, EventReceiver},
    regions, rides, surge, tenants, trips, web, zones,
};

static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[derive(OpenApi)]
#[openapi(info(
    title = "GoComet DAW region API",
    description = "Ride-hailing for many companies in many regions. Errors are application/problem+json; their stable codes are listed at the end of this text."
))]
struct Document;

/// Every feature's endpoints.
fn endpoints() -> OpenApiRouter<App> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(identity::routes())
        .merge(tenants::routes())
        .merge(moves::routes())
        .merge(rides::routes())
        .merge(drivers::routes())
        .merge(dispatch::routes())
        .merge(zones::routes())
        .merge(surge::routes())
        .merge(trips::routes())
        .merge(payments::routes())
        .merge(fare_shares::routes())
        .merge(regions::routes())
}

/// The OpenAPI 3.1 document of the API.
pub fn openapi() -> utoipa::openapi::OpenApi {
    let (_, mut document) = endpoints().split_for_parts();
    let bearer = SecurityScheme::Http(Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").build());
    document.components.get_or_insert_default().security_schemes.insert("bearer".into(), bearer.into());
    let codes = Code::ALL.iter().map(|code| format!("\n- `{}` ({}): {}", code.as_str(), code.status(), code.title()));
    let description = document.info.description.get_or_insert_default();
    description.push_str("\n\nCodes:");
    description.extend(codes);
    document
}

/// The service of a full node.
pub async fn router(app: &App, events: EventReceiver) -> anyhow::Result<Router> {
    let (api, _) = endpoints().split_for_parts();
    let document = openapi();
    let api = api.route("/openapi.json", axum::routing::get(move || async move { axum::Json(document) }));
    let api = match app.config.http.internal_listen {
        None => api.merge(docs()),
        Some(_) => api,
    };
    let api = api.fallback(web::serve).method_not_allowed_fallback(method_not_allowed).with_state(app.clone());
    let compress = SizeAbove::new(1024).and(NotForContentType::IMAGES).and(NotForContentType::SSE);
    // Put on together: each time layers are put on a router, every call pays for boxing the services within.
    let layers = ServiceBuilder::new()
        // Outside of compression and time-out: a poll waits for as long as there is nothing to say.
        .layer(realtime::start(app, events).await?)
        .layer(middleware::from_fn_with_state(Timing::of(app), time))
        .layer(CompressionLayer::new().gzip(true).compress_when(compress));
    let api = api.layer(layers);
    Ok(outer(api, &edge::Edge::of(app), &app.config.http, Limits::new(app.config.limits, app.tokens.clone())))
}

/// What a full node serves on its internal address, for its operators and their tools.
pub fn internal(app: &App) -> Router {
    let document = openapi();
    let internal = Router::new()
        .route("/openapi.json", axum::routing::get(move || async move { axum::Json(document) }))
        .merge(docs())
        .merge(regions::internal_routes().with_state(app.clone()))
        .fallback(|request: Request| async move { not_found(request.uri().path()) });
    named(internal, &edge::Edge::of(app))
}

fn docs<S: Clone + Send + Sync + 'static>() -> Router<S> {
    utoipa_swagger_ui::SwaggerUi::new("/docs").config(utoipa_swagger_ui::Config::new(["/openapi.json"])).into()
}

/// Puts the layers that both roles share around a service.
pub fn outer(inner: Router, edge: &edge::Edge, config: &HttpConfig, limits: Limits) -> Router {
    let proxies = Arc::new(Proxies { trusted: config.trusted_proxies.clone(), header: config.forwarded_header });
    let layers = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(edge.clone(), finish))
        .layer(cors::layer(&config.cors_origins))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| Problem::internal().into_response()))
        .layer(middleware::from_fn_with_state((limits, proxies, edge.clone()), admit));
    inner.layer(layers)
}

/// Puts the outermost layer around a service, without which no problem is complete.
pub fn named(inner: Router, edge: &edge::Edge) -> Router {
    inner.layer(middleware::from_fn_with_state(edge.clone(), finish))
}

/// Names and traces a call, and completes its answer: every problem gets the request id.
async fn finish(State(edge): State<edge::Edge>, mut request: Request, next: Next) -> Response {
    let given = request.headers().get(&REQUEST_ID).filter(|id| is_request_id(id)).cloned();
    let id = given.unwrap_or_else(|| HeaderValue::from_str(&new_request_id()).expect("a UUID is ASCII"));
    request.headers_mut().insert(&REQUEST_ID, id.clone());
    let id_text = id.to_str().unwrap_or_default();
    let span = tracing::info_span!("http", method = %request.method(), path = request.uri().path(), request_id = id_text, region = %edge.region());
    if let Some(parent) = request.headers().get("traceparent").and_then(|value| value.to_str().ok()) {
        shared::telemetry::continue_trace(&span, parent);
    }
    let mut response = next.run(request).instrument(span).await;
    if let Some(problem) = response.extensions().get::<Problem>().cloned() {
        let mut complete = problem.response(id_text);
        for (name, value) in response.headers() {
            if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
                complete.headers_mut().entry(name).or_insert(value.clone());
            }
        }
        response = complete;
    }
    response.headers_mut().insert(&REQUEST_ID, id);
    edge.sign_answer(&mut response);
    response
}

/// A UUID, made without asking the system for its random bytes, as the library does each time.
fn new_request_id() -> String {
    uuid::Builder::from_random_bytes(rand::rng().random()).into_uuid().to_string()
}

fn is_request_id(value: &HeaderValue) -> bool {
    let bytes = value.as_bytes();
    (1..=128).contains(&bytes.len()) && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:/+=".contains(b))
}

/// Refuses what is over a limit, and routes the rest.
async fn admit(
    State((limits, proxies, edge)): State<(Limits, Arc<Proxies>, edge::Edge)>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Some(refusal) = limits::limit(&limits, &proxies, &mut request) {
        return refusal;
    }
    if limits::is_new_socket(&request) {
        if let Err(problem) = limits.wait_for_turn().await {
            return problem.into_response();
        }
        let_go_of_the_buffer(&mut request);
    }
    edge::route(&edge, request, next).await
}

/// Copies a call's address and headers out of the buffer it was read into. A socket keeps them for as long as it lives, and with
/// them those 8 KiB.
fn let_go_of_the_buffer(request: &mut Request) {
    for value in request.headers_mut().values_mut() {
        if let Ok(copy) = HeaderValue::from_bytes(value.as_bytes()) {
            *value = copy;
        }
    }
    if let Ok(copy) = request.uri().to_string().parse() {
        *request.uri_mut() = copy;
    }
}

/// A command whose client waits no longer has this long to end.
const COMMANDS_END_WITHIN: Duration = Duration::from_secs(30);

/// How long calls may take, and where they are counted.
#[derive(Clone)]
struct Timing {
    limit: Duration,
    answers: Answers,
    tasks: TaskTracker,
}

impl Timing {
    fn of(app: &App) -> Self {
        Self { limit: app.config.http.request_timeout, answers: Answers::default(), tasks: app.tasks.clone() }
    }
}

/// Answers for what takes too long, and counts answers and their time per endpoint.
async fn time(State(timing): State<Timing>, request: Request, next: Next) -> Response {
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let begun = Instant::now();
    let response = if method.is_safe() {
        tokio::time::timeout(timing.limit, next.run(request)).await
    } else {
        tokio::time::timeout(timing.limit, Done::of(request, next, timing.tasks.clone())).await
    };
    let response = response
        .unwrap_or_else(|_| Problem::new(Code::RequestTimeout, "the call took too long; try again").into_response());
    let route = route.as_ref().map_or("unmatched", MatchedPath::as_str);
    timing.answers.count(&method, route, response.status(), begun.elapsed());
    response
}

/// A command, which is done to its end whether or not its client waits: others have to hear of what it commits. It begins when
/// its body is there, so one whose body does not come ends with the wait for it.
///
/// It has no task of its own before nobody waits for it any more, since to wake one costs more than many a command.
struct Done {
    work: Option<BoxFuture<'static, Response>>,
    /// Lives for as long as somebody may still read the body.
    unread: Weak<()>,
    tasks: TaskTracker,
}

impl Done {
    fn of(request: Request, next: Next, tasks: TaskTracker) -> Self {
        let held = Arc::new(());
        let unread = Arc::downgrade(&held);
        let watch = |body: Body| {
            Body::from_stream(body.into_data_stream().inspect(move |_| {
                let _held = &held;
            }))
        };
        let work = next.run(request.map(watch)).in_current_span().boxed();
        Self { work: Some(work), unread, tasks }
    }
}

impl Future for Done {
    type Output = Response;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Response> {
        // Taken out meanwhile: what has panicked does not go on.
        let mut work = self.work.take().expect("polled no more once it is ready");
        let polled = work.poll_unpin(cx);
        if polled.is_pending() {
            self.work = Some(work);
        }
        polled
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(work) = self.work.take()
            && self.unread.strong_count() == 0
            && let Ok(runtime) = Handle::try_current()
        {
            self.tasks.spawn_on(tokio::time::timeout(COMMANDS_END_WITHIN, work), &runtime);
        }
    }
}

async fn method_not_allowed(method: Method) -> Problem {
    Problem::new(Code::MethodNotAllowed, format!("this path does not take {method}"))
}

/// The answer to a path nobody serves.
pub fn not_found(path: &str) -> Response {
    Problem::not_found(format!("nothing is at {path}")).into_response()
}
