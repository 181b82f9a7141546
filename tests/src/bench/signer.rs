//! Tokens for thousands of people without thousands of password hashes: signed with a key the region's directory lists.

use anyhow::Context;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use shared::clock::Clock;
use uuid::Uuid;

use crate::api::SignedIn;

const KEY_ID: &str = "bench";
/// Outlasts every section.
const GOOD_FOR_S: i64 = 6 * 3_600;

/// Signs as a region of the cluster would.
pub struct Signer {
    key: Ed25519KeyPair,
    issuer: String,
    region: String,
}

impl Signer {
    /// A new key for the cluster that issued `token`.
    pub fn like(token: &str) -> anyhow::Result<Self> {
        let payload = token.split('.').nth(1).context("a token has three parts")?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
        let text = |name: &str| claims[name].as_str().map(str::to_owned).with_context(|| format!("no claim {name}"));
        let failed = |_| anyhow::anyhow!("no key could be made");
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(failed)?;
        let key = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|error| anyhow::anyhow!("{error}"))?;
        Ok(Self { key, issuer: text("iss")?, region: text("region")? })
    }

    /// The public key, as directories list it.
    pub fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key().as_ref());
        json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": KEY_ID, "x": x})
    }

    /// Somebody's token.
    pub fn sign(&self, tenant: &str, role: &str, subject: Uuid) -> String {
        let now = Clock::system().now().unix_timestamp();
        let header = json!({"alg": "EdDSA", "typ": "JWT", "kid": KEY_ID});
        let claims = json!({
            "iss": self.issuer, "sub": subject, "tenant": tenant, "role": role, "region": self.region,
            "iat": now, "exp": now + GOOD_FOR_S, "jti": Uuid::now_v7(),
        });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// The same as a session.
    pub fn session(&self, tenant: &str, role: &str, subject: Uuid) -> SignedIn {
        SignedIn {
            access_token: self.sign(tenant, role, subject),
            refresh_token: String::new(),
            expires_in: GOOD_FOR_S,
            role: role.to_owned(),
            subject: subject.to_string(),
        }
    }
}
