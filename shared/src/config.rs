//! How a program reads its settings: defaults embedded in it, then a file, then the environment.

use std::path::Path;

use figment::{
    Figment,
    error::Kind,
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
    figment.merge(Env::prefixed(env_prefix).split("__")).extract().map_err(|error| explain(&error, env_prefix))
}

/// One line: the setting, what is wrong with it, and where to set it.
fn explain(error: &figment::Error, env_prefix: &str) -> ConfigError {
    let mut path = error.path.clone();
    let wrong = match &error.kind {
        Kind::MissingField(field) => {
            path.push(field.to_string());
            "is missing".to_owned()
        }
        kind => kind.to_string(),
    };
    if path.is_empty() {
        return ConfigError(wrong);
    }
    let variable = format!("{env_prefix}{}", path.join("__").to_uppercase());
    ConfigError(format!("{}: {wrong}; set it in the file or as {variable}", path.join(".")))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        #[expect(dead_code, reason = "only its reading is tested")]
        http: Http,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Http {
        #[expect(dead_code, reason = "only its reading is tested")]
        port: u16,
    }

    fn refusal(defaults: &str) -> String {
        load::<Settings>(defaults, None, "NOT_SET_IN_TESTS_").unwrap_err().to_string()
    }

    #[test]
    fn a_refusal_is_one_line_that_names_setting_and_variable() {
        let fix = "set it in the file or as NOT_SET_IN_TESTS_HTTP__PORT";
        assert_eq!(refusal("[http]"), format!("configuration: http.port: is missing; {fix}"));
        assert!(refusal("[http]\nport = 'x'").ends_with(fix));
        assert!(refusal("[http]\nport = 1\nprot = 2").contains("prot"));
        assert!(
            load::<Settings>("", Some(Path::new("/no/such/file")), "X_").unwrap_err().to_string().contains("--config")
        );
    }
}
