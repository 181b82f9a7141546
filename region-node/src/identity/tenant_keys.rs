//! The key of each tenant: made from the master key of the region the tenant was made in, and moved with the tenant.
//!
//! A region that takes a tenant over is given the key wrapped for it: sealed to the X25519 key it announces with the keys
//! of its tokens, whose private half comes from its own master key. So any node of that region can open it, and whatever
//! carries or stores it on the way cannot.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use aws_lc_rs::agreement::{self, PrivateKey, UnparsedPublicKey, X25519};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use shared::ids::{RegionName, TenantId};

use super::Sealer;

const KEY_BYTES: usize = 32;
/// What a region's key is for, as its JSON Web Key says.
const USE: &str = "enc";

/// The keys of the tenants at home here. Cheap to clone.
#[derive(Clone)]
pub struct TenantKeys(Arc<Inner>);

struct Inner {
    region: RegionName,
    master: Sealer,
    private: PrivateKey,
    /// As last read from the database. A key can only change while its tenant is elsewhere, and everything here is forgotten
    /// whenever the directory is read.
    known: Mutex<HashMap<TenantId, Known>>,
}

#[derive(Clone)]
struct Known {
    wrapped: Option<Vec<u8>>,
    sealer: Sealer,
}

/// A key that does not open with this region's master key.
#[derive(Debug, thiserror::Error)]
#[error("the key of tenant '{0}' cannot be opened: secrets.master_key is not the one it was wrapped for")]
pub struct Unusable(TenantId);

impl TenantKeys {
    /// Those of `region`, whose own keys come from `master`.
    pub fn new(region: RegionName, master: Sealer) -> Self {
        let private = PrivateKey::from_private_key(&X25519, &master.expand(&[b"move"]));
        let private = private.expect("any 32 bytes are a private key of X25519");
        Self(Arc::new(Inner { region, master, private, known: Mutex::default() }))
    }

    /// The public half of the key that tenants' keys are wrapped for, as a JSON Web Key (RFC 8037).
    pub fn jwk(&self) -> Value {
        json!({"kty": "OKP", "crv": "X25519", "use": USE, "kid": format!("{}-move", self.0.region), "x": URL_SAFE_NO_PAD.encode(self.public())})
    }

    /// The sealer of `tenant`, whose key stands wrapped in the database unless the tenant was made here.
    pub(crate) fn read(&self, tenant: &TenantId, wrapped: Option<&[u8]>) -> Result<Sealer, Unusable> {
        if let Some(known) = self.known().get(tenant).filter(|known| known.wrapped.as_deref() == wrapped) {
            return Ok(known.sealer.clone());
        }
        let sealer = Sealer::new(&self.key(tenant, wrapped)?);
        let known = Known { wrapped: wrapped.map(<[u8]>::to_vec), sealer: sealer.clone() };
        self.known().insert(tenant.clone(), known);
        Ok(sealer)
    }

    /// The sealer of `tenant`, if its key was read lately.
    pub(crate) fn remembered(&self, tenant: &TenantId) -> Option<Sealer> {
        self.known().get(tenant).map(|known| known.sealer.clone())
    }

    /// Has every key read again before it is next used.
    pub(crate) fn forget(&self) {
        self.known().clear();
    }

    /// The key of `tenant` wrapped for the region that announces `jwks`; `None` if it announces no key for that.
    pub fn wrap(&self, tenant: &TenantId, wrapped: Option<&[u8]>, jwks: &Value) -> Result<Option<Vec<u8>>, Unusable> {
        let keys = jwks["keys"].as_array().into_iter().flatten();
        let theirs = keys.filter(|jwk| jwk["crv"] == "X25519" && jwk["use"] == USE).find_map(|jwk| jwk["x"].as_str());
        let Some(theirs) = theirs.and_then(|x| URL_SAFE_NO_PAD.decode(x).ok()) else { return Ok(None) };
        let key = self.key(tenant, wrapped)?;
        let once = PrivateKey::generate(&X25519).expect("the system gives random bytes");
        let public = public_of(&once);
        let sealer = agreed(&once, &theirs, &public, &theirs);
        Ok(sealer.map(|sealer| [public, sealer.seal(&context(tenant), &key)].concat()))
    }

    fn key(&self, tenant: &TenantId, wrapped: Option<&[u8]>) -> Result<[u8; KEY_BYTES], Unusable> {
        let Some(wrapped) = wrapped else { return Ok(self.0.master.tenant_key(tenant)) };
        let opened = wrapped.split_at_checked(KEY_BYTES).and_then(|(public, sealed)| {
            let sealer = agreed(&self.0.private, public, public, &self.public())?;
            sealer.open(&context(tenant), sealed)?.try_into().ok()
        });
        opened.ok_or_else(|| Unusable(tenant.clone()))
    }

    fn public(&self) -> Vec<u8> {
        public_of(&self.0.private)
    }

    fn known(&self) -> MutexGuard<'_, HashMap<TenantId, Known>> {
        // A map stays whole whatever happened to the thread that held it.
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What both ends of an agreement seal with: it depends on the secret and on both public keys.
fn agreed(own: &PrivateKey, other: &[u8], once: &[u8], theirs: &[u8]) -> Option<Sealer> {
    let other = UnparsedPublicKey::new(&X25519, other);
    let secret = agreement::agree(own, other, (), |secret| Ok(<[u8; 32]>::from(Sha256::digest(secret))));
    let key = Sha256::new().chain_update(secret.ok()?).chain_update(once).chain_update(theirs).finalize();
    Some(Sealer::new(&key.into()))
}

fn public_of(private: &PrivateKey) -> Vec<u8> {
    let public = private.compute_public_key().expect("a private key of X25519 has a public one");
    public.as_ref().to_vec()
}

fn context(tenant: &TenantId) -> String {
    format!("tenant_keys/{tenant}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(region: &str, master: u8) -> TenantKeys {
        TenantKeys::new(region.parse().unwrap(), Sealer::new(&[master; 32]))
    }

    #[test]
    fn a_key_moves_from_region_to_region_and_stays_the_same() {
        let tenant = "cabs".parse().unwrap();
        let (here, there, third) = (keys("us-east", 1), keys("eu-west", 2), keys("ap-south", 3));
        let jwks = |keys: &TenantKeys| json!({"keys": [{"crv": "Ed25519", "x": "-"}, keys.jwk()]});
        let sealed = here.read(&tenant, None).unwrap().seal("account/1/name", b"Ada");
        let moved = here.wrap(&tenant, None, &jwks(&there)).unwrap().unwrap();
        let again = there.wrap(&tenant, Some(&moved), &jwks(&third)).unwrap().unwrap();
        for (keys, wrapped) in [(&there, &moved), (&third, &again)] {
            let sealer = keys.read(&tenant, Some(wrapped)).unwrap();
            assert_eq!(sealer.open("account/1/name", &sealed).unwrap(), b"Ada");
        }
        assert!(here.read(&tenant, Some(&moved)).is_err(), "not even who wrapped it opens it");
        assert!(there.read(&"limos".parse().unwrap(), Some(&moved)).is_err(), "it is of another tenant");
    }

    #[test]
    fn a_region_that_announces_no_key_is_given_none() {
        let jwks = json!({"keys": [{"crv": "Ed25519", "use": "sig", "x": "-"}]});
        assert_eq!(keys("us-east", 1).wrap(&"cabs".parse().unwrap(), None, &jwks).unwrap(), None);
    }
}
