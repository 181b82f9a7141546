//! Settings; `config.default.toml` explains each.

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, time::Duration};

use serde::Deserialize;
use shared::{config::ConfigError, ids::RegionName, telemetry::TelemetryConfig};

const DEFAULTS: &str = include_str!("../config.default.toml");

/// Everything global-sync can be told.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct Config {
    pub region: RegionConfig,
    pub database: DatabaseConfig,
    pub quic: QuicConfig,
    pub status: StatusConfig,
    pub tls: TlsConfig,
    pub signing: SigningConfig,
    pub numbering: NumberingConfig,
    pub log: LogConfig,
    pub digest: DigestConfig,
    pub telemetry: TelemetryConfig,
    #[serde(deserialize_with = "peers")]
    pub peers: BTreeMap<RegionName, String>,
}

/// Who this is.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct RegionConfig {
    pub name: RegionName,
    pub cluster_id: String,
}

/// The region's Postgres.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct DatabaseConfig {
    pub url: secrecy::SecretString,
    pub max_connections: u32,
    #[serde(with = "humantime_serde")]
    pub wait_for_schema: Duration,
}

/// The way to other regions.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct QuicConfig {
    pub listen: SocketAddr,
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
}

/// What operators see.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct StatusConfig {
    pub listen: SocketAddr,
}

/// Certificates of connections.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct TlsConfig {
    pub ca_file: PathBuf,
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    #[serde(with = "humantime_serde")]
    pub reload_every: Duration,
}

/// The key of this region's facts.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct SigningConfig {
    #[serde(default)]
    pub former_ca_file: Option<PathBuf>,
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
}

/// How facts get their numbers.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct NumberingConfig {
    #[serde(with = "humantime_serde")]
    pub every: Duration,
}

/// How long entries are kept.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct LogConfig {
    #[serde(with = "humantime_serde")]
    pub keep: Duration,
    pub keep_entries: u64,
    #[serde(with = "humantime_serde")]
    pub drop_every: Duration,
}

/// How it is noticed that regions do not hold the same.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "config.default.toml explains every setting")]
pub struct DigestConfig {
    #[serde(with = "humantime_serde")]
    pub check_ledger_every: Duration,
    #[serde(with = "humantime_serde")]
    pub check_logs_every: Duration,
    #[serde(with = "humantime_serde")]
    pub compare_rows_every: Duration,
}

impl Config {
    /// Reads the defaults, a file and the environment.
    pub fn load(file: Option<&std::path::Path>) -> Result<Self, ConfigError> {
        shared::config::load(DEFAULTS, file, "GLOBAL_SYNC_", &[])
    }
}

fn peers<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<RegionName, String>, D::Error> {
    parse_peers(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn parse_peers(text: &str) -> Result<BTreeMap<RegionName, String>, String> {
    let mut peers = BTreeMap::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (region, address) = part.split_once('=').ok_or_else(|| format!("'{part}' is not region=host:port"))?;
        let region: RegionName = region.trim().parse().map_err(|error| format!("{error}"))?;
        let address = address.trim();
        let port =
            address.rsplit_once(':').and_then(|(host, port)| port.parse::<u16>().ok().filter(|_| !host.is_empty()));
        if port.is_none() {
            return Err(format!("'{address}' of {region} is not host:port"));
        }
        peers.insert(region, address.to_owned());
    }
    Ok(peers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_named_addresses() {
        let peers = parse_peers("eu-west=127.0.0.1:7002, ap-south=sync.example:7000,").unwrap();
        assert_eq!(peers.len(), 2);
        assert_eq!(peers[&"eu-west".parse::<RegionName>().unwrap()], "127.0.0.1:7002");
        for bad in ["eu-west", "eu-west=127.0.0.1", "EU=1.2.3.4:5", "eu-west=:7000", "eu-west=host:port"] {
            assert!(parse_peers(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_has_no_default_is_named_when_it_is_missing() {
        let error = Config::load(None).unwrap_err().to_string();
        assert!(error.starts_with("configuration: "), "{error}");
        assert!(error.contains("GLOBAL_SYNC_") || error.contains("region"), "{error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}
