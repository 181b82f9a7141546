//! The region's token-signing key: made once, sealed in the database, shared by the region's nodes.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::EncodingKey;
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use shared::{clock::Clock, ids::RegionName};
use sqlx::PgPool;

use super::Sealer;

/// With what this region signs tokens.
#[derive(Clone)]
pub struct SigningKey {
    /// Names the key in a token's header.
    pub kid: String,
    /// Its public half, raw.
    pub public_key: Vec<u8>,
    pub(super) encoding: EncodingKey,
}

impl SigningKey {
    /// The public half as a JSON Web Key (RFC 8037).
    pub fn jwk(&self) -> Value {
        jwk(&self.kid, &URL_SAFE_NO_PAD.encode(&self.public_key))
    }
}

/// An Ed25519 public key `x` (base64url) as a JSON Web Key.
pub(super) fn jwk(kid: &str, x: &str) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": kid, "x": x})
}

/// Loads the region's newest key, or makes the first one; nodes that start together agree on one.
pub async fn load_or_create(
    pool: &PgPool,
    sealer: &Sealer,
    clock: &Clock,
    region: &RegionName,
) -> anyhow::Result<SigningKey> {
    #[expect(clippy::disallowed_methods, reason = "keys belong to the region, not to a tenant")]
    let mut tx = pool.begin().await?;
    sqlx::query!("SELECT pg_advisory_xact_lock(hashtextextended('signing_keys', 0))").execute(&mut *tx).await?;
    let stored = sqlx::query!(
        "SELECT kid, public_key, sealed_private FROM signing_keys WHERE retired_at IS NULL ORDER BY created_at DESC LIMIT 1"
    )
    .fetch_optional(&mut *tx)
    .await?;
    let key = match stored {
        Some(stored) => {
            let private = sealer.open(&context(&stored.kid), &stored.sealed_private).ok_or_else(|| {
                anyhow::anyhow!(
                    "secrets.master_key is not the one this region's database was sealed with; set that one"
                )
            })?;
            SigningKey { kid: stored.kid, public_key: stored.public_key, encoding: EncodingKey::from_ed_der(&private) }
        }
        None => {
            let private = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new())
                .map_err(|_| anyhow::anyhow!("the system gives no random bytes for a signing key"))?;
            let public_key = Ed25519KeyPair::from_pkcs8(private.as_ref())
                .map_err(|error| anyhow::anyhow!("a new signing key is unusable: {error}"))?
                .public_key()
                .as_ref()
                .to_vec();
            let kid = format!("{region}-{}", hex::encode(&public_key[..6]));
            sqlx::query!(
                "INSERT INTO signing_keys (kid, public_key, sealed_private, created_at) VALUES ($1, $2, $3, $4)",
                kid,
                public_key,
                sealer.seal(&context(&kid), private.as_ref()),
                clock.now()
            )
            .execute(&mut *tx)
            .await?;
            SigningKey { kid, public_key, encoding: EncodingKey::from_ed_der(private.as_ref()) }
        }
    };
    tx.commit().await?;
    Ok(key)
}

fn context(kid: &str) -> String {
    format!("signing_keys/{kid}")
}
