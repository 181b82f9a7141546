//! Personal data and private keys at rest: sealed with AES-256-GCM under keys derived from the region's master key, and what
//! belongs to a tenant under a key of the tenant's own, which moves with it.

use std::sync::Arc;

use ring::{
    aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey},
    hkdf, hmac,
    rand::{SecureRandom, SystemRandom},
};
use shared::ids::TenantId;

/// Seals and opens small secrets. Cheap to clone.
#[derive(Clone)]
pub struct Sealer(Arc<Keys>);

struct Keys {
    seal: LessSafeKey,
    derive: hkdf::Prk,
    random: SystemRandom,
}

impl Sealer {
    /// Derives all keys from a region's master key, or from a tenant's key.
    pub fn new(master_key: &[u8; 32]) -> Self {
        let derive = hkdf::Salt::new(hkdf::HKDF_SHA256, b"gocomet region").extract(master_key);
        let key = derive
            .expand(&[b"seal"], &AES_256_GCM)
            .map(UnboundKey::from)
            .expect("one key's length is within what HKDF gives");
        Self(Arc::new(Keys { seal: LessSafeKey::new(key), derive, random: SystemRandom::new() }))
    }

    /// The key of a tenant that was made here.
    pub fn tenant_key(&self, tenant: &TenantId) -> [u8; 32] {
        self.expand(&[b"tenant", tenant.as_str().as_bytes()])
    }

    /// Thirty-two bytes that only this key and `purpose` give.
    pub(super) fn expand(&self, purpose: &[&[u8]]) -> [u8; 32] {
        let mut key = [0; 32];
        let filled = self.0.derive.expand(purpose, hkdf::HKDF_SHA256).and_then(|expanded| expanded.fill(&mut key));
        filled.expect("one key's length is within what HKDF gives");
        key
    }

    /// Seals `plain`; `context` (the row it belongs to) must be the same to open it, so that no value can be moved.
    pub fn seal(&self, context: &str, plain: &[u8]) -> Vec<u8> {
        let mut nonce = [0; NONCE_LEN];
        self.0.random.fill(&mut nonce).expect("the system gives random bytes");
        let mut sealed = plain.to_vec();
        self.0
            .seal
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(context), &mut sealed)
            .expect("a value in memory is within what AES-GCM takes");
        [nonce.as_slice(), &sealed].concat()
    }

    /// Opens what [`Sealer::seal`] sealed under the same context; `None` if it was changed or moved.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let length = self.0.seal.open_in_place(nonce, Aad::from(context), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }

    /// A keyed hash of `data` for one `purpose`: finds a phone without storing it, signs a quote.
    pub fn sign(&self, purpose: &str, data: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&self.hmac_key(purpose), data);
        tag.as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }

    /// Whether `tag` is what [`Sealer::sign`] gives, compared in constant time.
    pub fn verify(&self, purpose: &str, data: &[u8], tag: &[u8]) -> bool {
        hmac::verify(&self.hmac_key(purpose), data, tag).is_ok()
    }

    fn hmac_key(&self, purpose: &str) -> hmac::Key {
        self.0
            .derive
            .expand(&[b"hmac", purpose.as_bytes()], hmac::HMAC_SHA256)
            .map(hmac::Key::from)
            .expect("one key's length is within what HKDF gives")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_value_opens_only_where_it_belongs() {
        let sealer = Sealer::new(&[7; 32]);
        let sealed = sealer.seal("rider/1/phone", b"+15550100");
        assert_eq!(sealer.open("rider/1/phone", &sealed).unwrap(), b"+15550100");
        assert_eq!(sealer.open("rider/2/phone", &sealed), None);
        assert_eq!(Sealer::new(&[8; 32]).open("rider/1/phone", &sealed), None);
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(sealer.open("rider/1/phone", &changed), None);
        assert_eq!(sealer.open("rider/1/phone", b"short"), None);
    }

    #[test]
    fn what_one_tenant_s_key_sealed_no_other_opens() {
        let region = Sealer::new(&[7; 32]);
        let key = |tenant: &str| region.tenant_key(&tenant.parse().unwrap());
        let sealed = Sealer::new(&key("cabs")).seal("rider/1/phone", b"+15550100");
        assert_eq!(Sealer::new(&key("cabs")).open("rider/1/phone", &sealed).unwrap(), b"+15550100");
        for other in [Sealer::new(&key("limos")), region.clone()] {
            assert_eq!(other.open("rider/1/phone", &sealed), None);
        }
    }

    #[test]
    fn a_signature_holds_for_its_purpose_only() {
        let sealer = Sealer::new(&[7; 32]);
        let tag = sealer.sign("quote", b"data");
        assert!(sealer.verify("quote", b"data", &tag));
        assert!(!sealer.verify("phone", b"data", &tag));
        assert!(!sealer.verify("quote", b"date", &tag));
    }
}
