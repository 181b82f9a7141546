//! How a program reads its settings: defaults embedded in it, then a file, then the environment. Secrets come from the
//! environment, or from files of their own.

use std::path::Path;

use figment::{
    Figment,
    error::{Actual, Kind},
    providers::{Format, Toml},
    value::{Dict, Value},
};
use serde::de::DeserializeOwned;
use url::Url;

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

/// A setting that is a secret.
#[derive(Clone, Copy, Debug)]
pub struct Secret {
    /// Such as `accounts.*.key`, where the asterisk stands for any name.
    pub setting: &'static str,
    /// Whether `<setting>_file` may name a file that holds it.
    pub has_file: bool,
}

impl Secret {
    fn is_at(&self, path: &[&str]) -> bool {
        let names: Vec<_> = self.setting.split('.').collect();
        names.len() == path.len() && names.iter().zip(path).all(|(name, at)| *name == "*" || name == at)
    }
}

/// Reads settings from `defaults` (TOML, embedded), over it `file`, over it variables that start with `env_prefix`, whose
/// levels are parted by two underscores: `REGION_NODE_HTTP__LISTEN`. A `file` that holds one of the `secrets`, or a password in an
/// address, is refused: it is read by more people, and kept in more places, than a secret should be.
pub fn load<T: DeserializeOwned>(
    defaults: &str,
    file: Option<&Path>,
    env_prefix: &str,
    secrets: &[Secret],
) -> Result<T, ConfigError> {
    let variables =
        std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)));
    load_with(defaults, file, env_prefix, secrets, variables)
}

fn load_with<T: DeserializeOwned>(
    defaults: &str,
    file: Option<&Path>,
    env_prefix: &str,
    secrets: &[Secret],
    variables: impl IntoIterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let mut figment = Figment::from(Toml::string(defaults));
    if let Some(file) = file {
        if !file.is_file() {
            return Err(ConfigError(format!(
                "there is no file {}: name one that exists with --config",
                file.display()
            )));
        }
        let file = Toml::file_exact(file);
        // What is no TOML is refused below.
        if let Ok(values) = Figment::from(&file).extract::<Dict>() {
            refuse_secrets(&values, env_prefix, secrets)?;
        }
        figment = figment.merge(file);
    }
    let of_setting = |(name, text): (String, String)| {
        let setting = name.get(env_prefix.len()..)?.to_lowercase().replace("__", ".");
        name[..env_prefix.len()].eq_ignore_ascii_case(env_prefix).then_some((setting, text))
    };
    let mut variables: Vec<_> = variables.into_iter().filter_map(of_setting).collect();
    for (setting, text) in &variables {
        let value: Value = text.parse().expect("whatever is nothing else reads as text");
        figment = figment.merge((setting, value));
    }
    loop {
        let error = match figment.extract() {
            Ok(settings) => return Ok(settings),
            Err(error) => error,
        };
        // A variable has no type: one of digits alone reads as a number, and may be a secret all the same.
        let setting = error.path.join(".");
        let is_text = matches!(&error.kind, Kind::InvalidType(found, expected) if expected == "a string" && !matches!(found, Actual::Str(_)));
        match variables.iter().position(|(name, _)| is_text && *name == setting) {
            Some(index) => figment = figment.merge(variables.swap_remove(index)),
            None => return Err(explain(&error, env_prefix, secrets)),
        }
    }
}

fn refuse_secrets(values: &Dict, env_prefix: &str, secrets: &[Secret]) -> Result<(), ConfigError> {
    for (path, text) in texts(values, &[]) {
        let (setting, variable) = (path.join("."), variable(env_prefix, &path));
        if secrets.iter().any(|secret| secret.is_at(&path)) {
            let fix = fix(&path, env_prefix, secrets);
            return Err(ConfigError(format!("{setting}: a secret does not belong in the file; {fix}")));
        }
        if Url::parse(text).is_ok_and(|url| url.password().is_some()) {
            return Err(ConfigError(format!(
                "{setting}: a password does not belong in the file; set it as {variable}"
            )));
        }
    }
    Ok(())
}

/// Every text among `values`, with the names that lead to it.
fn texts<'a>(values: &'a Dict, path: &[&'a str]) -> Vec<(Vec<&'a str>, &'a str)> {
    let at = |(name, value): (&'a String, &'a Value)| {
        let path = [path, &[name.as_str()]].concat();
        match (value.as_dict(), value.as_str()) {
            (Some(values), _) => texts(values, &path),
            (None, Some(text)) => vec![(path, text)],
            (None, None) => Vec::new(),
        }
    };
    values.iter().flat_map(at).collect()
}

fn variable(env_prefix: &str, path: &[&str]) -> String {
    format!("{env_prefix}{}", path.join("__").to_uppercase())
}

/// Where a setting is to be set.
fn fix(path: &[&str], env_prefix: &str, secrets: &[Secret]) -> String {
    let variable = variable(env_prefix, path);
    match secrets.iter().find(|secret| secret.is_at(path)) {
        None => format!("set it in the file or as {variable}"),
        Some(secret) if secret.has_file => {
            format!("set it as {variable}, or name a file that holds it in {}_file", path.join("."))
        }
        Some(_) => format!("set it as {variable}"),
    }
}

/// One line: the setting, what is wrong with it, and where to set it.
fn explain(error: &figment::Error, env_prefix: &str, secrets: &[Secret]) -> ConfigError {
    let mut path = error.path.clone();
    let wrong = match &error.kind {
        Kind::MissingField(field) => {
            path.push(field.to_string());
            "is missing".to_owned()
        }
        // What was found is named by its kind alone: it may be a secret.
        Kind::InvalidType(found, expected) | Kind::InvalidValue(found, expected) => {
            format!("must be {expected}, not {}", in_words(found))
        }
        kind => kind.to_string(),
    };
    if path.is_empty() {
        return ConfigError(wrong);
    }
    let path: Vec<_> = path.iter().map(String::as_str).collect();
    ConfigError(format!("{}: {wrong}; {}", path.join("."), fix(&path, env_prefix, secrets)))
}

fn in_words(found: &Actual) -> &'static str {
    match found {
        Actual::Bool(_) => "true or false",
        Actual::Unsigned(_) | Actual::Signed(_) | Actual::Float(_) => "a number",
        Actual::Char(_) | Actual::Str(_) => "this text",
        Actual::Seq => "a list",
        Actual::Map => "a table",
        _ => "this",
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        http: Http,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Http {
        port: u16,
        #[serde(default)]
        secret: String,
        #[serde(default)]
        upstream: String,
        #[serde(default)]
        origins: Vec<String>,
    }

    fn refusal(defaults: &str) -> String {
        load::<Settings>(defaults, None, "NOT_SET_IN_TESTS_", &[]).unwrap_err().to_string()
    }

    #[test]
    fn a_refusal_is_one_line_that_names_setting_and_variable() {
        let fix = "set it in the file or as NOT_SET_IN_TESTS_HTTP__PORT";
        assert_eq!(refusal("[http]"), format!("configuration: http.port: is missing; {fix}"));
        assert!(refusal("[http]\nport = 'x'").ends_with(fix));
        assert!(refusal("[http]\nport = 1\nprot = 2").contains("prot"));
        assert_eq!(
            refusal("[http]\nport = 1\nsecret = 7"),
            "configuration: http.secret: must be a string, not a number; set it in the file or as NOT_SET_IN_TESTS_HTTP__SECRET"
        );
        assert!(
            load::<Settings>("", Some(Path::new("/no/such/file")), "X_", &[])
                .unwrap_err()
                .to_string()
                .contains("--config")
        );
    }

    const SECRETS: [Secret; 2] =
        [Secret { setting: "http.secret", has_file: false }, Secret { setting: "accounts.*.key", has_file: true }];

    fn from_file(text: &str, variables: &[(&str, &str)]) -> Result<Settings, String> {
        let file = std::env::temp_dir().join(format!("settings-{}.toml", uuid::Uuid::now_v7()));
        std::fs::write(&file, text).unwrap();
        let variables = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        let settings = load_with("[http]\nport = 1", Some(&file), "REGION_", &SECRETS, variables);
        std::fs::remove_file(&file).unwrap();
        settings.map_err(|error| error.to_string())
    }

    #[test]
    fn a_file_with_a_secret_or_a_password_in_it_is_refused_in_one_line_that_names_the_fix_and_not_the_secret() {
        let refusal = |text| from_file(text, &[]).unwrap_err();
        assert_eq!(
            refusal("[http]\nsecret = 'hunter2'"),
            "configuration: http.secret: a secret does not belong in the file; set it as REGION_HTTP__SECRET"
        );
        assert_eq!(
            refusal("[accounts.acme]\nkey = 'hunter2'"),
            "configuration: accounts.acme.key: a secret does not belong in the file; set it as REGION_ACCOUNTS__ACME__KEY, or name \
             a file that holds it in accounts.acme.key_file"
        );
        assert_eq!(
            refusal("[database]\nurl = 'postgres://app:hunter2@db/app'"),
            "configuration: database.url: a password does not belong in the file; set it as REGION_DATABASE__URL"
        );
        assert!(!refusal("[http]\nsecret = 7").contains("in the file or"));
    }

    #[test]
    fn a_secret_in_the_environment_and_an_address_without_a_password_in_the_file_are_taken() {
        let file = "[http]\nupstream = 'https://somebody@example.org'";
        let settings = from_file(file, &[("REGION_HTTP__SECRET", "hunter2")]).unwrap();
        assert_eq!(
            (settings.http.secret.as_str(), settings.http.upstream.as_str()),
            ("hunter2", "https://somebody@example.org")
        );
        let settings = from_file(file, &[("REGION_HTTP__UPSTREAM", "https://somebody:hunter2@example.org")]).unwrap();
        assert_eq!(settings.http.upstream, "https://somebody:hunter2@example.org");
    }

    fn from_variables(variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
        let variables = variables.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned()));
        load_with("[http]\nport = 1", None, "REGION_", &[], variables)
    }

    #[test]
    fn a_secret_of_digits_in_the_environment_is_text() {
        for secret in ["0123456789012345", "1e5", "true", "[1,2]", "plain", "-7", "{}"] {
            let settings = from_variables(&[("REGION_HTTP__SECRET", secret), ("region_http__port", "8080")]).unwrap();
            assert_eq!((settings.http.secret.as_str(), settings.http.port), (secret, 8080));
        }
        let listed = from_variables(&[("REGION_HTTP__ORIGINS", "[\"https://a\", \"https://b\"]"), ("OTHER_HTTP", "x")]);
        assert_eq!(listed.unwrap().http.origins, ["https://a", "https://b"]);
    }

    #[test]
    fn what_is_wrong_with_a_setting_is_said_without_its_value() {
        let refusal = |text| from_variables(&[("REGION_HTTP__PORT", text)]).unwrap_err().to_string();
        for (value, said) in [("70707070", "a number"), ("hunter2", "this text"), ("[8]", "a list")] {
            let refusal = refusal(value);
            assert!(refusal.contains("http.port") && refusal.contains(said) && !refusal.contains(value), "{refusal}");
        }
    }
}
