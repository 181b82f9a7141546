//! How a program reads its settings: defaults embedded in it, then a file, then the environment.

use std::path::Path;

use figment::{
    Figment,
    providers::{Env, Format, Toml},
};
use serde::de::DeserializeOwned;

/// A setting is missing, misspelt or out of range. Its message is one line that names the setting and its source.
#[derive(Debug, thiserror::Error)]
#[error("configuration: {0}")]
pub struct ConfigError(String);

impl ConfigError {
    /// `message` names the setting and what to do about it, in one line.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// Reads settings from `defaults` (TOML, embedded), over it `file`, over it variables that start with `env_prefix`, whose
/// levels are parted by two underscores: `REGION_NODE_HTTP__LISTEN`.
pub fn load<T: DeserializeOwned>(defaults: &str, file: Option<&Path>, env_prefix: &str) -> Result<T, ConfigError> {
    let mut figment = Figment::from(Toml::string(defaults));
    if let Some(file) = file {
        if !file.is_file() {
            return Err(ConfigError(format!(
                "there is no file {}: name one that exists with --config",
                file.display()
            )));
        }
        figment = figment.merge(Toml::file_exact(file));
    }
    figment.merge(Env::prefixed(env_prefix).split("__")).extract().map_err(|error| {
        let setting = error.path.join(".");
        let variable = format!("{env_prefix}{}", error.path.join("__").to_uppercase());
        ConfigError(if setting.is_empty() {
            error.to_string()
        } else {
            format!("{setting}: {}; set it in the file or as {variable}", error.kind)
        })
    })
}
