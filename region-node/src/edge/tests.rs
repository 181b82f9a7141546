//! Routing without a database: what is forwarded and how, and an edge that follows full nodes which come and go.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri},
    middleware,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use url::Url;

use super::{Edge, Inner, alone, route};
use crate::{config::Config, tenants::Directory};

/// Serves `service` until the test ends.
async fn serve(service: Router) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = axum::serve(listener, service.into_make_service_with_connect_info::<SocketAddr>());
    TaskTracker::new().spawn(serving.into_future());
    format!("http://{address}").parse().unwrap()
}

/// An address where nobody listens.
async fn nobody() -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap()).parse().unwrap()
}

fn directory() -> Value {
    let region =
        |jwks: Value| json!({"base_url": "http://127.0.0.1:1", "quic_addr": "", "jwks": jwks, "state": "active"});
    let key = |kid: &str| json!({"keys": [{"kid": kid, "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]});
    let home = |region: &str| json!({"region": region, "epoch": {"term": 1, "n": 0}, "name": "", "config_version": 1});
    json!({
        "regions": {"us-east": region(key("us-1")), "eu-west": region(key("eu-1"))},
        "homes": {"cabs": home("us-east"), "taxis": home("eu-west")},
    })
}

/// The edge in front of a full node of `us-east`; `taxis` is at home at `home`.
fn edge_before(home: &Url, body_timeout: Duration) -> Router {
    let config = config(&format!("peers = \"eu-west={home}\"\nforward_timeout = \"100ms\""));
    let directory: Arc<Directory> = Arc::new(serde_json::from_value(directory()).unwrap());
    let edge = Edge(Arc::new(Inner {
        region: "us-east".parse().unwrap(),
        directory: Box::new(move || directory.clone()),
        peers: config.edge.peers.clone(),
        http: crate::app::http_client(Duration::from_secs(1)).unwrap(),
        config: config.edge,
        body_limit_bytes: 1_000,
        body_timeout,
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        alone: None,
    }));
    let routed = async |State(edge): State<Edge>, request, next| route(&edge, request, next).await;
    Router::new().fallback(|| async { "here" }).layer(middleware::from_fn_with_state(edge, routed))
}

fn config(edge: &str) -> Config {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let settings = format!(
        "role = \"edge\"\nregion = {{ name = \"us-east\" }}\nhttp = {{ public_url = \"http://127.0.0.1\" }}\n\
         operator = {{ client_id = \"operator\", client_secret = \"0123456789abcdef\" }}\n[edge]\n{edge}"
    );
    Config::from_toml(&[&settings]).unwrap()
}

async fn call(router: &Router, request: Request) -> (StatusCode, HeaderMap, Bytes) {
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    (status, headers, axum::body::to_bytes(response.into_body(), 100_000).await.unwrap())
}

async fn code(router: &Router, request: Request) -> (u16, String) {
    let (status, _, body) = call(router, request).await;
    let code = serde_json::from_slice(&body).map(|body: Value| body["code"].as_str().unwrap_or_default().to_owned());
    (status.as_u16(), code.unwrap_or_default())
}

fn request(method: Method, path: &str, tenant: &str) -> axum::http::request::Builder {
    Request::builder().method(method).uri(path).header("x-tenant-id", tenant)
}

/// Answers with what it was sent: the body's length, and whether a header of one name came.
async fn echo(headers: HeaderMap, body: Bytes) -> Json<Value> {
    let has = |name: &str| headers.contains_key(name);
    Json(json!({
        "bytes": body.len(), "length": has("content-length"), "upgrade": has("upgrade"), "encoding": has("transfer-encoding"),
        "by": headers.get("x-gocomet-forwarded-by").map(|by| by.to_str().unwrap()),
    }))
}

#[tokio::test]
async fn a_body_is_forwarded_whatever_tells_its_length() {
    let home = serve(Router::new().fallback(echo)).await;
    let edge = edge_before(&home, Duration::from_secs(1));
    let chunks = || Body::from_stream(futures::stream::iter([Ok::<_, Infallible>("12345"), Ok("67890")]));
    // A body of HTTP/2 has no header that says there is one.
    let (_, _, streamed) = call(&edge, request(Method::POST, "/v1/rides", "taxis").body(chunks()).unwrap()).await;
    let expected = json!({"bytes": 10, "length": false, "upgrade": false, "encoding": true, "by": "us-east"});
    assert_eq!(serde_json::from_slice::<Value>(&streamed).unwrap(), expected);
    // A call that offers another protocol keeps its body.
    let offering = request(Method::POST, "/v1/rides", "taxis").header("upgrade", "h2c").header("connection", "upgrade");
    let (_, _, offered) = call(&edge, offering.header("content-length", "10").body(chunks()).unwrap()).await;
    let expected = json!({"bytes": 10, "length": true, "upgrade": false, "encoding": false, "by": "us-east"});
    assert_eq!(serde_json::from_slice::<Value>(&offered).unwrap(), expected);
    let (_, _, none) = call(&edge, request(Method::DELETE, "/v1/riders/1", "taxis").body(Body::empty()).unwrap()).await;
    let expected = json!({"bytes": 0, "length": false, "upgrade": false, "encoding": false, "by": "us-east"});
    assert_eq!(serde_json::from_slice::<Value>(&none).unwrap(), expected);
}

/// While a tenant moves, the regions hear of it one after the other.
#[tokio::test]
async fn a_call_between_edges_that_do_not_agree_on_a_home_comes_again_and_is_no_loop() {
    let edge = edge_before(&nobody().await, Duration::from_secs(1));
    let forwarded = |path: &str, epoch: &str| {
        let request = request(Method::POST, path, "taxis").header("x-gocomet-forwarded-by", "ap-south");
        request.header("x-gocomet-home-epoch", epoch).body(Body::empty()).unwrap()
    };
    assert_eq!(code(&edge, forwarded("/v1/rides", "1.0")).await, (508, "routing_loop".to_owned()));
    let (status, headers, _) = call(&edge, forwarded("/v1/rides", "1.1")).await;
    assert_eq!((status.as_u16(), &headers["retry-after"]), (503, &"1".parse().unwrap()));
    assert_eq!(code(&edge, forwarded("/v1/rides", "1.1")).await, (503, "tenant_moving".to_owned()));
    // A move is asked for at the home of the tenant in the path, whatever the header says.
    let unreachable = (503, "home_region_unreachable".to_owned());
    assert_eq!(
        code(&edge, request(Method::POST, "/v1/tenants/taxis/rehome", "cabs").body(Body::empty()).unwrap()).await,
        unreachable
    );
}

#[tokio::test]
async fn a_poll_may_take_longer_than_a_call() {
    async fn slow() -> &'static str {
        tokio::time::sleep(Duration::from_millis(400)).await;
        "late"
    }
    let home = serve(Router::new().fallback(slow)).await;
    let edge = edge_before(&home, Duration::from_secs(1));
    let ask = |path: &str| request(Method::GET, path, "taxis").body(Body::empty()).unwrap();
    assert_eq!(code(&edge, ask("/v1/rides")).await, (503, "home_region_unreachable".to_owned()));
    assert_eq!(call(&edge, ask("/socket.io/?EIO=4&transport=polling&sid=1")).await.0, 200);
}

#[tokio::test]
async fn a_sign_in_whose_body_never_ends_is_given_up() {
    let edge = edge_before(&nobody().await, Duration::from_millis(100));
    let never = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
    let sign_in = request(Method::POST, "/v1/auth/token", "taxis").body(never).unwrap();
    assert_eq!(code(&edge, sign_in).await, (408, "request_timeout".to_owned()));
}

struct FullNode {
    url: Url,
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl FullNode {
    async fn end(&self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// A full node of `region` as an edge sees it: it signs the edge in, has a directory and a config, and takes calls.
async fn full_node(region: &'static str, seen: Arc<Mutex<Vec<String>>>) -> FullNode {
    let answer = move |uri: Uri, headers: HeaderMap| {
        let given = headers.contains_key("x-gocomet-given-by-edge");
        seen.lock().unwrap().push(format!("{region} {} {given}", uri.path()));
        let body = match uri.path() {
            "/v1/auth/token" => json!({"access_token": "a", "expires_in": 900}),
            "/v1/directory" => directory(),
            path if path.ends_with("/config") => {
                let version = json!({"version": 1, "config": {"name": path}, "published_at": "2026-01-01T00:00:00Z"});
                json!({"published": version, "running": {"region": region, "version": version, "refused": []}})
            }
            _ => json!({"region": region}),
        };
        std::future::ready(([("x-served-by-region", region)], Json(body)))
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let (stop, tasks, settings) = (CancellationToken::new(), TaskTracker::new(), config("").http);
    tasks.spawn(crate::http::serve(listener, Router::new().fallback(answer), settings, stop.clone()));
    tasks.close();
    FullNode { url, stop, tasks }
}

#[tokio::test]
async fn an_edge_alone_follows_whichever_full_node_answers_and_remembers_when_none_does() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (own, other) = (full_node("us-east", seen.clone()).await, full_node("eu-west", seen.clone()).await);
    let gone = nobody().await;
    let upstream = format!("upstream = \"{gone},{},{}\"", own.url, other.url);
    let config = config(&format!("{upstream}\npeers = \"us-east={gone},eu-west={}\"", other.url));
    let (edge, mut follower) = alone::assemble(&config, &CancellationToken::new()).unwrap();
    let router = alone::service(&edge, &config);
    let ask = |path: &str, tenant: &str| request(Method::GET, path, tenant).body(Body::empty()).unwrap();
    let with_token = |path: &str| request(Method::GET, path, "cabs").header("authorization", "Bearer x");
    let served_by = async |path: &str, tenant: &str| {
        let (_, _, body) = call(&router, ask(path, tenant)).await;
        serde_json::from_slice::<Value>(&body).unwrap()["region"].as_str().map(str::to_owned)
    };

    // Before the first directory nobody is refused for what cannot be known.
    for path in ["/v1/rides", "/v1/route", "/.well-known/jwks.json", "/health/ready"] {
        let early = with_token(path).body(Body::empty()).unwrap();
        assert_eq!(code(&router, early).await, (503, "unavailable".to_owned()), "{path}");
    }

    follower.follow().await;
    let forged = with_token("/v1/rides").body(Body::empty()).unwrap();
    assert_eq!(code(&router, forged).await, (401, "invalid_token".to_owned()));
    assert_eq!(served_by("/v1/rides", "cabs").await.as_deref(), Some("us-east"), "by the node followed");
    assert_eq!(served_by("/v1/rides", "taxis").await.as_deref(), Some("eu-west"), "by the home");
    assert_eq!(served_by("/v1/settlements", "taxis").await.as_deref(), Some("us-east"), "by any node");
    assert_eq!(
        served_by("/v1/route", "just-made").await.as_deref(),
        Some("us-east"),
        "by a node, which may know of it"
    );
    let sign_in = request(Method::POST, "/v1/auth/token", "cabs").header("authorization", "Bearer x");
    assert_eq!(call(&router, sign_in.body(Body::empty()).unwrap()).await.0, 200, "an old token hinders nobody");
    {
        let seen = seen.lock().unwrap();
        assert!(
            seen.contains(&"us-east /v1/rides true".to_owned()) && seen.contains(&"eu-west /v1/rides false".to_owned())
        );
    }
    // An edge that was given a call by an edge does not give it to another.
    let round = ask("/v1/rides", "cabs");
    let (mut parts, body) = round.into_parts();
    parts.headers.insert("x-gocomet-given-by-edge", "us-east".parse().unwrap());
    assert_eq!(code(&router, Request::from_parts(parts, body)).await, (508, "routing_loop".to_owned()));

    own.end().await;
    follower.follow().await;
    assert_eq!(served_by("/v1/settlements", "cabs").await.as_deref(), Some("eu-west"), "by a node of another region");
    assert_eq!(code(&router, ask("/v1/rides", "cabs")).await, (503, "home_region_unreachable".to_owned()));

    other.end().await;
    follower.follow().await;
    assert_eq!(code(&router, ask("/v1/settlements", "cabs")).await, (503, "home_region_unreachable".to_owned()));
    let (status, headers, route) = call(&router, ask("/v1/route", "taxis")).await;
    let route: Value = serde_json::from_slice(&route).unwrap();
    assert_eq!((status.as_u16(), &route["home_region"]), (200, &json!("eu-west")));
    assert_eq!(headers["x-edge-region"], "us-east");
    assert!(headers.contains_key("x-request-id") && headers.contains_key("access-control-allow-origin"));
    assert_eq!(code(&router, ask("/v1/route", "nobodys")).await, (503, "home_region_unreachable".to_owned()));
    let (_, _, keys) = call(&router, ask("/.well-known/jwks.json", "taxis")).await;
    let keys: Value = serde_json::from_slice(&keys).unwrap();
    assert_eq!(keys["keys"].as_array().unwrap().iter().map(|key| &key["kid"]).collect::<Vec<_>>(), ["eu-1", "us-1"]);
}
