//! The coordinator's configuration as it comes together: defaults, then the file, then environment
//! variables, then flags. Each layer goes over the ones before, key by key, and each key remembers where
//! its value came from.

use super::CoordinatorConfig;
use ptv2_common::error::Explained;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What a variable's name begins with; `limits.queue_limit` is `PTV2_LIMITS__QUEUE_LIMIT`.
const PREFIX: &str = "PTV2_";
/// What stands between the parts of a key in a variable's name.
const BETWEEN: &str = "__";

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// An environment variable.
    Variable(String),
    /// The command line.
    Flag(String),
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Variable(name) | Self::Flag(name) => f.write_str(name),
        }
    }
}

/// The layers so far.
#[derive(Debug, Clone)]
pub struct Layers {
    tree: Value,
    /// Of keys that are not at their default.
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    /// The defaults alone.
    ///
    /// # Errors
    /// None in practice: defaults can be written down.
    pub fn defaults() -> Result<Self, Explained> {
        let tree = serde_json::to_value(CoordinatorConfig::default());
        let tree = tree.map_err(|error| Explained::from_error(&error))?;
        Ok(Self { tree, origins: BTreeMap::new() })
    }

    /// Lays a file over them.
    ///
    /// # Errors
    /// Names the file, and the key and line where it is wrong.
    pub fn file(&mut self, path: &Path) -> Result<(), Explained> {
        let at = |error: Explained| error.at(path.display().to_string());
        let text = std::fs::read_to_string(path).map_err(|error| {
            at(Explained::new(format!("the configuration cannot be read: {error}")))
        })?;
        let refused = |error: toml::de::Error| {
            at(Explained::new(format!("the configuration is refused: {error}")))
        };
        // Read as what it is meant to be first: those errors name key and line.
        toml::from_str::<CoordinatorConfig>(&text).map_err(refused)?;
        let table: toml::Table = toml::from_str(&text).map_err(refused)?;
        let table = serde_json::to_value(table).map_err(|error| Explained::from_error(&error))?;
        for (key, value) in leaves(&table, Some(&self.tree)) {
            self.put(&key, value, Origin::File(path.to_owned()));
        }
        Ok(())
    }

    /// Lays environment variables over them: of each key `a.b` the one named `PTV2_A__B`. What is no TOML
    /// value is taken as text. Others that begin so belong to other programs, but for those with two
    /// underscores in a row, which can only mean a key.
    ///
    /// # Errors
    /// Names the variable whose value is refused, or which means no key.
    pub fn environment(
        &mut self,
        variables: impl IntoIterator<Item = (String, String)>,
    ) -> Result<(), Explained> {
        let keys: BTreeMap<String, String> =
            self.keys().into_iter().map(|key| (variable(&key), key)).collect();
        for (name, text) in variables {
            match keys.get(&name) {
                Some(key) => {
                    let key = key.clone();
                    self.text(&key, &text, Origin::Variable(name))?;
                }
                None if name.strip_prefix(PREFIX).is_some_and(|key| key.contains(BETWEEN)) => {
                    let near = nearest(&name, keys.keys());
                    return Err(Explained::new("this variable names no key of the configuration")
                        .at(name)
                        .expected("PTV2_SECTION__KEY, as in PTV2_LIMITS__QUEUE_LIMIT")
                        .hint(format!("did you mean {near}? Else unset it")));
                }
                None => {}
            }
        }
        Ok(())
    }

    /// Sets a key as `KEY=VALUE` says it.
    ///
    /// # Errors
    /// When there is no such key, and when the value is refused.
    pub fn set(&mut self, assignment: &str) -> Result<(), Explained> {
        let flag = || format!("--set {assignment}");
        let keys = self.keys();
        let Some((key, text)) = assignment.split_once('=') else {
            return Err(Explained::new("this sets nothing")
                .at(flag())
                .expected("KEY=VALUE, as in limits.queue_limit=100"));
        };
        if !keys.iter().any(|known| known == key) {
            return Err(Explained::new(format!("`{key}` is no key of the configuration"))
                .at(flag())
                .expected("a key that `ptv2d check-config` lists")
                .hint(format!("did you mean {}?", nearest(key, keys.iter()))));
        }
        self.text(key, text, Origin::Flag(flag()))
    }

    /// Sets a key by a flag of its own.
    ///
    /// # Errors
    /// When the value is refused.
    pub fn flag(
        &mut self,
        flag: &str,
        key: &str,
        value: impl serde::Serialize,
    ) -> Result<(), Explained> {
        let value = serde_json::to_value(value).map_err(|error| Explained::from_error(&error))?;
        let origin = Origin::Flag(flag.to_owned());
        self.try_put(key, [value], &origin)
    }

    /// The configuration that they make.
    ///
    /// # Errors
    /// Those of [`CoordinatorConfig::check`], with where the key was set.
    pub fn config(&self) -> Result<CoordinatorConfig, Explained> {
        let config: CoordinatorConfig = serde_json::from_value(self.tree.clone())
            .map_err(|error| Explained::from_error(&error))?;
        config.check().map_err(|mut error| {
            if let Some((key, origin)) =
                error.place.as_ref().and_then(|place| self.origins.get_key_value(place))
            {
                error.place = Some(format!("{key}, set by {origin}"));
            }
            error
        })?;
        Ok(config)
    }

    /// Every key with its value and where that came from, in the order of the configuration's file.
    pub fn entries(&self) -> Vec<(String, Value, Origin)> {
        leaves(&self.tree, None)
            .into_iter()
            .map(|(key, value)| {
                let origin = self.origins.get(&key).cloned().unwrap_or(Origin::Default);
                (key, value, origin)
            })
            .collect()
    }

    fn keys(&self) -> Vec<String> {
        leaves(&self.tree, None).into_iter().map(|(key, _)| key).collect()
    }

    /// A value that was given as text: TOML where it can be, unless the key holds text.
    fn text(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), Explained> {
        let as_text = Value::String(text.to_owned());
        let as_toml = toml::from_str::<toml::Table>(&format!("value = {text}"))
            .ok()
            .and_then(|mut table| table.remove("value"))
            .and_then(|value| serde_json::to_value(value).ok());
        let holds_text = at(&self.tree, key).is_some_and(Value::is_string);
        match as_toml {
            Some(value) if holds_text => self.try_put(key, [as_text, value], &origin),
            Some(value) => self.try_put(key, [value, as_text], &origin),
            None => self.try_put(key, [as_text], &origin),
        }
    }

    /// Puts the first value that the configuration takes.
    fn try_put<const N: usize>(
        &mut self,
        key: &str,
        values: [Value; N],
        origin: &Origin,
    ) -> Result<(), Explained> {
        let mut refused = None;
        for value in values {
            let mut tried = self.clone();
            tried.put(key, value, origin.clone());
            match serde_json::from_value::<CoordinatorConfig>(tried.tree.clone()) {
                Ok(_) => {
                    *self = tried;
                    return Ok(());
                }
                Err(error) => {
                    refused.get_or_insert(error);
                }
            }
        }
        let why = refused.map_or_else(String::new, |error| format!(": {error}"));
        Err(Explained::new(format!("this is no value of `{key}`{why}"))
            .at(origin.to_string())
            .hint("configs/coordinator.toml shows each key with its default"))
    }

    fn put(&mut self, key: &str, value: Value, origin: Origin) {
        let mut place = &mut self.tree;
        for part in key.split('.') {
            place = &mut place[part];
        }
        *place = value;
        self.origins.insert(key.to_owned(), origin);
    }
}

/// The keys of a tree that hold values, dotted. A table is one value where the defaults have none of its
/// keys: what stands in it is the user's own.
fn leaves(tree: &Value, defaults: Option<&Value>) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    let Value::Object(table) = tree else { return found };
    for (key, value) in table {
        let default = defaults.unwrap_or(tree).get(key);
        let is_section = default.and_then(Value::as_object).is_some_and(|keys| !keys.is_empty());
        if is_section && value.is_object() {
            let inner = leaves(value, defaults.and(default));
            found.extend(inner.into_iter().map(|(rest, value)| (format!("{key}.{rest}"), value)));
        } else {
            found.push((key.clone(), value.clone()));
        }
    }
    found
}

fn at<'a>(tree: &'a Value, key: &str) -> Option<&'a Value> {
    key.split('.').try_fold(tree, |place, part| place.get(part))
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', BETWEEN).to_uppercase())
}

fn nearest<'a>(text: &str, known: impl Iterator<Item = &'a String>) -> String {
    let likeness = |one: &&String| strsim::jaro_winkler(text, one);
    known.max_by(|a, b| likeness(a).total_cmp(&likeness(b))).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    fn origin(layers: &Layers, key: &str) -> String {
        let entries = layers.entries();
        let found = entries.iter().find(|(known, ..)| known == key);
        found.map(|(_, _, origin)| origin.to_string()).unwrap()
    }

    #[test]
    fn each_layer_goes_over_the_ones_before() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("c.toml");
        let text =
            "state = \"/a\"\nroots = [\"/r\"]\n[limits]\nqueue_limit = 5\nstep_timeout = \"1m\"";
        std::fs::write(&path, text).unwrap();
        let mut layers = Layers::defaults().unwrap();
        layers.file(&path).unwrap();
        let given = [
            ("PTV2_LIMITS__QUEUE_LIMIT", "6"),
            ("PTV2_STATE", "2024"),
            ("PTV2_STORE", "file:///s"),
            ("PTV2_COORDINATOR", "http://of.the.client:1"),
        ];
        layers.environment(variables(&given)).unwrap();
        layers.set("limits.queue_limit=7").unwrap();
        layers.flag("--listen", "listen", "127.0.0.1:9").unwrap();
        let config = layers.config().unwrap();
        assert_eq!(config.limits.queue_limit, 7);
        assert_eq!(config.limits.step_timeout, Duration::from_secs(60));
        assert_eq!((config.state, config.roots), ("2024".into(), vec!["/r".into()]));
        assert_eq!(config.store.as_deref(), Some("file:///s"));
        assert_eq!(config.listen.port(), 9);
        assert_eq!(origin(&layers, "limits.queue_limit"), "--set limits.queue_limit=7");
        assert_eq!(origin(&layers, "state"), "PTV2_STATE");
        assert_eq!(origin(&layers, "roots"), path.display().to_string());
        assert_eq!(origin(&layers, "limits.pair_failures"), "default");
    }

    #[test]
    fn a_variable_may_hold_a_list_a_flag_and_a_duration() {
        let mut layers = Layers::defaults().unwrap();
        let given = [
            ("PTV2_ROOTS", "[\"/a\", \"/b\"]"),
            ("PTV2_INSECURE_LISTEN", "true"),
            ("PTV2_LIMITS__GROWTH_DELAY", "3s"),
        ];
        layers.environment(variables(&given)).unwrap();
        let config = layers.config().unwrap();
        assert_eq!(config.roots.len(), 2);
        assert!(config.insecure_listen);
        assert_eq!(config.limits.growth_delay, Duration::from_secs(3));
    }

    #[test]
    fn what_is_refused_is_named_where_it_was_said() {
        let mut layers = Layers::defaults().unwrap();
        let error = layers.environment(variables(&[("PTV2_LISTEN", "here")])).unwrap_err();
        assert_eq!(error.place.as_deref(), Some("PTV2_LISTEN"));
        let misspelled = variables(&[("PTV2_LIMITS__QUEUE_LIMT", "1")]);
        let error = layers.environment(misspelled).unwrap_err();
        assert!(error.hint.unwrap().contains("PTV2_LIMITS__QUEUE_LIMIT"));
        let error = layers.set("limits.queue_limt=1").unwrap_err();
        assert!(error.hint.unwrap().contains("limits.queue_limit"));
        assert!(layers.set("limits.queue_limit=many").is_err());
        assert!(layers.set("listen").is_err());
        layers.environment(variables(&[("PTV2_LISTEN", "0.0.0.0:1")])).unwrap();
        let error = layers.config().unwrap_err();
        assert_eq!(error.place.as_deref(), Some("listen, set by PTV2_LISTEN"));
    }

    #[test]
    fn every_key_of_the_defaults_can_be_set_by_its_variable() {
        let layers = Layers::defaults().unwrap();
        for (key, value, _) in layers.entries() {
            let text = if value.is_null() { "x".into() } else { value.to_string() };
            let mut again = layers.clone();
            if let Err(error) = again.environment([(variable(&key), text)]) {
                // A key without a default may want more than a word.
                assert!(value.is_null(), "{key}: {error:?}");
            }
        }
    }
}
