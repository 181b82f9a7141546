//! A command and its idempotency key.
//!
//! The record of an answer commits in the same transaction as the effect, so after any crash either both exist or neither
//! does. A transaction-scoped advisory lock on the key tells a second copy that the first still runs; it dies with the
//! connection, so nothing has to be cleaned up.

use std::ops::{Deref, DerefMut};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, Request},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use garde::Validate;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};
use shared::{ids::TenantId, problem::Code};
use time::{Duration, OffsetDateTime};

use super::{Problem, extract::validated};
use crate::{
    app::App,
    db::{Db, TenantTx},
    identity::Caller,
};

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How long an answer is kept.
pub(crate) const KEPT_FOR: Duration = Duration::hours(24);

/// A key is tried so often, in steps of this, before its first request counts as still running.
const GIVEN_BACK_WITHIN: usize = 4;
const GIVEN_BACK_STEP: std::time::Duration = std::time::Duration::from_millis(25);

/// The body of a command that needs none.
#[derive(Debug, Default, Deserialize, Validate, utoipa::ToSchema)]
pub struct Empty {}

/// A validated body and, if the client sent one, its idempotency key.
pub struct Command<T> {
    /// What is asked for.
    pub body: T,
    /// Under which key the answer is stored.
    pub key: Option<IdempotencyKey>,
}

/// The validated body of a call that changes nothing: it has no effect to repeat, so an idempotency key beside it, however
/// long, is not even looked at.
pub struct Question<T>(pub T);

/// A client's name for one request.
#[derive(Clone, Debug)]
pub struct IdempotencyKey {
    /// As the client sent it.
    pub key: String,
    /// Of method, path and body: the same key with another hash is a mistake of the client's.
    pub request_hash: [u8; 32],
}

/// Why a handler stops before its end.
#[derive(Debug)]
pub enum Stop {
    /// It refuses.
    Problem(Problem),
    /// The work was done before; this was the answer.
    Replay(StoredAnswer),
}

/// An answer stored under an idempotency key.
#[derive(Debug)]
pub struct StoredAnswer {
    status: StatusCode,
    body: Vec<u8>,
}

impl<E: Into<Problem>> From<E> for Stop {
    fn from(error: E) -> Self {
        Self::Problem(error.into())
    }
}

impl IntoResponse for Stop {
    fn into_response(self) -> Response {
        match self {
            Self::Problem(problem) => problem.into_response(),
            Self::Replay(answer) => {
                let mut response = json_response(answer.status, answer.body);
                response.headers_mut().insert(&IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
                response
            }
        }
    }
}

impl<T> FromRequest<App> for Command<T>
where
    T: DeserializeOwned + Validate,
    T::Context: Default,
{
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let bytes = read_body(body, app.config.http.body_limit_bytes).await?;
        let key = idempotency_key(&parts.headers, |hasher| {
            hasher.update(parts.method.as_str());
            hasher.update([0]);
            hasher.update(parts.uri.path());
            hasher.update([0]);
            hasher.update(&bytes);
        })?;
        Ok(Self { body: validated(parse_json(&parts.headers, &bytes)?)?, key })
    }
}

impl<T> FromRequest<App> for Question<T>
where
    T: DeserializeOwned + Validate,
    T::Context: Default,
{
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        read_json(&parts.headers, body, app.config.http.body_limit_bytes).await.map(Self)
    }
}

impl<T> Command<T> {
    /// Begins the command's transaction at the tenant's home; leaves through `?` if the answer is already known or the
    /// first copy still runs.
    pub async fn begin(&self, app: &App, caller: &Caller) -> Result<CommandTx, Stop> {
        let tx = app.db.begin(caller.tenant()).await?;
        CommandTx::claim(tx, self.key.as_ref(), caller.key_owner(), app.clock.now()).await
    }

    /// Begins the last transaction of a command whose first has committed and stored no answer yet. Waits where
    /// [`Self::begin`] would say that the first copy still runs: this is the first copy.
    pub async fn resume(&self, app: &App, caller: &Caller) -> Result<CommandTx, Stop> {
        let mut tx = app.db.begin(caller.tenant()).await?;
        if let Some(key) = &self.key {
            sqlx::query!(
                r#"SELECT pg_advisory_xact_lock(hashtextextended(concat_ws(E'\x1f', 'idempotency', $1::text, $2::text, $3::text), 0)) AS "locked!: ()""#,
                caller.tenant().as_str(),
                caller.key_owner(),
                key.key
            )
            .fetch_one(tx.conn())
            .await?;
        }
        CommandTx::claim(tx, self.key.as_ref(), caller.key_owner(), app.clock.now()).await
    }

    /// Begins a command on what every region may write (a tenant's config), wherever the tenant is at home.
    pub async fn begin_anywhere(&self, app: &App, tenant: &TenantId, caller: &Caller) -> Result<CommandTx, Stop> {
        let tx = app.db.anywhere(tenant).await?;
        CommandTx::claim(tx, self.key.as_ref(), caller.key_owner(), app.clock.now()).await
    }

    /// Begins a command of somebody who has no account yet (registration); keys are then per tenant.
    pub async fn begin_unknown(&self, app: &App, tenant: &TenantId) -> Result<CommandTx, Stop> {
        let tx = app.db.begin(tenant).await?;
        CommandTx::claim(tx, self.key.as_ref(), "anyone".into(), app.clock.now()).await
    }
}

/// A command's transaction: a [`TenantTx`] that stores its answer under the idempotency key when it ends.
pub struct CommandTx {
    tx: TenantTx,
    claim: Option<Claim>,
    now: OffsetDateTime,
}

struct Claim {
    caller: String,
    key: IdempotencyKey,
}

impl CommandTx {
    async fn claim(
        mut tx: TenantTx,
        key: Option<&IdempotencyKey>,
        caller: String,
        now: OffsetDateTime,
    ) -> Result<Self, Stop> {
        let Some(key) = key else { return Ok(Self { tx, claim: None, now }) };
        let tenant = tx.tenant().clone();
        let mut is_first = try_claim(&mut tx, &caller, key).await?;
        // A refused command gives its key back a moment after its answer, when its connection is rolled back.
        for _ in 0..GIVEN_BACK_WITHIN {
            if is_first {
                break;
            }
            tokio::time::sleep(GIVEN_BACK_STEP).await;
            is_first = try_claim(&mut tx, &caller, key).await?;
        }
        if !is_first {
            let detail = "the first request with this Idempotency-Key has not finished";
            return Err(Problem::new(Code::IdempotencyInProgress, detail).retry_after(1).into());
        }
        let stored = sqlx::query!(
            "SELECT request_hash, status, body FROM idempotency_keys
             WHERE tenant_id = $1 AND caller = $2 AND key = $3 AND created_at > $4",
            tenant.as_str(),
            caller,
            key.key,
            now - KEPT_FOR
        )
        .fetch_optional(tx.conn())
        .await?;
        let Some(stored) = stored else { return Ok(Self { tx, claim: Some(Claim { caller, key: key.clone() }), now }) };
        tx.rollback().await?;
        if stored.request_hash != key.request_hash {
            let detail = "this Idempotency-Key was used for another request; take a new one";
            return Err(Problem::new(Code::IdempotencyKeyReused, detail).into());
        }
        let status = u16::try_from(stored.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let status = status.ok_or_else(|| Problem::new(Code::Internal, "the stored answer cannot be read"))?;
        Err(Stop::Replay(StoredAnswer { status, body: stored.body }))
    }

    /// Stores the answer, commits, and gives the answer.
    pub async fn finish(mut self, status: StatusCode, answer: &impl Serialize) -> Result<Response, Stop> {
        let body = match status {
            StatusCode::NO_CONTENT => Vec::new(),
            _ => serde_json::to_vec(answer).expect("answers are plain data, which JSON can always write"),
        };
        if let Some(claim) = self.claim.take() {
            let tenant = self.tx.tenant().clone();
            sqlx::query!(
                "INSERT INTO idempotency_keys (tenant_id, caller, key, request_hash, status, body, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7)
                 ON CONFLICT (tenant_id, caller, key) DO UPDATE
                 SET request_hash = excluded.request_hash, status = excluded.status, body = excluded.body, created_at = excluded.created_at",
                tenant.as_str(),
                claim.caller,
                claim.key.key,
                &claim.key.request_hash[..],
                i16::try_from(status.as_u16()).expect("statuses are below 1000"),
                body,
                self.now
            )
            .execute(self.tx.conn())
            .await?;
        }
        self.tx.commit().await?;
        Ok(json_response(status, body))
    }

    /// Commits without an answer to store: the command goes on after a step outside the database.
    pub async fn commit(self) -> sqlx::Result<()> {
        self.tx.commit().await
    }
}

impl Deref for CommandTx {
    type Target = TenantTx;
    fn deref(&self) -> &TenantTx {
        &self.tx
    }
}

impl DerefMut for CommandTx {
    fn deref_mut(&mut self) -> &mut TenantTx {
        &mut self.tx
    }
}

/// Whether nobody else works under this key now; it stays ours until the transaction ends.
async fn try_claim(tx: &mut TenantTx, caller: &str, key: &IdempotencyKey) -> sqlx::Result<bool> {
    let tenant = tx.tenant().clone();
    sqlx::query_scalar!(
        r#"SELECT pg_try_advisory_xact_lock(hashtextextended(concat_ws(E'\x1f', 'idempotency', $1::text, $2::text, $3::text), 0)) AS "locked!""#,
        tenant.as_str(),
        caller,
        key.key
    )
    .fetch_one(tx.conn())
    .await
}

/// Forgets answers older than a day; any node may do it at any time.
pub async fn forget_old_answers(db: &Db, now: OffsetDateTime) -> Result<u64, Problem> {
    let mut tx = db.system().await?;
    let forgotten = sqlx::query!("DELETE FROM idempotency_keys WHERE created_at <= $1", now - KEPT_FOR)
        .execute(tx.conn())
        .await?
        .rows_affected();
    tx.commit().await?;
    Ok(forgotten)
}

fn json_response(status: StatusCode, body: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    if status != StatusCode::NO_CONTENT {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    response
}

fn idempotency_key(headers: &HeaderMap, hash: impl FnOnce(&mut Sha256)) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(value) = headers.get(&IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()))
        .ok_or_else(|| Problem::field("Idempotency-Key", "must have 1 to 255 printable ASCII characters"))?;
    let mut hasher = Sha256::new();
    hash(&mut hasher);
    Ok(Some(IdempotencyKey { key: key.to_owned(), request_hash: hasher.finalize().into() }))
}

/// Reads a whole body of at most `limit` bytes.
pub(crate) async fn read_body(body: Body, limit: usize) -> Result<Bytes, Problem> {
    axum::body::to_bytes(body, limit).await.map_err(|error| {
        let too_large =
            std::error::Error::source(&error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>());
        if too_large {
            Problem::new(Code::PayloadTooLarge, format!("a body may have at most {limit} bytes"))
        } else {
            Problem::new(Code::BadRequest, "the body could not be read to its end")
        }
    })
}

/// Reads a JSON body; an empty one reads as `{}`.
fn parse_json<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, Problem> {
    let bytes = if bytes.is_empty() { b"{}" } else { bytes };
    let is_json = headers.get(header::CONTENT_TYPE).map(|value| {
        let text = value.to_str().unwrap_or_default();
        let essence = text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
    });
    if is_json != Some(true) && bytes != b"{}" {
        return Err(Problem::new(Code::UnsupportedMediaType, "send the body as application/json"));
    }
    serde_json::from_slice(bytes).map_err(|error| match error.classify() {
        // A wrong type is found before the end is read; only text that is JSON to its end has wrong fields.
        serde_json::error::Category::Data if serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok() => {
            Problem::field(field_of(&error), error.to_string())
        }
        serde_json::error::Category::Data => Problem::new(Code::MalformedJson, "the body is not JSON to its end"),
        _ => Problem::new(Code::MalformedJson, error.to_string()),
    })
}

/// The field a serde message speaks of; it stands between backquotes.
fn field_of(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let named = text.starts_with("missing field") || text.starts_with("unknown field");
    text.split('`').nth(1).filter(|_| named).unwrap_or_default().to_owned()
}

/// Reads and validates a JSON body outside a command.
pub(crate) async fn read_json<T>(headers: &HeaderMap, body: Body, limit: usize) -> Result<T, Problem>
where
    T: DeserializeOwned + Validate,
    T::Context: Default,
{
    validated(parse_json(headers, &read_body(body, limit).await?)?)
}
