//! A region in memory around a real database and Redis, with typed users and a clock to move; for this crate's tests.

use std::net::SocketAddr;

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, Request, header},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use shared::{clock::Clock, ids::TenantId};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tower::ServiceExt;
use uuid::Uuid;

mod redis_cluster;

pub use redis_cluster::RedisCluster;

use crate::{
    app::{App, Parts},
    config::Config,
    db::MIGRATOR,
    http::{self, router},
    realtime::EventReceiver,
    redis,
};

/// Sign-in of the test operator.
const OPERATOR: (&str, &str) = ("operator", "operator-secret-of-tests");

/// What the sandbox PSP signs its webhooks with.
pub const WEBHOOK_SECRET: &str = "webhook-secret-of-tests";

/// A region and one tenant at home in it.
pub struct TestRegion {
    pub app: App,
    pub clock: Clock,
    pub tenant: TenantId,
    router: Router,
    office: (String, String),
    pool: PgPool,
    settings: String,
}

/// Somebody signed in.
#[derive(Clone)]
pub struct TestUser {
    pub id: Uuid,
    /// Of a rider or driver.
    pub phone: String,
    pub token: String,
    pub tenant: TenantId,
    router: Router,
}

/// What a call was answered with.
#[derive(Debug)]
pub struct TestAnswer {
    pub status: u16,
    pub headers: HeaderMap,
    pub bytes: Vec<u8>,
}

/// A refusal's stable parts.
#[derive(Debug, PartialEq, Eq)]
pub struct TestProblem {
    pub code: String,
    pub fields: Vec<String>,
}

impl TestAnswer {
    /// The JSON body.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes)
            .unwrap_or_else(|error| panic!("{error}: {:?}", String::from_utf8_lossy(&self.bytes)))
    }

    /// The JSON body of an answer that must have this status.
    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        if self.bytes.is_empty() { Value::Null } else { self.json() }
    }

    /// The refusal, which must have this status and be well-formed.
    #[track_caller]
    pub fn problem(self, status: u16) -> TestProblem {
        assert_eq!(self.status, status, "{}", String::from_utf8_lossy(&self.bytes));
        assert_eq!(self.headers[header::CONTENT_TYPE], "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], status);
        assert!(!body["request_id"].as_str().unwrap().is_empty());
        let errors = body["errors"].as_array().unwrap();
        let fields = errors.iter().map(|error| error["field"].as_str().unwrap().to_owned()).collect();
        TestProblem { code: body["code"].as_str().unwrap().to_owned(), fields }
    }
}

impl TestRegion {
    /// A region `us-east` on `pool`'s database, with tenant `cabs` at home.
    pub async fn new(pool: PgPool) -> Self {
        Self::with_config(pool, json!({})).await
    }

    /// The same, with the tenant's config over the default.
    pub async fn with_config(pool: PgPool, tenant_config: Value) -> Self {
        Self::made(pool, tenant_config, "").await
    }

    /// The same, with settings (TOML) over those of tests.
    pub async fn with_settings(pool: PgPool, settings: &str) -> Self {
        Self::made(pool, json!({}), settings).await
    }

    async fn made(pool: PgPool, tenant_config: Value, settings: &str) -> Self {
        MIGRATOR.run(&pool).await.unwrap();
        let mut region = Self::node(pool, settings, Clock::system()).await;
        region.office = region.new_tenant("cabs", tenant_config).await;
        region
    }

    /// Another node of the same region, with the same clock.
    pub async fn another_node(&self) -> Self {
        self.another_node_with(&self.settings).await
    }

    /// Another node of the same region with settings of its own.
    pub async fn another_node_with(&self, settings: &str) -> Self {
        let node = Self::node(self.pool.clone(), settings, self.clock.clone()).await;
        Self { office: self.office.clone(), ..node }
    }

    /// A call as somebody makes it who knows none of our headers.
    pub async fn call(&self, request: Request<Body>) -> TestAnswer {
        send(&self.router, request).await
    }

    async fn node(pool: PgPool, settings: &str, clock: Clock) -> Self {
        let (app, receiver) = Self::app(&pool, settings, clock.clone()).await;
        let router = router::router(&app, receiver).await.unwrap();
        let tenant = "cabs".parse().unwrap();
        Self { app, clock, tenant, router, office: Default::default(), pool, settings: settings.to_owned() }
    }

    /// The same user, calling this node.
    pub fn visited_by(&self, user: &TestUser) -> TestUser {
        TestUser { router: self.router.clone(), ..user.clone() }
    }

    async fn app(pool: &PgPool, settings: &str, clock: Clock) -> (App, EventReceiver) {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let options: PgConnectOptions = (*pool.connect_options()).clone();
        let as_role = async |role: &str| {
            PgPoolOptions::new().max_connections(12).connect_with(options.clone().username(role)).await.unwrap()
        };
        let redis_url = std::env::var("TEST_REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1:6379".into());
        let config = test_config(&redis_url, settings);
        let redis = redis::connect(&config.redis).await.unwrap();
        let parts = Parts {
            app_pool: as_role("gocomet_app").await,
            system_pool: as_role("gocomet_system").await,
            redis,
            master_key: [7; 32],
            clock,
        };
        let (app, receiver) = App::assemble(config, parts).await.unwrap();
        crate::serve::announce(&app).await.unwrap();
        (app, receiver)
    }

    /// Serves the region on a free port of this machine until the test ends; its address.
    pub async fn serve(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (config, stop) = (self.app.config.http.clone(), self.app.stop.clone());
        self.app.spawn(http::serve(listener, self.router.clone(), config, stop));
        address
    }

    /// Makes another tenant; its back office's client id and secret. Unless the config says otherwise its rides never wait
    /// for each other: what is due is then dispatched when the test says so, however fast it runs.
    pub async fn new_tenant(&self, id: &str, mut config: Value) -> (String, String) {
        let operator = self.operator().await;
        let window_ms = &mut config["dispatch"]["window_ms"];
        if window_ms.is_null() {
            *window_ms = json!(0);
        }
        let body = json!({"id": id, "name": id, "home_region": "us-east", "config": config});
        let made = operator.call(Method::POST, "/v1/tenants", Some(body), &[]).await.ok(201);
        (made["client_id"].as_str().unwrap().to_owned(), made["client_secret"].as_str().unwrap().to_owned())
    }

    /// A call by nobody, about the region's tenant.
    pub fn nobody(&self) -> TestUser {
        TestUser {
            id: Uuid::nil(),
            phone: String::new(),
            token: String::new(),
            tenant: self.tenant.clone(),
            router: self.router.clone(),
        }
    }

    /// The operator, naming the region's tenant.
    pub async fn operator(&self) -> TestUser {
        let grant = json!({"grant_type": "client_credentials", "client_id": OPERATOR.0, "client_secret": OPERATOR.1});
        let mut request = Request::post("/v1/auth/token").header(header::CONTENT_TYPE, "application/json");
        request = request.header("x-request-id", "test");
        let answer = send(&self.router, request.body(Body::from(grant.to_string())).unwrap()).await.ok(200);
        TestUser { token: answer["access_token"].as_str().unwrap().to_owned(), ..self.nobody() }
    }

    /// The tenant's back office.
    pub async fn admin(&self) -> TestUser {
        self.admin_of(self.tenant.clone(), &self.office).await
    }

    /// The back office of a tenant made with [`TestRegion::new_tenant`].
    pub async fn admin_of(&self, tenant: TenantId, office: &(String, String)) -> TestUser {
        let user = TestUser { tenant, ..self.nobody() };
        user.sign_in(json!({"grant_type": "client_credentials", "client_id": office.0, "client_secret": office.1}))
            .await
    }

    /// A new rider of the tenant.
    pub async fn rider(&self) -> TestUser {
        self.nobody().register("/v1/riders", json!({})).await
    }

    /// A new rider of another tenant.
    pub async fn rider_of(&self, tenant: &str) -> TestUser {
        TestUser { tenant: tenant.parse().unwrap(), ..self.nobody() }.register("/v1/riders", json!({})).await
    }

    /// A new driver of the tenant, with a standard car, offline.
    pub async fn driver(&self) -> TestUser {
        self.driver_of(self.tenant.as_str()).await
    }

    /// A new driver of another tenant.
    pub async fn driver_of(&self, tenant: &str) -> TestUser {
        let car = json!({"class": "standard", "plate": "T 1", "model": "Test Car", "seats": 4});
        let nobody = TestUser { tenant: tenant.parse().unwrap(), ..self.nobody() };
        nobody.register("/v1/drivers", json!({"vehicle": car})).await
    }
}

impl TestUser {
    /// `GET path`.
    pub async fn get(&self, path: &str) -> TestAnswer {
        self.call(Method::GET, path, None, &[]).await
    }

    /// `GET path` without naming a tenant.
    pub async fn get_without_tenant(&self, path: &str) -> TestAnswer {
        send(&self.router, Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// `POST path`.
    pub async fn post(&self, path: &str, body: Value) -> TestAnswer {
        self.call(Method::POST, path, Some(body), &[]).await
    }

    /// `PUT path`.
    pub async fn put(&self, path: &str, body: Value) -> TestAnswer {
        self.call(Method::PUT, path, Some(body), &[]).await
    }

    /// `POST path` with an idempotency key.
    pub async fn post_keyed(&self, path: &str, key: &str, body: Value) -> TestAnswer {
        self.call(Method::POST, path, Some(body), &[("idempotency-key", key)]).await
    }

    /// Any call.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>, headers: &[(&str, &str)]) -> TestAnswer {
        let mut request = Request::builder().method(method).uri(path).header("x-tenant-id", self.tenant.as_str());
        if !self.token.is_empty() {
            request = request.header(header::AUTHORIZATION, format!("Bearer {}", self.token));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let body = match body {
            Some(body) => {
                request = request.header(header::CONTENT_TYPE, "application/json");
                Body::from(body.to_string())
            }
            None => Body::empty(),
        };
        send(&self.router, request.body(body).unwrap()).await
    }

    /// `POST path` with any body, well-formed or not.
    pub async fn call_raw(&self, path: &str, content_type: &str, body: &[u8]) -> TestAnswer {
        let request = Request::post(path).header("x-tenant-id", self.tenant.as_str());
        let request = request.header(header::CONTENT_TYPE, content_type);
        send(&self.router, request.body(Body::from(body.to_vec())).unwrap()).await
    }

    async fn register(self, path: &str, extra: Value) -> Self {
        let phone = format!("+1{}", Uuid::now_v7().as_u128() % 10_u128.pow(12));
        let mut account = json!({"name": "Test Person", "phone": phone, "password": "correct horse"});
        account.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        self.post(path, account).await.ok(201);
        let user = Self { phone: phone.clone(), ..self };
        user.sign_in(json!({"grant_type": "password", "phone": phone, "password": "correct horse"})).await
    }

    async fn sign_in(self, grant: Value) -> Self {
        let answer = self.post("/v1/auth/token", grant).await.ok(200);
        let id = answer["subject"].as_str().unwrap().parse().unwrap_or_default();
        Self { id, token: answer["access_token"].as_str().unwrap().to_owned(), ..self }
    }
}

async fn send(router: &Router, request: Request<Body>) -> TestAnswer {
    let response = router.clone().oneshot(request).await.unwrap();
    let (status, headers) = (response.status().as_u16(), response.headers().clone());
    let bytes = axum::body::to_bytes(response.into_body(), 10 << 20).await.unwrap().to_vec();
    TestAnswer { status, headers, bytes }
}

fn test_config(redis_url: &str, over: &str) -> Config {
    let settings = format!(
        r#"
        region = {{ name = "us-east", cluster_id = "test" }}
        http = {{ public_url = "http://127.0.0.1:1" }}
        redis = {{ url = "{redis_url}" }}
        tokens = {{ access_ttl = "12h" }}
        operator = {{ client_id = "{}", client_secret = "{}" }}
        secrets = {{ master_key = "{}" }}
        psp = {{ timeout = "2s", sandbox = {{ webhook_secret = "{WEBHOOK_SECRET}" }} }}
        "#,
        OPERATOR.0,
        OPERATOR.1,
        STANDARD.encode([7; 32])
    );
    Config::from_toml(&[&settings, over]).unwrap()
}
