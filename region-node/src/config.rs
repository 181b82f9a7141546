//! Every setting of `region-node`; `config.default.toml` explains them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    num::{NonZeroU32, NonZeroUsize},
    path::Path,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use shared::{
    config::{ConfigError, Secret},
    ids::RegionName,
    telemetry::TelemetryConfig,
};
use url::Url;

use crate::{
    dispatch::DispatchConfig,
    drivers::DriversConfig,
    http::{ForwardedHeader, Networks, Origins},
    payments::PspConfig,
    retention::RetentionConfig,
    rides::RideConfig,
    travel::TravelConfig,
    trips::TripConfig,
};

const DEFAULTS: &str = include_str!("../config.default.toml");
/// What no configuration file may hold.
const SECRETS: [Secret; 5] = [
    Secret { setting: "operator.client_secret", has_file: false },
    Secret { setting: "secrets.master_key", has_file: false },
    Secret { setting: "psp.sandbox.webhook_secret", has_file: false },
    Secret { setting: "psp.stripe.accounts.*.secret_key", has_file: true },
    Secret { setting: "psp.stripe.accounts.*.webhook_secret", has_file: true },
];

/// All settings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub role: NodeRole,
    pub region: RegionConfig,
    pub http: HttpConfig,
    pub database: DatabaseConfig,
    pub redis: RedisConfig,
    #[serde(default)]
    pub sync: SyncConfig,
    #[serde(default)]
    pub operator: Option<OperatorConfig>,
    #[serde(default)]
    pub secrets: SecretsConfig,
    pub tokens: TokensConfig,
    pub edge: EdgeConfig,
    pub limits: LimitsConfig,
    pub rides: RideConfig,
    pub trips: TripConfig,
    pub drivers: DriversConfig,
    pub psp: PspConfig,
    pub dispatch: DispatchConfig,
    pub travel: TravelConfig,
    pub retention: RetentionConfig,
    pub telemetry: TelemetryConfig,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeRole {
    /// A region's whole node, on its own database.
    Full,
    /// An edge near riders, without a database.
    Edge,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegionConfig {
    pub name: RegionName,
    pub cluster_id: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    pub internal_listen: Option<SocketAddr>,
    pub public_url: Url,
    pub body_limit_bytes: usize,
    #[serde(with = "humantime_serde")]
    pub request_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub header_read_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub write_timeout: Duration,
    pub max_connections: NonZeroUsize,
    pub cors_origins: Origins,
    pub trusted_proxies: Networks,
    pub forwarded_header: ForwardedHeader,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    pub url: Option<SecretString>,
    pub system_url: Option<SecretString>,
    pub migrate_url: Option<SecretString>,
    pub max_connections: u32,
    #[serde(with = "humantime_serde")]
    pub acquire_timeout: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedisConfig {
    pub url: SecretString,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SyncConfig {
    pub status_url: Option<Url>,
    pub quic_addr: Option<HostAndPort>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OperatorConfig {
    pub client_id: String,
    pub client_secret: SecretString,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SecretsConfig {
    pub master_key: Option<SecretString>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokensConfig {
    #[serde(with = "humantime_serde")]
    pub access_ttl: Duration,
    #[serde(with = "humantime_serde")]
    pub refresh_ttl: Duration,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EdgeConfig {
    pub upstream: Option<Upstreams>,
    #[serde(default)]
    pub peers: PeerUrls,
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub forward_timeout: Duration,
    #[serde(with = "humantime_serde")]
    pub directory_refresh: Duration,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitsConfig {
    pub connections_per_minute: NonZeroU32,
    pub new_sockets_per_second: NonZeroU32,
    pub positions_per_second: NonZeroU32,
    pub socket_events_per_second: NonZeroU32,
    pub requests_per_second: NonZeroU32,
    pub requests_burst: NonZeroU32,
    pub sign_ins_per_minute: NonZeroU32,
}

/// `url,url`, at least one.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Upstreams(pub Vec<Url>);

impl TryFrom<String> for Upstreams {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let parse = |entry: &str| match entry.parse::<Url>() {
            Ok(url) if url.has_host() => Ok(url),
            _ => Err(format!("'{entry}' is not an address like http://node:8080")),
        };
        match entries.map(parse).collect::<Result<Vec<_>, _>>()? {
            urls if urls.is_empty() => Err("must name at least one full node".to_owned()),
            urls => Ok(Self(urls)),
        }
    }
}

/// `region=url,region=url`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "String")]
pub struct PeerUrls(pub BTreeMap<RegionName, Url>);

impl TryFrom<String> for PeerUrls {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty());
        let parse = |entry: &str| {
            let (region, url) = entry.split_once('=').ok_or_else(|| format!("'{entry}' is not region=url"))?;
            let region = region.parse::<RegionName>().map_err(|error| error.to_string())?;
            let url = url.parse::<Url>().map_err(|error| format!("'{url}': {error}"))?;
            Ok::<_, String>((region, url))
        };
        entries.map(parse).collect::<Result<_, _>>().map(Self)
    }
}

/// `host:port`; the host may be a name, since a balancer's or a container's address moves.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostAndPort(String);

impl TryFrom<String> for HostAndPort {
    type Error = String;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Self(text)),
            _ => Err(format!("'{text}' is not host:port")),
        }
    }
}

impl std::fmt::Display for HostAndPort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// What role `full` needs beyond the settings every role has; checked once, at start.
#[derive(Clone, Debug)]
pub struct FullConfig {
    pub database_url: SecretString,
    pub system_url: SecretString,
    pub master_key: [u8; 32],
}

impl Config {
    /// Reads the settings; the error is one line that names the setting and the fix.
    pub fn load(file: Option<&Path>) -> Result<Self, ConfigError> {
        let config: Self = shared::config::load(DEFAULTS, file, "REGION_NODE_", &SECRETS)?;
        if let Some(operator) = &config.operator
            && operator.client_secret.expose_secret().len() < 16
        {
            return Err(ConfigError::new("operator.client_secret: must have at least 16 characters"));
        }
        Ok(config)
    }

    /// Settings over the defaults, for tests.
    #[cfg(test)]
    pub(crate) fn from_toml(settings: &[&str]) -> anyhow::Result<Self> {
        use figment::providers::{Format, Toml};
        let defaults = figment::Figment::from(Toml::string(DEFAULTS));
        Ok(settings.iter().fold(defaults, |settings, over| settings.merge(Toml::string(over))).extract()?)
    }

    /// The settings role `full` cannot do without.
    pub fn full(&self) -> Result<FullConfig, ConfigError> {
        fn required<T: Clone>(value: Option<&T>, setting: &str) -> Result<T, ConfigError> {
            let variable = setting.to_uppercase().replace('.', "__");
            value
                .cloned()
                .ok_or_else(|| ConfigError::new(format!("{setting} is missing; set it as REGION_NODE_{variable}")))
        }
        let master_key = required(self.secrets.master_key.as_ref(), "secrets.master_key")?;
        let master_key = STANDARD
            .decode(master_key.expose_secret())
            .ok()
            .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
            .ok_or_else(|| {
                ConfigError::new(
                    "secrets.master_key: must be base64 of 32 bytes; make one with: openssl rand -base64 32",
                )
            })?;
        Ok(FullConfig {
            database_url: required(self.database.url.as_ref(), "database.url")?,
            system_url: required(self.database.system_url.as_ref(), "database.system_url")?,
            master_key,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_holds_a_secret_of_the_node_is_refused_and_the_fix_is_named() {
        let file = std::env::temp_dir().join(format!("region-node-{}.toml", uuid::Uuid::now_v7()));
        for (section, name, fix) in [
            ("operator", "client_secret", "set it as REGION_NODE_OPERATOR__CLIENT_SECRET"),
            ("secrets", "master_key", "set it as REGION_NODE_SECRETS__MASTER_KEY"),
            ("psp.sandbox", "webhook_secret", "set it as REGION_NODE_PSP__SANDBOX__WEBHOOK_SECRET"),
            ("psp.stripe.accounts.acme", "secret_key", "in psp.stripe.accounts.acme.secret_key_file"),
            ("psp.stripe.accounts.acme", "webhook_secret", "in psp.stripe.accounts.acme.webhook_secret_file"),
        ] {
            std::fs::write(&file, format!("[{section}]\n{name} = \"hunter2\"")).unwrap();
            let refused = Config::load(Some(&file)).unwrap_err().to_string();
            assert!(refused.contains(&format!("{section}.{name}: a secret")) && refused.contains(fix), "{refused}");
        }
        std::fs::remove_file(&file).unwrap();
    }

    #[test]
    fn an_announced_address_may_be_a_name() {
        for address in ["127.0.0.1:7002", "[::1]:7002", "sync.us-east.example.org:7400"] {
            assert_eq!(HostAndPort::try_from(address.to_owned()).unwrap().to_string(), address);
        }
        for wrong in ["sync.us-east.example.org", ":7400", "host:port", "host:70000"] {
            assert!(HostAndPort::try_from(wrong.to_owned()).unwrap_err().contains("host:port"), "{wrong}");
        }
    }

    #[test]
    fn peers_are_read_as_region_and_url() {
        let peers = PeerUrls::try_from("eu-west=http://127.0.0.1:1, ap-south=http://127.0.0.1:2".to_owned()).unwrap();
        assert_eq!(peers.0.len(), 2);
        assert!(PeerUrls::try_from("eu-west".to_owned()).unwrap_err().contains("region=url"));
    }

    #[test]
    fn an_edge_may_have_several_upstreams() {
        let upstreams = Upstreams::try_from("http://127.0.0.1:1, http://node-2:8080".to_owned()).unwrap();
        assert_eq!(
            upstreams.0.iter().map(Url::as_str).collect::<Vec<_>>(),
            ["http://127.0.0.1:1/", "http://node-2:8080/"]
        );
        for wrong in ["", " , ", "node-2:8080", "http://node-1,nonsense"] {
            assert!(Upstreams::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
