//! The wire: one call with its headers, tried again when that is safe.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use reqwest::{Method, header::HeaderMap};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tokio::{sync::Mutex, time::Instant};
use uuid::Uuid;

use super::{ApiError, Problem, SignedIn};
use crate::backoff::Backoff;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// For how long a call is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience(pub Duration);

impl Patience {
    /// The first answer counts: for tests of errors.
    pub const NONE: Self = Self(Duration::ZERO);
    /// Outlasts the restart of a node.
    pub const PATIENT: Self = Self(Duration::from_secs(60));
}

/// What somebody signs in with.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A tenant's back office, or an operator.
    Client { id: String, secret: String },
    /// A rider or a driver.
    Password { phone: String, password: String },
}

/// One caller at one address. Clones are the same caller.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base_url: String,
    tenant: Option<String>,
    patience: Patience,
    session: Arc<Mutex<Session>>,
}

#[derive(Default)]
struct Session {
    credentials: Option<Credentials>,
    tokens: Option<SignedIn>,
}

impl Client {
    /// Somebody who is not signed in and has not named a tenant.
    pub fn new(base_url: &str) -> Self {
        // Building a client panics without a crypto provider, even though all of this is plain HTTP.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().connect_timeout(CONNECT_TIMEOUT).timeout(CALL_TIMEOUT).no_proxy().build();
        Self {
            http: http.expect("a client with nothing but time-outs can be built"),
            base_url: base_url.trim_end_matches('/').to_owned(),
            tenant: None,
            patience: Patience::NONE,
            session: Arc::default(),
        }
    }

    /// Another caller of a tenant over the same connections, not signed in.
    #[must_use]
    pub fn for_tenant(&self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), session: Arc::default(), ..self.clone() }
    }

    /// Another caller who names no tenant, over the same connections, not signed in.
    #[must_use]
    pub fn anonymous(&self) -> Self {
        Self { tenant: None, session: Arc::default(), ..self.clone() }
    }

    /// The same caller with another tenant in the header.
    #[must_use]
    pub fn naming_tenant(&self, tenant: &str) -> Self {
        Self { tenant: Some(tenant.to_owned()), ..self.clone() }
    }

    /// The same caller through another address.
    #[must_use]
    pub fn through(&self, base_url: &str) -> Self {
        Self { base_url: base_url.trim_end_matches('/').to_owned(), ..self.clone() }
    }

    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        Self { patience, ..self.clone() }
    }

    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    pub fn tenant(&self) -> Option<&str> {
        self.tenant.as_deref()
    }

    /// Signs in; from now on tokens are renewed when they expire.
    pub async fn sign_in(&self, credentials: Credentials) -> Result<SignedIn, ApiError> {
        let tokens = self.fetch_tokens(grant(&credentials), self.patience).await?;
        *self.session.lock().await = Session { credentials: Some(credentials), tokens: Some(tokens.clone()) };
        Ok(tokens)
    }

    /// Takes a token as it is, good or bad.
    pub async fn set_token(&self, tokens: SignedIn) {
        self.session.lock().await.tokens = Some(tokens);
    }

    /// The access token now in use.
    pub async fn token(&self) -> Option<String> {
        self.session.lock().await.tokens.as_ref().map(|tokens| tokens.access_token.clone())
    }

    /// Who is signed in: the `subject` of the token.
    pub async fn subject(&self) -> Option<String> {
        self.session.lock().await.tokens.as_ref().map(|tokens| tokens.subject.clone())
    }

    /// Gets a new token in place of one that was refused; does nothing if that has happened already.
    pub async fn renew(&self, refused: Option<&str>) -> Result<(), ApiError> {
        let mut session = self.session.lock().await;
        let Some(tokens) = session.tokens.clone() else { return Err(ApiError::SignedOut) };
        if refused.is_some_and(|refused| refused != tokens.access_token) {
            return Ok(());
        }
        let refresh = json!({"grant_type": "refresh_token", "refresh_token": tokens.refresh_token});
        // A refresh token works once, so its call is never repeated: an answer lost on the way would look like theft.
        let renewed = match (self.fetch_tokens(refresh, Patience::NONE).await, &session.credentials) {
            (Ok(renewed), _) => renewed,
            (Err(_), Some(credentials)) => self.fetch_tokens(grant(credentials), self.patience).await?,
            (Err(error), None) => return Err(error),
        };
        session.tokens = Some(renewed);
        Ok(())
    }

    /// A call to be completed and sent.
    pub fn call(&self, method: Method, path: &str) -> Call<'_> {
        // Every POST carries a key, so that trying it again never does it twice.
        let key = (method == Method::POST).then(|| Uuid::now_v7().to_string());
        Call { client: self, method, path: path.to_owned(), key, headers: Vec::new(), body: None, signed: true }
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ApiError> {
        self.call(Method::GET, path).send().await?.json()
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, ApiError> {
        self.call(Method::POST, path).body(body).send().await?.json()
    }

    async fn fetch_tokens(&self, grant: Value, patience: Patience) -> Result<SignedIn, ApiError> {
        let signing_in = self.with_patience(patience);
        // Boxed, since sending a call may renew the token and so come here again.
        Box::pin(signing_in.call(Method::POST, "/v1/auth/token").body(&grant).unsigned().send()).await?.json()
    }
}

fn grant(credentials: &Credentials) -> Value {
    match credentials {
        Credentials::Client { id, secret } => {
            json!({"grant_type": "client_credentials", "client_id": id, "client_secret": secret})
        }
        Credentials::Password { phone, password } => {
            json!({"grant_type": "password", "phone": phone, "password": password})
        }
    }
}

/// One call of one caller.
#[must_use = "a call does nothing until sent"]
pub struct Call<'a> {
    client: &'a Client,
    method: Method,
    path: String,
    key: Option<String>,
    headers: Vec<(&'static str, String)>,
    body: Option<Bytes>,
    signed: bool,
}

impl Call<'_> {
    pub fn body(mut self, body: &impl Serialize) -> Self {
        self.body = Some(serde_json::to_vec(body).expect("what clients send can be written as JSON").into());
        self
    }

    /// A body that need not be JSON.
    pub fn raw_body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Without the token.
    pub fn unsigned(mut self) -> Self {
        self.signed = false;
        self
    }

    /// Sends it, again and again while the client's patience lasts; the answer is a success.
    pub async fn send(self) -> Result<Answer, ApiError> {
        let give_up_at = Instant::now() + self.client.patience.0;
        let mut backoff = Backoff::default();
        let mut renewed = false;
        loop {
            let token = if self.signed { self.client.token().await } else { None };
            let error = match self.once(token.as_deref()).await {
                Ok(answer) if (200..300).contains(&answer.status) => return Ok(answer),
                Ok(answer) => answer.into_error(),
                Err(error) => error.into(),
            };
            if error.code() == Some("invalid_token") && token.is_some() && !renewed {
                renewed = true;
                if self.client.renew(token.as_deref()).await.is_ok() {
                    continue;
                }
            }
            let wait = backoff.next(error.retry_after());
            if !error.is_passing() || Instant::now() + wait >= give_up_at {
                return Err(error);
            }
            tokio::time::sleep(wait).await;
        }
    }

    /// Sends it once and takes whatever comes.
    pub async fn answer(self) -> Result<Answer, reqwest::Error> {
        let token = if self.signed { self.client.token().await } else { None };
        self.once(token.as_deref()).await
    }

    async fn once(&self, token: Option<&str>) -> Result<Answer, reqwest::Error> {
        let url = format!("{}{}", self.client.base_url, self.path);
        let mut request = self.client.http.request(self.method.clone(), url);
        if let Some(tenant) = &self.client.tenant {
            request = request.header("x-tenant-id", tenant);
        }
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if let Some(key) = &self.key {
            request = request.header("idempotency-key", key);
        }
        if let Some(body) = &self.body {
            if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
                request = request.header("content-type", "application/json");
            }
            request = request.body(body.clone());
        }
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, body: response.bytes().await? })
    }
}

/// What came back, whatever it is.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body read as `T`; an empty body is `null`.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        let body: &[u8] = if self.body.is_empty() { b"null" } else { &self.body };
        serde_json::from_slice(body).map_err(|error| self.garbled(&error.to_string()))
    }

    /// The body read as a problem, if it is one in type and shape.
    pub fn problem(&self) -> Result<Problem, ApiError> {
        if self.header("content-type") != Some("application/problem+json") {
            return Err(self.garbled("not application/problem+json"));
        }
        self.json()
    }

    fn into_error(self) -> ApiError {
        let seconds = self.header("retry-after").and_then(|value| value.parse().ok());
        match self.problem() {
            Ok(problem) => {
                ApiError::Refused { problem: Box::new(problem), retry_after: seconds.map(Duration::from_secs) }
            }
            Err(error) => error,
        }
    }

    fn garbled(&self, why: &str) -> ApiError {
        let start: String = self.text().chars().take(300).collect();
        ApiError::Garbled { status: self.status, text: format!("{why}: {start}") }
    }
}
