use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use shared::{config::ConfigError, ids::TenantId};
use url::{Host, Url};

/// Stripe and our accounts there.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StripeConfig {
    /// Where Stripe's API is.
    pub base_url: Url,
    /// By the name tenants' config knows an account by.
    #[serde(default)]
    pub accounts: BTreeMap<String, StripeAccountConfig>,
}

/// One account at Stripe. Each secret comes from the environment or stands in a file of its own.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StripeAccountConfig {
    /// Whether it is meant to move real money.
    #[serde(default)]
    pub mode: StripeMode,
    /// The companies that are charged through it; no other can name it.
    #[serde(default)]
    pub tenants: BTreeSet<TenantId>,
    #[serde(default)]
    pub secret_key: Option<SecretString>,
    #[serde(default)]
    pub secret_key_file: Option<PathBuf>,
    #[serde(default)]
    pub webhook_secret: Option<SecretString>,
    #[serde(default)]
    pub webhook_secret_file: Option<PathBuf>,
}

/// Whether money moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StripeMode {
    #[default]
    Live,
    Test,
}

impl StripeConfig {
    /// Secrets must not cross a network in the clear, and an account nobody may use is a mistake.
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if let Some((name, _)) = self.accounts.iter().find(|(_, account)| account.tenants.is_empty()) {
            let setting = format!("psp.stripe.accounts.{name}.tenants");
            return Err(ConfigError::new(format!("{setting}: name the tenants that are charged through this account")));
        }
        let is_loopback = match self.base_url.host() {
            Some(Host::Domain(name)) => name == "localhost",
            Some(Host::Ipv4(address)) => address.is_loopback(),
            Some(Host::Ipv6(address)) => address.is_loopback(),
            None => false,
        };
        if self.base_url.scheme() == "https" || is_loopback {
            return Ok(());
        }
        Err(ConfigError::new("psp.stripe.base_url: must be https, unless it is on this machine"))
    }
}

impl StripeAccountConfig {
    /// The key that orders are signed in with. `name` is the account's.
    pub(super) fn secret_key(&self, name: &str) -> Result<SecretString, ConfigError> {
        let (setting, variable) = secret_key_setting(name);
        let key = read(self.secret_key.as_ref(), self.secret_key_file.as_ref(), &setting)?.ok_or_else(|| {
            ConfigError::new(format!("{setting} is missing; set {setting}_file in the file, or {variable}"))
        })?;
        let (prefixes, mode) = match self.mode {
            StripeMode::Live => (["sk_live_", "rk_live_"], "live"),
            StripeMode::Test => (["sk_test_", "rk_test_"], "test"),
        };
        if prefixes.iter().any(|prefix| key.expose_secret().starts_with(prefix)) {
            return Ok(key);
        }
        Err(ConfigError::new(format!(
            "{setting}: must begin with {} or {}, since the account's mode is {mode}",
            prefixes[0], prefixes[1]
        )))
    }

    /// What webhooks are signed with: one secret, or several divided by commas while they are changed.
    pub(super) fn webhook_secrets(&self, name: &str) -> Result<Vec<SecretString>, ConfigError> {
        let setting = format!("psp.stripe.accounts.{name}.webhook_secret");
        let Some(secrets) = read(self.webhook_secret.as_ref(), self.webhook_secret_file.as_ref(), &setting)? else {
            return Ok(Vec::new());
        };
        let secrets = secrets.expose_secret().split(',').map(str::trim).filter(|secret| !secret.is_empty());
        Ok(secrets.map(|secret| SecretString::from(secret.to_owned())).collect())
    }
}

/// Where an account's secret key is set: in the file, and in the environment.
pub(in crate::payments::psp) fn secret_key_setting(account: &str) -> (String, String) {
    let setting = format!("psp.stripe.accounts.{account}.secret_key");
    let variable = format!("REGION_NODE_{}", setting.to_uppercase().replace('.', "__"));
    (setting, variable)
}

fn read(
    given: Option<&SecretString>,
    file: Option<&PathBuf>,
    setting: &str,
) -> Result<Option<SecretString>, ConfigError> {
    match (given, file) {
        (Some(_), Some(_)) => Err(ConfigError::new(format!("set either {setting} or {setting}_file, not both"))),
        (Some(secret), None) => Ok(Some(secret.clone())),
        (None, None) => Ok(None),
        (None, Some(file)) => match std::fs::read_to_string(file) {
            Ok(text) => Ok(Some(SecretString::from(text.trim().to_owned()))),
            Err(error) => Err(ConfigError::new(format!("{setting}_file: {} cannot be read: {error}", file.display()))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account(mode: StripeMode, key: Option<&str>) -> StripeAccountConfig {
        let secret_key = key.map(|key| SecretString::from(key.to_owned()));
        StripeAccountConfig {
            mode,
            tenants: BTreeSet::from(["acme-cabs".parse().unwrap()]),
            secret_key,
            secret_key_file: None,
            webhook_secret: Some(SecretString::from("whsec_new, whsec_old".to_owned())),
            webhook_secret_file: None,
        }
    }

    #[test]
    fn a_missing_or_misplaced_key_is_named_with_the_fix_and_never_shown() {
        let missing = account(StripeMode::Live, None).secret_key("acme").unwrap_err().to_string();
        assert!(missing.contains("REGION_NODE_PSP__STRIPE__ACCOUNTS__ACME__SECRET_KEY"), "{missing}");
        let wrong = account(StripeMode::Test, Some("sk_live_1234")).secret_key("acme").unwrap_err().to_string();
        assert!(wrong.contains("sk_test_") && !wrong.contains("1234"), "{wrong}");
        let good = account(StripeMode::Test, Some("sk_test_1234"));
        assert!(good.secret_key("acme").is_ok());
        assert!(!format!("{good:?}").contains("1234"));
        assert_eq!(good.webhook_secrets("acme").unwrap().len(), 2);
        let gone =
            StripeAccountConfig { secret_key_file: Some("/no/such/file".into()), ..account(StripeMode::Test, None) };
        assert!(gone.secret_key("acme").unwrap_err().to_string().contains("/no/such/file"));
        let both = StripeAccountConfig { secret_key_file: Some("/no/such/file".into()), ..good };
        assert!(both.secret_key("acme").unwrap_err().to_string().contains("either"));
    }

    #[test]
    fn an_account_is_some_tenants_own() {
        let nobody_s = StripeAccountConfig { tenants: BTreeSet::new(), ..account(StripeMode::Test, Some("sk_test_1")) };
        let accounts = BTreeMap::from([("acme".to_owned(), nobody_s)]);
        let refused = StripeConfig { base_url: "https://api.stripe.com".parse().unwrap(), accounts }.check();
        let why = refused.unwrap_err().to_string();
        assert!(why.contains("psp.stripe.accounts.acme.tenants: name the tenants"), "{why}");
    }

    #[test]
    fn secrets_do_not_cross_a_network_in_the_clear() {
        let at = |url: &str| StripeConfig { base_url: url.parse().unwrap(), accounts: BTreeMap::new() }.check();
        assert!(
            at("https://api.stripe.com").is_ok() && at("http://127.0.0.1:1").is_ok() && at("http://[::1]:1").is_ok()
        );
        assert!(at("http://api.stripe.com").is_err());
    }
}
