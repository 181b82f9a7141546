//! Access tokens: EdDSA JWTs, checked with the key their header names, whichever region signed.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde_json::Value;
use shared::{
    claims::{Claims, Role},
    clock::Clock,
    ids::{RegionName, TenantId},
    problem::Code,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::SigningKey;
use crate::http::Problem;

/// Clocks of two regions may differ by this much.
const LEEWAY_S: i64 = 30;

/// Issues and checks access tokens. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    issuer: String,
    region: RegionName,
    ttl: Duration,
    clock: Clock,
    /// An edge without a database signs nothing.
    signing: Option<SigningKey>,
    /// Every region's keys, by kid.
    known: RwLock<Arc<HashMap<String, DecodingKey>>>,
}

impl Tokens {
    /// Tokens of `cluster_id`'s regions; the keys of others come with [`Tokens::learn`].
    pub fn new(cluster_id: &str, region: RegionName, ttl: Duration, clock: Clock, signing: Option<SigningKey>) -> Self {
        let tokens = Self(Arc::new(Inner {
            issuer: cluster_id.to_owned(),
            region,
            ttl,
            clock,
            signing,
            known: RwLock::default(),
        }));
        tokens.learn([]);
        tokens
    }

    /// Knows from now on exactly the keys of `key_sets` (JWK sets, as the directory has them) and this region's own.
    pub fn learn<'a>(&self, key_sets: impl IntoIterator<Item = &'a Value>) {
        let own = self.0.signing.iter().map(SigningKey::jwk);
        let others = key_sets.into_iter().filter_map(|set| set["keys"].as_array()).flatten().cloned();
        let known = others.chain(own).filter_map(|jwk| {
            let kid = jwk["kid"].as_str()?.to_owned();
            let key = DecodingKey::from_ed_components(jwk["x"].as_str()?).ok()?;
            (jwk["crv"] == "Ed25519").then_some((kid, key))
        });
        *self.0.known.write().expect("no holder of this lock panics") = Arc::new(known.collect());
    }

    /// This region's public keys as a JWK set.
    pub fn own_jwks(&self) -> Value {
        serde_json::json!({"keys": self.0.signing.iter().map(SigningKey::jwk).collect::<Vec<_>>()})
    }

    /// How long an access token is good for.
    pub fn ttl(&self) -> Duration {
        self.0.ttl
    }

    /// Signs an access token.
    pub fn issue(&self, subject: &str, role: Role, tenant: Option<TenantId>) -> Result<String, Problem> {
        let signing = self.0.signing.as_ref().ok_or_else(|| {
            Problem::new(Code::Unavailable, "this edge signs no tokens; its home region does").retry_after(1)
        })?;
        let iat = self.0.clock.now().unix_timestamp();
        let claims = Claims {
            iss: self.0.issuer.clone(),
            sub: subject.to_owned(),
            tenant,
            role,
            region: self.0.region.clone(),
            iat,
            exp: iat + i64::try_from(self.0.ttl.as_secs()).expect("a token lives for less than an age"),
            jti: Uuid::now_v7().to_string(),
        };
        let header = Header { kid: Some(signing.kid.clone()), ..Header::new(Algorithm::EdDSA) };
        jsonwebtoken::encode(&header, &claims, &signing.encoding).map_err(|error| {
            tracing::error!(%error, "a token could not be signed");
            Problem::new(Code::Internal, "something went wrong on our side")
        })
    }

    /// The claims of a token signed by any region of the cluster and still good.
    pub fn verify(&self, token: &str) -> Result<Claims, Problem> {
        let refused = |why: &str| Problem::new(Code::InvalidToken, why);
        let header = jsonwebtoken::decode_header(token).map_err(|_| refused("the access token is not a JWT"))?;
        let known = Arc::clone(&self.0.known.read().expect("no holder of this lock panics"));
        let kid = header.kid.ok_or_else(|| refused("the access token names no key"))?;
        let key = known.get(&kid).ok_or_else(|| refused("the access token is signed with a key no region has"))?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&self.0.issuer]);
        validation.set_required_spec_claims(&["iss", "sub", "exp"]);
        // Expiry is judged below, by the clock tests can move.
        validation.validate_exp = false;
        let claims = jsonwebtoken::decode::<Claims>(token, key, &validation)
            .map_err(|_| refused("the access token's signature or claims are wrong"))?
            .claims;
        let now = self.0.clock.now().unix_timestamp();
        if claims.exp + LEEWAY_S < now {
            return Err(refused("the access token has expired"));
        }
        if claims.iat - LEEWAY_S > now {
            return Err(refused("the access token is from the future"));
        }
        Ok(claims)
    }

    /// When a token with these claims is refused from.
    pub fn expires_at(claims: &Claims) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(claims.exp + LEEWAY_S).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}
