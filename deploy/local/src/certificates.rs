//! The private certificate authority of a cluster, and what it signs for each region: a certificate for its connections
//! to other regions, and one for the Ed25519 key with which the region signs its facts.

use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PKCS_ED25519, SanType,
};

use crate::account::make_folder;
use crate::state::write_private;

/// A certificate authority, kept as `ca.pem` and `ca.key` so that a region added later is signed by the same.
pub(crate) struct Authority {
    folder: PathBuf,
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority in a folder.
    pub(crate) fn create(folder: &Path, cluster_id: &str) -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.distinguished_name.push(DnType::CommonName, format!("{cluster_id} private CA"));
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        write_private(&folder.join("ca.pem"), certificate.pem().as_bytes())?;
        write_private(&folder.join("ca.key"), key.serialize_pem().as_bytes())?;
        Ok(Self { folder: folder.to_owned(), pem: certificate.pem(), issuer: Issuer::new(params, key) })
    }

    /// The authority that was made in a folder earlier.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let read = |name: &str| {
            std::fs::read_to_string(folder.join(name))
                .with_context(|| format!("cannot read {name} in {}", folder.display()))
        };
        let pem = read("ca.pem")?;
        let issuer = Issuer::from_ca_cert_pem(&pem, KeyPair::from_pem(&read("ca.key")?)?)?;
        Ok(Self { folder: folder.to_owned(), pem, issuer })
    }

    /// Writes a region's folder: `ca.pem`, `node.pem`, `node.key`, `signing.pem`, `signing.key`.
    pub(crate) fn issue(&self, region: &str, cluster_id: &str) -> anyhow::Result<()> {
        let folder = self.folder.join(region);
        make_folder(&folder)?;
        let write = |name: &str, content: String| write_private(&folder.join(name), content.as_bytes());
        let node = KeyPair::generate()?;
        let signing = KeyPair::generate_for(&PKCS_ED25519)?;
        let usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        write("ca.pem", self.pem.clone())?;
        write("node.pem", params(cluster_id, region, usages)?.signed_by(&node, &self.issuer)?.pem())?;
        write("node.key", node.serialize_pem())?;
        write("signing.pem", params(cluster_id, region, Vec::new())?.signed_by(&signing, &self.issuer)?.pem())?;
        write("signing.key", signing.serialize_pem())
    }
}

fn params(cluster_id: &str, region: &str, usages: Vec<ExtendedKeyUsagePurpose>) -> anyhow::Result<CertificateParams> {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names)?;
    let uri = format!("gocomet://{cluster_id}/{region}");
    params
        .subject_alt_names
        .push(SanType::URI(uri.as_str().try_into().with_context(|| format!("{uri} is no name for a certificate"))?));
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, region);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = usages;
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_region_gets_all_five_files_with_keys_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("gocomet-certificates-{}", crate::secrets::hex(8)));
        make_folder(&folder).unwrap();
        Authority::create(&folder, "test").unwrap();
        Authority::open(&folder).unwrap().issue("us-east", "test").unwrap();
        let region = folder.join("us-east");
        for name in ["ca.pem", "node.pem", "node.key", "signing.pem", "signing.key"] {
            let file = region.join(name);
            assert!(std::fs::read_to_string(&file).unwrap().starts_with("-----BEGIN "), "{name}");
            assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o077, 0, "{name}");
        }
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
