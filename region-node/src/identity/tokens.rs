//! Access tokens: EdDSA JWTs, checked with the key their header names, whichever region signed.

use std::{
    collections::{BTreeMap, HashMap},
    mem,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use jsonwebtoken::{Algorithm, DecodingKey, Header, Validation};
use serde_json::Value;
use sha2::{Digest, Sha256};
use shared::{
    claims::{Claims, Role},
    clock::Clock,
    ids::{RegionName, TenantId},
    problem::Code,
};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{SigningKey, keys::jwk};
use crate::http::Problem;

/// Clocks of two regions may differ by this much.
const LEEWAY_S: i64 = 30;

/// Checked tokens remembered; twice as many at most, some 30 MiB. Were they fewer than the people of a node who call in turn,
/// each would be forgotten just before it is needed.
const REMEMBERED: usize = 100_000;

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
    known: RwLock<Arc<Known>>,
}

/// Every region's keys, and the tokens found good with them: checking a signature costs twenty times what a position does,
/// and a driver's phone sends the same token thousands of times. Other keys come with an empty memory.
#[derive(Default)]
struct Known {
    /// Public keys as the directory has them, by kid.
    listed: BTreeMap<String, String>,
    keys: HashMap<String, DecodingKey>,
    good: Mutex<Remembered>,
}

/// Two generations: when the newer is full it becomes the older, and what nobody asked for meanwhile is forgotten.
#[derive(Default)]
struct Remembered {
    newer: HashMap<Fingerprint, Arc<Claims>>,
    older: HashMap<Fingerprint, Arc<Claims>>,
}

/// SHA-256 of a token, which is many times as long.
type Fingerprint = [u8; 32];

impl Remembered {
    fn get(&mut self, token: &Fingerprint) -> Option<Arc<Claims>> {
        if let Some(claims) = self.newer.get(token) {
            return Some(claims.clone());
        }
        let claims = self.older.remove(token)?;
        self.keep(*token, claims.clone());
        Some(claims)
    }

    fn keep(&mut self, token: Fingerprint, claims: Arc<Claims>) {
        if self.newer.len() >= REMEMBERED {
            self.older = mem::take(&mut self.newer);
        }
        self.newer.insert(token, claims);
    }
}

impl Known {
    fn remembered<T>(&self, with: impl FnOnce(&mut Remembered) -> T) -> T {
        // A map stays whole whatever happened to the thread that held it.
        with(&mut self.good.lock().unwrap_or_else(PoisonError::into_inner))
    }
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
        let listed = others.chain(own).filter_map(|jwk| {
            let (kid, x) = (jwk["kid"].as_str()?.to_owned(), jwk["x"].as_str()?.to_owned());
            (jwk["crv"] == "Ed25519").then_some((kid, x))
        });
        let listed: BTreeMap<_, _> = listed.collect();
        if self.known().listed == listed {
            return;
        }
        let key = |(kid, x): (&String, &String)| Some((kid.clone(), DecodingKey::from_ed_components(x).ok()?));
        let keys = listed.iter().filter_map(key).collect();
        let known = Known { listed, keys, good: Mutex::default() };
        *self.0.known.write().expect("no holder of this lock panics") = Arc::new(known);
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.0.known.read().expect("no holder of this lock panics"))
    }

    /// This region's public keys as a JWK set.
    pub fn own_jwks(&self) -> Value {
        serde_json::json!({"keys": self.0.signing.iter().map(SigningKey::jwk).collect::<Vec<_>>()})
    }

    /// Every region's public keys as a JWK set: a token of any of them is good everywhere.
    pub fn known_jwks(&self) -> Value {
        let known = self.known();
        serde_json::json!({"keys": known.listed.iter().map(|(kid, x)| jwk(kid, x)).collect::<Vec<_>>()})
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
            Problem::internal()
        })
    }

    /// The claims of a token signed by any region of the cluster and still good.
    pub fn verify(&self, token: &str) -> Result<Arc<Claims>, Problem> {
        let known = self.known();
        let fingerprint = Sha256::digest(token).into();
        let remembered = known.remembered(|good| good.get(&fingerprint));
        let claims = match remembered {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.check_signature(&known, token)?);
                known.remembered(|good| good.keep(fingerprint, claims.clone()));
                claims
            }
        };
        let now = self.0.clock.now().unix_timestamp();
        if claims.exp + LEEWAY_S < now {
            return Err(refused("the access token has expired"));
        }
        if claims.iat - LEEWAY_S > now {
            return Err(refused("the access token is from the future"));
        }
        Ok(claims)
    }

    fn check_signature(&self, known: &Known, token: &str) -> Result<Claims, Problem> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| refused("the access token is not a JWT"))?;
        let kid = header.kid.ok_or_else(|| refused("the access token names no key"))?;
        let unknown = || refused("the access token is signed with a key no region has");
        let key = known.keys.get(&kid).ok_or_else(unknown)?;
        let mut validation = Validation::new(Algorithm::EdDSA);
        validation.set_issuer(&[&self.0.issuer]);
        validation.set_required_spec_claims(&["iss", "sub", "exp"]);
        // Expiry is judged each time, by the clock tests can move.
        validation.validate_exp = false;
        let decoded = jsonwebtoken::decode::<Claims>(token, key, &validation);
        Ok(decoded.map_err(|_| refused("the access token's signature or claims are wrong"))?.claims)
    }

    /// When a token with these claims is refused from.
    pub fn expires_at(claims: &Claims) -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(claims.exp + LEEWAY_S).unwrap_or(OffsetDateTime::UNIX_EPOCH)
    }
}

fn refused(why: &str) -> Problem {
    Problem::new(Code::InvalidToken, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims(sub: &str) -> Claims {
        Claims {
            iss: "tests".into(),
            sub: sub.into(),
            tenant: None,
            role: Role::Driver,
            region: "us-east".parse().unwrap(),
            iat: 0,
            exp: 0,
            jti: String::new(),
        }
    }

    #[test]
    fn tokens_in_use_stay_remembered_and_memory_is_bounded() {
        let mut good = Remembered::default();
        let other = Arc::new(claims("b"));
        let number = |n: usize| Fingerprint::from(Sha256::digest(n.to_le_bytes()));
        let in_use = number(usize::MAX);
        good.keep(in_use, claims("a").into());
        for n in 0..REMEMBERED * 3 {
            good.keep(number(n), other.clone());
            assert_eq!(good.get(&in_use).unwrap().sub, "a");
        }
        assert!(good.newer.len() <= REMEMBERED && good.older.len() <= REMEMBERED);
        assert!(good.get(&number(0)).is_none());
    }
}
