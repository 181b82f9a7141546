//! Certificates: whom we believe, and who we are.
//!
//! A peer is who its certificate says: the authority is private, and the region stands in the certificate's URI name
//! `gocomet://<cluster>/<region>`. Host names play no part, since regions move between addresses.

use std::{path::Path, sync::Arc, time::Duration};

use quinn::{
    IdleTimeout, TransportConfig, VarInt,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls::{
    DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
};
use shared::ids::RegionName;
use x509_parser::{extensions::GeneralName, prelude::FromDer};

use super::{ALPN, moving, snapshot};

/// A peer is gone after this long without a packet; it says something every third of it.
const IDLE: Duration = Duration::from_secs(15);
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Below the 1,024 gaps a stream may have on a lossy path, whatever is lost.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;

/// What is wrong with certificates or keys; each message names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read as what it should be.
    #[error("{0}: {1}")]
    File(String, String),
    /// The certificate is not of this region.
    #[error("{file}: the certificate names {found:?}, not {expected}: issue one for this region and cluster")]
    OtherRegion {
        /// The file.
        file: String,
        /// The name in it.
        found: Option<String>,
        /// The name it should have.
        expected: String,
    },
    /// A certificate that the authority did not sign, or a key that does not fit it.
    #[error("certificates do not fit together: {0}")]
    Unfit(String),
}

/// This instance's certificate and key, and the authorities it believes.
pub struct Credentials {
    roots: Arc<RootCertStore>,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: Arc<CryptoProvider>,
}

impl Credentials {
    /// Reads the files and makes sure they are this region's.
    pub fn load(ca: &Path, cert: &Path, key: &Path, cluster_id: &str, region: &RegionName) -> Result<Self, TlsError> {
        let roots = Arc::new(load_roots(ca)?);
        let chain = load_certificates(cert)?;
        let key = PrivateKeyDer::from_pem_file(key)
            .map_err(|error| TlsError::File(key.display().to_string(), error.to_string()))?;
        let expected = uri(cluster_id, region);
        let found = chain.first().and_then(|certificate| uri_name(certificate));
        if found.as_deref() != Some(expected.as_str()) {
            return Err(TlsError::OtherRegion { file: cert.display().to_string(), found, expected });
        }
        show_end("node", &chain);
        show_end("ca", &load_certificates(ca)?);
        Ok(Self { roots, chain, key, provider: Arc::new(ring::default_provider()) })
    }

    /// The authorities whose certificates of signing keys are believed: those of connections, and `former` ones, if there are
    /// any. Connections are made anew, and what was signed stays.
    pub fn signing_roots(&self, former: Option<&Path>) -> Result<Arc<RootCertStore>, TlsError> {
        let Some(former) = former else { return Ok(self.roots.clone()) };
        let mut roots = load_roots(former)?;
        roots.roots.extend_from_slice(&self.roots.roots);
        Ok(Arc::new(roots))
    }

    /// How we answer.
    pub(super) fn server_config(&self) -> Result<quinn::ServerConfig, TlsError> {
        let quic =
            QuicServerConfig::try_from(self.server_tls()?).map_err(|error| TlsError::Unfit(error.to_string()))?;
        let mut config = quinn::ServerConfig::with_crypto(Arc::new(quic));
        config.transport_config(Arc::new(transport_config()));
        config.max_incoming(64);
        Ok(config)
    }

    pub(super) fn server_tls(&self) -> Result<rustls::ServerConfig, TlsError> {
        let unfit = |error: &dyn std::fmt::Display| TlsError::Unfit(error.to_string());
        let clients = WebPkiClientVerifier::builder_with_provider(self.roots.clone(), self.provider.clone())
            .build()
            .map_err(|error| unfit(&error))?;
        let mut tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unfit(&error))?
            .with_client_cert_verifier(clients)
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| unfit(&error))?;
        tls.alpn_protocols = vec![ALPN.to_vec(), snapshot::ALPN.to_vec(), moving::ALPN.to_vec()];
        // A resumed session would outlive its certificate.
        tls.session_storage = Arc::new(NoServerSessionStorage {});
        tls.send_tls13_tickets = 0;
        Ok(tls)
    }

    /// How we call, and what for.
    pub(super) fn client_config(&self, alpn: &[u8]) -> Result<quinn::ClientConfig, TlsError> {
        let tls = self.client_tls(alpn)?;
        let quic = QuicClientConfig::try_from(tls).map_err(|error| TlsError::Unfit(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(quic));
        config.transport_config(Arc::new(transport_config()));
        Ok(config)
    }

    pub(super) fn client_tls(&self, alpn: &[u8]) -> Result<rustls::ClientConfig, TlsError> {
        let unfit = |error: &dyn std::fmt::Display| TlsError::Unfit(error.to_string());
        let verifier = AnyNameOfOurs { roots: self.roots.clone(), provider: self.provider.clone() };
        let mut tls = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| unfit(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(|error| unfit(&error))?;
        tls.alpn_protocols = vec![alpn.to_vec()];
        tls.resumption = Resumption::disabled();
        Ok(tls)
    }
}

fn transport_config() -> TransportConfig {
    let mut config = TransportConfig::default();
    config
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(u64::from(CONNECTION_WINDOW))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE).expect("fifteen seconds fit")))
        .max_concurrent_bidi_streams(VarInt::from_u32(1))
        .max_concurrent_uni_streams(VarInt::from_u32(4))
        .datagram_receive_buffer_size(None);
    config
}

pub(super) fn load_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let name = || file.display().to_string();
    let certificates = CertificateDer::pem_file_iter(file)
        .map_err(|error| TlsError::File(name(), error.to_string()))?
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| TlsError::File(name(), error.to_string()))?;
    if certificates.is_empty() {
        return Err(TlsError::File(name(), "there is no certificate in it".to_owned()));
    }
    Ok(certificates)
}

fn load_roots(file: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in load_certificates(file)? {
        roots.add(certificate).map_err(|error| TlsError::File(file.display().to_string(), error.to_string()))?;
    }
    Ok(roots)
}

/// Shows when the first of these certificates to end does.
pub(super) fn show_end(which: &'static str, certificates: &[CertificateDer<'_>]) {
    let ends = certificates.iter().filter_map(|certificate| {
        let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
        Some(parsed.validity().not_after.timestamp())
    });
    if let Some(end) = ends.min() {
        metrics::gauge!("global_sync_certificate_not_after_seconds", "certificate" => which).set(end as f64);
    }
}

/// The name a region's certificates carry.
pub(super) fn uri(cluster_id: &str, region: &RegionName) -> String {
    format!("gocomet://{cluster_id}/{region}")
}

/// The URI name in a certificate.
pub(super) fn uri_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, parsed) = x509_parser::certificate::X509Certificate::from_der(certificate).ok()?;
    let names = parsed.subject_alternative_name().ok()??;
    names.value.general_names.iter().find_map(|name| match name {
        GeneralName::URI(uri) if uri.starts_with("gocomet://") => Some((*uri).to_owned()),
        _ => None,
    })
}

/// The region a peer's certificate names, if it is of our mesh.
pub(super) fn region_of(connection: &quinn::Connection, cluster_id: &str) -> Option<RegionName> {
    let chain = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    let uri = uri_name(chain.first()?)?;
    uri.strip_prefix("gocomet://")?.strip_prefix(cluster_id)?.strip_prefix('/')?.parse().ok()
}

/// Whether whoever called did so under this name.
pub(super) fn called_for(connection: &quinn::Connection, alpn: &[u8]) -> bool {
    let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
    data.is_some_and(|data| data.protocol.as_deref() == Some(alpn))
}

/// Verifies that a server's certificate is the authority's; which region it names is looked at once the connection
/// stands, by both sides alike.
#[derive(Debug)]
struct AnyNameOfOurs {
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyNameOfOurs {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        verify_server_cert_signed_by_trust_anchor(&certificate, &self.roots, intermediates, now, algorithms)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC is TLS 1.3".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        None
    }
}
