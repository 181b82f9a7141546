//! A command and its idempotency key.
//!
//! The record of an answer commits in the same transaction as the effect, so after any crash either both exist or neither
//! does. A transaction-scoped advisory lock on the key tells a second copy that the first still runs; it dies with the
//! connection, so nothing has to be cleaned up.
//!
//! Answers carry names, phones and secrets, and requests passwords: an answer is kept sealed, a request as a keyed hash.

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
use uuid::Uuid;

use super::{
    Problem,
    extract::{field_at, validated},
};
use crate::{
    app::App,
    db::{Answered, Db, Held, Key, TenantTx},
    identity::{Caller, Operator, Sealer},
};

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// How long an answer is kept.
pub(crate) const KEPT_FOR: Duration = Duration::hours(24);

/// A key is tried so often, in steps of this, before its first request counts as still running.
const GIVEN_BACK_WITHIN: usize = 4;
const GIVEN_BACK_STEP: std::time::Duration = std::time::Duration::from_millis(25);

/// Whose keys the operators' are, who belong to no tenant; no tenant can be named so.
const NO_TENANT: &str = "-";

/// Begins the name of whoever asked for what every region may write. Such an answer stays in the region that gave it.
const ANYWHERE: &str = "anywhere/";

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
    /// Of method, path and body.
    digest: [u8; 32],
}

impl IdempotencyKey {
    /// The key that came with a request.
    pub(crate) fn new(key: String, method: &str, path: &str, body: &[u8]) -> Self {
        let text = [method.as_bytes(), &[0], path.as_bytes(), &[0], body];
        let digest = text.iter().fold(Sha256::new(), |digest, part| digest.chain_update(part)).finalize();
        Self { key, digest: digest.into() }
    }

    /// What tells the request from another under the same key, which is a mistake of the client's. Keyed, since a plain hash of
    /// a body with a password or a phone is as good as the text to whoever can try them all.
    pub fn request_hash(&self, sealer: &Sealer) -> [u8; 32] {
        sealer.sign("idempotency", &self.digest)
    }
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
        let key = idempotency_key(&parts.headers)?
            .map(|key| IdempotencyKey::new(key, parts.method.as_str(), parts.uri.path(), &bytes));
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
        self.begin_at_home(app, caller.tenant(), caller.key_owner(), Patience::GivesUp).await
    }

    /// Begins the last transaction of a command whose first has committed and stored no answer yet. Waits where
    /// [`Self::begin`] would say that the first copy still runs: this is the first copy.
    pub async fn resume(&self, app: &App, caller: &Caller) -> Result<CommandTx, Stop> {
        self.begin_at_home(app, caller.tenant(), caller.key_owner(), Patience::Waits).await
    }

    /// Begins a command on what every region may write (a tenant's config), wherever the tenant is at home.
    pub async fn begin_anywhere(&self, app: &App, tenant: &TenantId, caller: &Caller) -> Result<CommandTx, Stop> {
        let tx = app.db.anywhere(tenant).await?;
        let claim = self.claim(tenant.as_str(), format!("{ANYWHERE}{}", caller.key_owner()), Some(&app.sealer));
        CommandTx::unclaimed(tx, claim, app.clock.now()).await
    }

    /// Begins an operator's command that makes `tenant`. The key is the operator's: the same one again for another tenant
    /// is a mistake.
    pub async fn begin_of_operator(
        &self,
        app: &App,
        tenant: &TenantId,
        operator: &Operator,
    ) -> Result<CommandTx, Stop> {
        let tx = app.db.anywhere(tenant).await?;
        let claim = self.claim(NO_TENANT, format!("operator:{}", operator.client_id), Some(&app.sealer));
        CommandTx::unclaimed(tx, claim, app.clock.now()).await
    }

    /// Begins a command of somebody who has no account yet (registration); keys are then per tenant.
    pub async fn begin_unknown(&self, app: &App, tenant: &TenantId) -> Result<CommandTx, Stop> {
        self.begin_at_home(app, tenant, "anyone".into(), Patience::GivesUp).await
    }

    async fn begin_at_home(
        &self,
        app: &App,
        tenant: &TenantId,
        key_owner: String,
        patience: Patience,
    ) -> Result<CommandTx, Stop> {
        let now = app.clock.now();
        let Some(claim) = self.claim(tenant.as_str(), key_owner, None) else {
            return Ok(CommandTx { tx: app.db.begin(tenant).await?, claim: None, now });
        };
        let (caller, key) = (claim.caller.as_str(), claim.key.key.as_str());
        let key = Key { lock: claim.lock(), caller, key, since: now - KEPT_FOR };
        let (mut tx, held) = app.db.begin_under(tenant, &key).await?;
        let answered = match held {
            Held::New => None,
            Held::Answered(answered) => Some(answered),
            Held::BySomebody => claim.wait(&mut tx, patience, now).await?,
        };
        let begun = CommandTx::begun(tx, claim, answered, now).await?;
        // What resumes was counted when it began.
        if patience == Patience::GivesUp {
            count("first");
        }
        Ok(begun)
    }

    /// `sealer` is the region's where the answer stays in this region, whatever becomes of the tenant.
    fn claim(&self, scope: &str, caller: String, sealer: Option<&Sealer>) -> Option<Claim> {
        let key = self.key.clone()?;
        Some(Claim { scope: scope.to_owned(), caller, key, person: None, sealer: sealer.cloned() })
    }
}

/// A command's transaction: a [`TenantTx`] that stores its answer under the idempotency key when it ends.
pub struct CommandTx {
    tx: TenantTx,
    claim: Option<Claim>,
    now: OffsetDateTime,
}

struct Claim {
    /// The tenant of the key, or [`NO_TENANT`].
    scope: String,
    caller: String,
    key: IdempotencyKey,
    person: Option<Uuid>,
    /// The tenant's, unless another is named.
    sealer: Option<Sealer>,
}

impl Claim {
    /// Where its answer belongs: sealed there, it opens nowhere else.
    fn context(&self) -> String {
        format!("idempotency/{}/{}/{}", self.scope, self.caller, self.key.key)
    }

    async fn sealer(&self, tx: &mut TenantTx) -> sqlx::Result<Sealer> {
        match &self.sealer {
            Some(sealer) => Ok(sealer.clone()),
            None => tx.sealer().await,
        }
    }

    /// The number of the advisory lock of its key: the first half of a hash, so that no other lock is likely to have it.
    fn lock(&self) -> i64 {
        let digest = Sha256::digest(format!("idempotency\x1f{}\x1f{}\x1f{}", self.scope, self.caller, self.key.key));
        i64::from_be_bytes(*digest.first_chunk().expect("a digest has 32 bytes"))
    }

    /// Waits for the key to be this transaction's, or for its answer: once there is one it stays, whoever holds the key, so
    /// repetitions do not wait for each other.
    async fn wait(&self, tx: &mut TenantTx, patience: Patience, now: OffsetDateTime) -> Result<Option<Answered>, Stop> {
        if patience == Patience::Waits {
            let wait = sqlx::query!(r#"SELECT pg_advisory_xact_lock($1) AS "locked!: ()""#, self.lock());
            wait.fetch_one(tx.conn()).await?;
            return Ok(self.answered(tx, now).await?);
        }
        // A refused command gives its key back a moment after its answer, when its connection is rolled back.
        for attempt in 0..=GIVEN_BACK_WITHIN {
            let is_ours = self.try_lock(tx).await?;
            let answered = self.answered(tx, now).await?;
            if is_ours || answered.is_some() {
                return Ok(answered);
            }
            if attempt < GIVEN_BACK_WITHIN {
                tokio::time::sleep(GIVEN_BACK_STEP).await;
            }
        }
        count("in_progress");
        let detail = "the first request with this Idempotency-Key has not finished";
        Err(Problem::new(Code::IdempotencyInProgress, detail).retry_after(1).into())
    }

    /// Whether nobody else works under this key now; it stays ours until the transaction ends.
    async fn try_lock(&self, tx: &mut TenantTx) -> sqlx::Result<bool> {
        let lock = sqlx::query_scalar!(r#"SELECT pg_try_advisory_xact_lock($1) AS "locked!""#, self.lock());
        lock.fetch_one(tx.conn()).await
    }

    /// What was answered under this key.
    async fn answered(&self, tx: &mut TenantTx, now: OffsetDateTime) -> sqlx::Result<Option<Answered>> {
        let answered = sqlx::query_as!(
            Answered,
            "SELECT request_hash, status, sealed_body FROM idempotency_keys
             WHERE tenant_id = $1 AND caller = $2 AND key = $3 AND created_at > $4",
            self.scope,
            self.caller,
            self.key.key,
            now - KEPT_FOR
        );
        answered.fetch_optional(tx.conn()).await
    }
}

/// What a command does while another holds its key.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// Says so, soon.
    GivesUp,
    /// Waits for it to end.
    Waits,
}

impl CommandTx {
    /// Goes on in a transaction that has not asked for its key yet, which may be in another scope than the tenant's.
    async fn unclaimed(mut tx: TenantTx, claim: Option<Claim>, now: OffsetDateTime) -> Result<Self, Stop> {
        let Some(claim) = claim else { return Ok(Self { tx, claim: None, now }) };
        let own = tx.tenant().to_string();
        if claim.scope != own {
            see_rows_of(&mut tx, &claim.scope).await?;
        }
        let answered = claim.wait(&mut tx, Patience::GivesUp, now).await?;
        if claim.scope != own {
            see_rows_of(&mut tx, &own).await?;
        }
        let begun = Self::begun(tx, claim, answered, now).await?;
        count("first");
        Ok(begun)
    }

    /// Goes on with a key that is held, unless it was answered before.
    async fn begun(
        mut tx: TenantTx,
        claim: Claim,
        answered: Option<Answered>,
        now: OffsetDateTime,
    ) -> Result<Self, Stop> {
        let Some(answered) = answered else { return Ok(Self { tx, claim: Some(claim), now }) };
        let sealer = claim.sealer(&mut tx).await?;
        tx.rollback().await?;
        if answered.request_hash != claim.key.request_hash(&sealer) {
            count("reused");
            let detail = "this Idempotency-Key was used for another request; take a new one";
            return Err(Problem::new(Code::IdempotencyKeyReused, detail).into());
        }
        let status = u16::try_from(answered.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
        let body = sealer.open(&claim.context(), &answered.sealed_body);
        let (Some(status), Some(body)) = (status, body) else {
            return Err(Problem::new(Code::Internal, "the stored answer cannot be read").into());
        };
        count("replayed");
        Err(Stop::Replay(StoredAnswer { status, body }))
    }

    /// Says whose personal data the answer holds, where that is not the caller's: it goes when they are erased.
    pub fn tells_of(&mut self, person: Uuid) {
        if let Some(claim) = &mut self.claim {
            claim.person = Some(person);
        }
    }

    /// Stores the answer, commits, and gives the answer.
    pub async fn finish(mut self, status: StatusCode, answer: &impl Serialize) -> Result<Response, Stop> {
        let body = match status {
            StatusCode::NO_CONTENT => Vec::new(),
            _ => serde_json::to_vec(answer).expect("answers are plain data, which JSON can always write"),
        };
        if let Some(claim) = self.claim.take() {
            let sealer = claim.sealer(&mut self.tx).await?;
            // The last statement of the transaction: nothing after it would miss the tenant's rows.
            if claim.scope != self.tx.tenant().as_str() {
                see_rows_of(&mut self.tx, &claim.scope).await?;
            }
            sqlx::query!(
                "INSERT INTO idempotency_keys (tenant_id, caller, key, person, request_hash, status, sealed_body, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
                 ON CONFLICT (tenant_id, caller, key) DO UPDATE
                 SET person = excluded.person, request_hash = excluded.request_hash, status = excluded.status,
                     sealed_body = excluded.sealed_body, created_at = excluded.created_at",
                claim.scope,
                claim.caller,
                claim.key.key,
                claim.person,
                &claim.key.request_hash(&sealer)[..],
                i16::try_from(status.as_u16()).expect("statuses are below 1000"),
                sealer.seal(&claim.context(), &body),
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

/// Counts a request with a key, by what became of it.
fn count(result: &'static str) {
    metrics::counter!("region_node_idempotency_total", "result" => result).increment(1);
}

/// Moves the transaction's fence: an operator's keys are in no tenant.
async fn see_rows_of(tx: &mut TenantTx, scope: &str) -> sqlx::Result<()> {
    sqlx::query_scalar!("SELECT set_config('app.tenant_id', $1, true)", scope).fetch_one(tx.conn()).await?;
    Ok(())
}

/// Forgets a person's answers: those to what they asked for, and that of their registration.
pub(crate) async fn forget_answers_of(tx: &mut TenantTx, key_owner: &str, person: Uuid) -> sqlx::Result<()> {
    let tenant = tx.tenant().clone();
    sqlx::query!(
        "DELETE FROM idempotency_keys WHERE tenant_id = $1 AND (caller = $2 OR person = $3)",
        tenant.as_str(),
        key_owner,
        person
    )
    .execute(tx.conn())
    .await?;
    Ok(())
}

/// Forgets answers older than a day, except of tenants that are only arriving here; any node may do it at any time.
pub async fn forget_old_answers(db: &Db, now: OffsetDateTime) -> Result<u64, Problem> {
    let mut tx = db.system().await?;
    let forgotten = sqlx::query!(
        "DELETE FROM idempotency_keys
         WHERE created_at <= $1 AND tenant_id NOT IN (SELECT tenant_id FROM tenant_arrivals)",
        now - KEPT_FOR
    )
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

fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(&IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value
        .to_str()
        .ok()
        .filter(|key| (1..=255).contains(&key.len()))
        .ok_or_else(|| Problem::field("Idempotency-Key", "must have 1 to 255 printable ASCII characters"))?;
    Ok(Some(key.to_owned()))
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
    // Whoever only wants to know what it says need not keep in mind where.
    if let Ok(read) = serde_json::from_slice(bytes) {
        return Ok(read);
    }
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let read = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        // A wrong type is found before the end is read; only text that is JSON to its end has wrong fields.
        let is_whole = serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_ok();
        match error.inner().classify() {
            serde_json::error::Category::Data if is_whole => {
                let message = error.inner().to_string();
                Problem::field(field_at(error.path(), &message), message)
            }
            serde_json::error::Category::Data => Problem::new(Code::MalformedJson, "the body is not JSON to its end"),
            _ => Problem::new(Code::MalformedJson, error.inner().to_string()),
        }
    })?;
    json.end().map_err(|error| Problem::new(Code::MalformedJson, error.to_string()))?;
    Ok(read)
}

/// Reads and validates a JSON body outside a command.
pub(crate) async fn read_json<T>(headers: &HeaderMap, body: Body, limit: usize) -> Result<T, Problem>
where
    T: DeserializeOwned + Validate,
    T::Context: Default,
{
    valid_json(headers, &read_body(body, limit).await?)
}

/// Parses and validates a JSON body that has arrived: a large one takes a while.
pub(crate) fn valid_json<T>(headers: &HeaderMap, bytes: &[u8]) -> Result<T, Problem>
where
    T: DeserializeOwned + Validate,
    T::Context: Default,
{
    validated(parse_json(headers, bytes)?)
}
