//! `POST /v1/auth/token` and the region's public keys.

use axum::{
    Json,
    body::Body,
    extract::State,
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use garde::Validate;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use shared::{claims::Role, ids::TenantId, problem::Code};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::{
    accounts::{self, Kind},
    refresh::{self, Session},
    verify_secret,
};
use crate::{
    app::App,
    http::{Problem, ProblemBody, read_json},
    tenants::{OptionalTenant, TenantHeader},
};

/// A sign-in.
#[derive(Debug, Deserialize, Validate, utoipa::ToSchema)]
#[serde(tag = "grant_type", rename_all = "snake_case")]
pub(crate) enum Grant {
    /// A tenant's back office, or an operator (without X-Tenant-Id).
    ClientCredentials {
        #[garde(length(min = 1, max = 80))]
        client_id: String,
        #[garde(length(min = 1, max = 200))]
        client_secret: String,
    },
    /// A rider or a driver.
    Password {
        #[garde(length(min = 1, max = 20))]
        phone: String,
        #[garde(length(min = 1, max = 512))]
        password: String,
        /// Which of the two, where one phone has both accounts.
        #[garde(skip)]
        #[serde(default)]
        role: Option<AccountRole>,
    },
    /// Anybody who signed in before.
    RefreshToken {
        #[garde(length(min = 1, max = 200))]
        refresh_token: String,
    },
}

/// Whose account a phone means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AccountRole {
    Rider,
    Driver,
}

/// A signed-in session.
#[derive(Debug, Serialize, utoipa::ToSchema)]
pub(super) struct TokenAnswer {
    access_token: String,
    token_type: &'static str,
    /// Seconds the access token is good for.
    expires_in: u64,
    refresh_token: String,
    role: Role,
    subject: String,
}

/// Signs in.
#[utoipa::path(post, path = "/v1/auth/token", tag = "identity", request_body = Grant,
    params(("X-Tenant-Id" = Option<String>, Header, description = "The tenant; operators send none.")),
    responses((status = 200, body = TokenAnswer), (status = 401, body = ProblemBody), (status = 422, body = ProblemBody)))]
#[tracing::instrument(name = "identity.sign_in", skip_all)]
pub(super) async fn token(
    State(app): State<App>,
    OptionalTenant(tenant): OptionalTenant,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let grant: Grant = read_json(&headers, body, app.config.http.body_limit_bytes).await?;
    // Secrets are checked before a transaction begins: hashing is slow and holds no connection.
    let (mut tx, session) = match grant {
        Grant::ClientCredentials { client_id, client_secret } => {
            let session = match tenant {
                Some(tenant) => back_office(&app, tenant, client_id, &client_secret).await?,
                None => operator(&app, client_id, &client_secret)?,
            };
            (refresh::begin(&app, &session).await?, session)
        }
        Grant::Password { phone, password, role } => {
            let tenant = tenant.ok_or_else(TenantHeader::missing)?;
            let session = person(&app, tenant, &phone, &password, role).await?;
            (refresh::begin(&app, &session).await?, session)
        }
        Grant::RefreshToken { refresh_token } => {
            let (tx, session) = refresh::redeem(&app, &refresh_token).await?;
            if tenant.is_some() && session.role != Role::Operator && tenant != session.tenant {
                return Err(Problem::new(Code::TenantMismatch, "the refresh token is of another tenant"));
            }
            (tx, session)
        }
    };
    // Erased since the password was checked, or since the session began.
    if let (Some(kind), Ok(id)) = (Kind::of(session.role), session.subject.parse())
        && !accounts::hold_live(tx.conn(), kind, id).await?
    {
        return Err(wrong());
    }
    let refresh_token = refresh::issue(&app, &mut tx, &session).await?;
    let access_token = app.tokens.issue(&session.subject, session.role, session.tenant)?;
    tx.commit().await?;
    let answer = TokenAnswer {
        access_token,
        token_type: "Bearer",
        expires_in: app.tokens.ttl().as_secs(),
        refresh_token,
        role: session.role,
        subject: session.subject,
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// The keys all regions sign tokens with: any of them is good at each.
#[utoipa::path(get, path = "/.well-known/jwks.json", tag = "identity", responses((status = 200, description = "A JWK set (RFC 7517)")))]
pub(super) async fn jwks(State(app): State<App>) -> impl IntoResponse {
    ([(header::CACHE_CONTROL, "public, max-age=60")], Json::<Value>(app.tokens.known_jwks()))
}

fn wrong() -> Problem {
    Problem::new(Code::InvalidCredentials, "the id or phone and the secret do not belong together")
}

fn operator(app: &App, client_id: String, client_secret: &str) -> Result<Session, Problem> {
    let operator = app.config.operator.as_ref().ok_or_else(wrong)?;
    let expected = operator.client_secret.expose_secret();
    let matches =
        operator.client_id.as_bytes().ct_eq(client_id.as_bytes()) & expected.as_bytes().ct_eq(client_secret.as_bytes());
    if !bool::from(matches) {
        return Err(wrong());
    }
    Ok(Session { subject: client_id, role: Role::Operator, tenant: None, family: Uuid::now_v7() })
}

async fn back_office(app: &App, tenant: TenantId, client_id: String, client_secret: &str) -> Result<Session, Problem> {
    let published = app.tenants.config(&tenant).await?;
    let hash = published.config.auth.clients.get(&client_id).map(|client| client.secret_hash.as_str());
    if !verify_secret(client_secret, hash).await? {
        return Err(wrong());
    }
    Ok(Session { subject: client_id, role: Role::TenantAdmin, tenant: Some(tenant), family: Uuid::now_v7() })
}

async fn person(
    app: &App,
    tenant: TenantId,
    phone: &str,
    password: &str,
    role: Option<AccountRole>,
) -> Result<Session, Problem> {
    let kinds: &[Kind] = match role {
        Some(AccountRole::Rider) => &[Kind::Rider],
        Some(AccountRole::Driver) => &[Kind::Driver],
        None => &[Kind::Rider, Kind::Driver],
    };
    let mut tx = app.db.begin(&tenant).await?;
    let mut found = Vec::new();
    for kind in kinds {
        if let Some(credential) = accounts::credential(&mut tx, *kind, phone).await? {
            found.push((kind.role(), credential));
        }
    }
    tx.commit().await?;
    if found.is_empty() {
        verify_secret(password, None).await?;
    }
    for (role, credential) in found {
        if verify_secret(password, credential.password_hash.as_deref()).await? {
            let subject = credential.id.to_string();
            return Ok(Session { subject, role, tenant: Some(tenant), family: Uuid::now_v7() });
        }
    }
    Err(wrong())
}
