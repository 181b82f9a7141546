//! The keys with which origins sign their logs.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::Duration,
};

use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use rustls::{
    RootCertStore,
    client::verify_server_cert_signed_by_trust_anchor,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use shared::ids::RegionName;
use x509_parser::{certificate::X509Certificate, oid_registry::OID_SIG_ED25519, prelude::FromDer};

use super::tls::{TlsError, load_certificates, show_end, uri, uri_name};
use crate::{
    protocol::{Checkpoint, Head, KeyId, Trust, TrustError, hash_of},
    store::Signer,
};

/// This region's key and its certificate.
pub struct SigningKey {
    key: Ed25519KeyPair,
    certificate: Vec<u8>,
    key_id: KeyId,
}

impl SigningKey {
    /// Reads the files and makes sure that they are this region's and fit together.
    pub fn load(
        cert: &Path,
        key: &Path,
        roots: Arc<RootCertStore>,
        cluster_id: &str,
        region: &RegionName,
    ) -> Result<Self, TlsError> {
        let file = |path: &Path, error: String| TlsError::File(path.display().to_string(), error);
        let certificate = load_certificates(cert)?.swap_remove(0);
        show_end("signing", std::slice::from_ref(&certificate));
        let pem = PrivateKeyDer::from_pem_file(key).map_err(|error| file(key, error.to_string()))?;
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(pem.secret_der())
            .map_err(|error| file(key, format!("no Ed25519 key in PKCS#8: {error}")))?;
        let signer = Self { key: pair, key_id: hash_of(&certificate), certificate: certificate.to_vec() };

        // Whoever receives our facts will do the same; better to hear of a mistake at start.
        let mut ring = KeyRing::new(roots, cluster_id);
        let checkpoint = Checkpoint {
            head: Head::EMPTY,
            key_id: signer.key_id,
            signature: signer.sign(b"start"),
            certificate: Some(signer.certificate.clone()),
        };
        ring.verify(region, &checkpoint, b"start").map_err(|error| file(cert, error.to_string()))?;
        Ok(signer)
    }

    /// The certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }
}

impl Signer for SigningKey {
    fn key_id(&self) -> KeyId {
        self.key_id
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.key.sign(message).as_ref().to_vec()
    }
}

/// Certificates of signing keys that the authority vouched for, by region.
#[derive(Clone)]
pub struct KeyRing {
    roots: Arc<RootCertStore>,
    cluster_id: String,
    keys: BTreeMap<RegionName, BTreeMap<KeyId, Vec<u8>>>,
    /// Those whose certificate is in the database, to be passed on.
    stored: BTreeSet<KeyId>,
}

impl KeyRing {
    /// Knows nobody yet.
    pub fn new(roots: Arc<RootCertStore>, cluster_id: &str) -> Self {
        Self { roots, cluster_id: cluster_id.to_owned(), keys: BTreeMap::new(), stored: BTreeSet::new() }
    }

    /// The mesh whose keys these are.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// Takes a certificate in if the authority vouched for it and it names the region.
    pub fn learn(&mut self, region: &RegionName, certificate: &[u8]) -> Result<KeyId, TrustError> {
        let bad = |reason: String| TrustError::BadCertificate(reason);
        let der = CertificateDer::from(certificate.to_vec());
        let parsed = parse(certificate)?;
        // A signature stays good after its certificate has expired: facts are older than keys are allowed to be. So the
        // chain is judged at the moment the certificate began.
        let issued = u64::try_from(parsed.validity().not_before.timestamp()).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(Duration::from_secs(issued + 1));
        let algorithms = rustls::crypto::ring::default_provider().signature_verification_algorithms.all;
        let end_entity = ParsedCertificate::try_from(&der).map_err(|error| bad(error.to_string()))?;
        verify_server_cert_signed_by_trust_anchor(&end_entity, &self.roots, &[], at, algorithms)
            .map_err(|error| bad(error.to_string()))?;
        self.take_in(region, certificate, &parsed)
    }

    /// Takes a certificate in that was believed when it was stored, whoever the authority is by now; an error if it is not
    /// what was stored under this id for this region.
    pub fn recall(&mut self, region: &RegionName, key_id: &KeyId, certificate: &[u8]) -> Result<(), TrustError> {
        let is = self.take_in(region, certificate, &parse(certificate)?)?;
        if is == *key_id { Ok(()) } else { Err(TrustError::BadCertificate("it has another id".to_owned())) }
    }

    fn take_in(
        &mut self,
        region: &RegionName,
        certificate: &[u8],
        parsed: &X509Certificate<'_>,
    ) -> Result<KeyId, TrustError> {
        let expected = uri(&self.cluster_id, region);
        if uri_name(&CertificateDer::from(certificate)).as_deref() != Some(expected.as_str()) {
            return Err(TrustError::BadCertificate(format!("it does not name {expected}")));
        }
        let public = parsed.public_key();
        if public.algorithm.algorithm != OID_SIG_ED25519 {
            return Err(TrustError::BadCertificate("its key is not Ed25519".to_owned()));
        }
        let key_id = hash_of(certificate);
        let key = public.subject_public_key.data.to_vec();
        self.keys.entry(region.clone()).or_default().insert(key_id, key);
        Ok(key_id)
    }
}

fn parse(certificate: &[u8]) -> Result<X509Certificate<'_>, TrustError> {
    let parsed = X509Certificate::from_der(certificate);
    parsed.map(|(_, parsed)| parsed).map_err(|error| TrustError::BadCertificate(error.to_string()))
}

impl Trust for KeyRing {
    fn verify(&mut self, region: &RegionName, checkpoint: &Checkpoint, message: &[u8]) -> Result<(), TrustError> {
        // Also where the key is known: the certificate is kept and passed on.
        if checkpoint.certificate.as_ref().is_some_and(|certificate| hash_of(certificate) != checkpoint.key_id) {
            return Err(TrustError::UnknownKey);
        }
        let known = |ring: &Self| ring.keys.get(region).is_some_and(|keys| keys.contains_key(&checkpoint.key_id));
        if !known(self) {
            let certificate = checkpoint.certificate.as_ref().ok_or(TrustError::UnknownKey)?;
            self.learn(region, certificate)?;
        }
        let key = self.keys.get(region).and_then(|keys| keys.get(&checkpoint.key_id)).ok_or(TrustError::UnknownKey)?;
        UnparsedPublicKey::new(&ED25519, key)
            .verify(message, &checkpoint.signature)
            .map_err(|_| TrustError::BadSignature)
    }

    fn known_keys(&self, region: &RegionName) -> Vec<KeyId> {
        let keys = self.keys.get(region).into_iter().flat_map(BTreeMap::keys);
        keys.filter(|key| self.stored.contains(*key)).copied().collect()
    }

    fn stored(&mut self, region: &RegionName, key: &KeyId) {
        if self.keys.get(region).is_some_and(|keys| keys.contains_key(key)) {
            self.stored.insert(*key);
        }
    }
}
