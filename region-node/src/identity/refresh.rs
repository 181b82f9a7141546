//! Refresh tokens: used once, each use gives the next of its family; a second use of one revokes the family, since one of
//! the two who hold it is a thief.
//!
//! A token says where it is known, so that any edge finds the way: riders' and drivers' in their tenant's home, wherever that
//! is by then, everybody else's in the region that made them.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use shared::{
    claims::Role,
    ids::{RegionName, TenantId},
    problem::Code,
};
use sqlx::PgConnection;
use uuid::Uuid;

use super::accounts::Kind;
use crate::{
    app::App,
    db::{SystemTx, TenantTx},
    http::Problem,
};

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

/// Where a token is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KnownIn {
    /// In this region.
    Region(RegionName),
    /// In the home of this tenant.
    HomeOf(TenantId),
}

impl KnownIn {
    /// Where `token` is known, if it is one of ours by its looks.
    pub(crate) fn of(token: &str) -> Option<Self> {
        let (place, _) = token.split_once('.')?;
        match place.strip_prefix('@') {
            Some(tenant) => tenant.parse().ok().map(Self::HomeOf),
            None => place.parse().ok().map(Self::Region),
        }
    }
}

impl Session {
    /// The tenant in whose home alone the session is known.
    fn home_of(&self) -> Option<&TenantId> {
        self.tenant.as_ref().filter(|_| Kind::of(self.role).is_some())
    }
}

/// A transaction on sessions: a command of the tenant in whose home they are known, or on those known in this region.
pub(super) enum SessionTx {
    AtHome(TenantTx),
    Here(SystemTx),
}

impl SessionTx {
    pub(super) async fn begin(app: &App, home_of: Option<&TenantId>) -> Result<Self, Problem> {
        Ok(match home_of {
            Some(tenant) => Self::AtHome(app.db.begin(tenant).await?),
            None => Self::Here(app.db.system().await?),
        })
    }

    pub(super) fn conn(&mut self) -> &mut PgConnection {
        match self {
            Self::AtHome(tx) => tx.conn(),
            Self::Here(tx) => tx.conn(),
        }
    }

    pub(super) async fn commit(self) -> sqlx::Result<()> {
        match self {
            Self::AtHome(tx) => tx.commit().await,
            Self::Here(tx) => tx.commit().await,
        }
    }
}

/// Begins `session`, in a transaction of its own.
pub(super) async fn begin(app: &App, session: &Session) -> Result<SessionTx, Problem> {
    SessionTx::begin(app, session.home_of()).await
}

/// Makes a session's next token.
pub(super) async fn issue(app: &App, tx: &mut SessionTx, session: &Session) -> Result<String, Problem> {
    let mut random = [0; 32];
    SystemRandom::new().fill(&mut random).expect("the system gives random bytes");
    let place = session.home_of().map_or_else(|| app.region.to_string(), |tenant| format!("@{tenant}"));
    let token = format!("{place}.{}", URL_SAFE_NO_PAD.encode(random));
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
pub(super) async fn redeem(app: &App, token: &str) -> Result<(SessionTx, Session), Problem> {
    let refused = || Problem::new(Code::InvalidRefreshToken, "sign in again");
    let mut tx = match KnownIn::of(token) {
        Some(KnownIn::HomeOf(tenant)) => SessionTx::begin(app, Some(&tenant)).await?,
        Some(KnownIn::Region(_)) => SessionTx::begin(app, None).await?,
        None => return Err(refused()),
    };
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

/// Forgets tokens that can no longer be used, except of tenants that are only arriving here; any node may do it at any time.
pub(crate) async fn forget_expired(app: &App) -> Result<u64, Problem> {
    let mut tx = app.db.system().await?;
    let forgotten = sqlx::query!(
        "DELETE FROM refresh_tokens
         WHERE expires_at <= $1 AND tenant_id NOT IN (SELECT tenant_id FROM tenant_arrivals)",
        app.clock.now()
    )
    .execute(tx.conn())
    .await?
    .rows_affected();
    tx.commit().await?;
    Ok(forgotten)
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_where_it_is_known() {
        assert_eq!(KnownIn::of("us-east.secret"), Some(KnownIn::Region("us-east".parse().unwrap())));
        assert_eq!(KnownIn::of("@cabs.secret"), Some(KnownIn::HomeOf("cabs".parse().unwrap())));
        for strange in ["", "secret", ".secret", "@.secret", "@Cabs!.secret"] {
            assert_eq!(KnownIn::of(strange), None, "{strange}");
        }
    }
}
