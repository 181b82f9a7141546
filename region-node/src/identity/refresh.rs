//! Refresh tokens: used once, each use gives the next of its family; a second use of one revokes the family, since one of
//! the two who hold it is a thief.
//!
//! A token begins with the name of the region that made it, so that any edge finds the way back.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use shared::{
    claims::Role,
    ids::{RegionName, TenantId},
    problem::Code,
};
use uuid::Uuid;

use crate::{app::App, db::SystemTx, http::Problem};

/// What stands for the tenant of an operator, who has none; no tenant can be named so.
const NO_TENANT: &str = "-";

/// Whom a refresh token signs in.
#[derive(Clone, Debug)]
pub(super) struct Session {
    pub(super) subject: String,
    pub(super) role: Role,
    pub(super) tenant: Option<TenantId>,
    pub(super) family: Uuid,
}

/// The region that made `token`, if it is one of ours by its looks.
pub(crate) fn region_of(token: &str) -> Option<RegionName> {
    token.split_once('.').and_then(|(region, _)| region.parse().ok())
}

/// Makes a session's next token.
pub(super) async fn issue(app: &App, tx: &mut SystemTx, session: &Session) -> Result<String, Problem> {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).expect("the system gives random bytes");
    let token = format!("{}.{}", app.region, URL_SAFE_NO_PAD.encode(random));
    let now = app.clock.now();
    sqlx::query!(
        "INSERT INTO refresh_tokens (token_hash, family_id, tenant_id, subject, role, expires_at, created_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)",
        hash(&token),
        session.family,
        session.tenant.as_ref().map_or(NO_TENANT, TenantId::as_str),
        session.subject,
        session.role.as_str(),
        now + app.config.tokens.refresh_ttl,
        now
    )
    .execute(tx.conn())
    .await?;
    Ok(token)
}

/// Uses `token` up and says whom it signs in. A second use revokes the family, and that is committed although the call is
/// refused.
pub(super) async fn redeem(app: &App, mut tx: SystemTx, token: &str) -> Result<(SystemTx, Session), Problem> {
    let refused = || Problem::new(Code::InvalidRefreshToken, "sign in again");
    let now = app.clock.now();
    let row = sqlx::query!(
        "SELECT family_id, tenant_id, subject, role, expires_at, used_at, revoked_at
         FROM refresh_tokens WHERE token_hash = $1 FOR UPDATE",
        hash(token)
    )
    .fetch_optional(tx.conn())
    .await?
    .ok_or_else(refused)?;
    if row.used_at.is_some() {
        sqlx::query!("UPDATE refresh_tokens SET revoked_at = $2 WHERE family_id = $1", row.family_id, now)
            .execute(tx.conn())
            .await?;
        tx.commit().await?;
        tracing::warn!(subject = row.subject, "a refresh token was used twice; its family is revoked");
        return Err(refused());
    }
    if row.revoked_at.is_some() || row.expires_at <= now {
        return Err(refused());
    }
    sqlx::query!("UPDATE refresh_tokens SET used_at = $2 WHERE token_hash = $1", hash(token), now)
        .execute(tx.conn())
        .await?;
    let role = match row.role.as_str() {
        "rider" => Role::Rider,
        "driver" => Role::Driver,
        "tenant_admin" => Role::TenantAdmin,
        "operator" => Role::Operator,
        _ => return Err(refused()),
    };
    let tenant = match row.tenant_id.as_str() {
        NO_TENANT => None,
        tenant => Some(tenant.parse().map_err(|_| refused())?),
    };
    Ok((tx, Session { subject: row.subject, role, tenant, family: row.family_id }))
}

/// Forgets tokens that can no longer be used; any node may do it at any time.
pub(crate) async fn forget_expired(app: &App) -> Result<u64, Problem> {
    let mut tx = app.db.system().await?;
    let forgotten = sqlx::query!("DELETE FROM refresh_tokens WHERE expires_at <= $1", app.clock.now())
        .execute(tx.conn())
        .await?
        .rows_affected();
    tx.commit().await?;
    Ok(forgotten)
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
