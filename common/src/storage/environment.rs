//! What the environment says of stores: credentials, and what the clouds' own tools read besides.

/// The variables of an environment. Their values may be secret, so they are never shown.
#[derive(Clone, Default)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// That of this process.
    pub fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(text).collect())
    }

    /// These variables alone.
    pub fn of(variables: &[(&str, &str)]) -> Self {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Self(variables.iter().map(owned).collect())
    }

    /// The variables whose names begin so, with their names as the libraries spell keys.
    #[cfg(feature = "cloud")]
    pub(super) fn keys<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (String, &'a str)> {
        let wanted = self.0.iter().filter(move |(name, _)| name.starts_with(prefix));
        wanted.map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
    }

    /// One variable.
    #[cfg(feature = "azure")]
    pub(super) fn get(&self, wanted: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }

    /// A text without the values of variables that are secret.
    #[cfg(feature = "cloud")]
    pub(super) fn hidden(&self, text: &str) -> String {
        /// A shorter value would be found in every text.
        const SHORTEST: usize = 6;
        let is_secret = |name: &str| {
            ["KEY", "SECRET", "TOKEN", "PASSWORD", "CREDENTIAL"].iter().any(|it| name.contains(it))
        };
        let mut hidden = text.to_owned();
        for (name, value) in &self.0 {
            if is_secret(&name.to_ascii_uppercase()) && value.len() >= SHORTEST {
                hidden = hidden.replace(value, "…");
            }
        }
        hidden
    }
}

impl std::fmt::Debug for Environment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_not_shown() {
        let environment = Environment::of(&[("AWS_SECRET_ACCESS_KEY", "geheim")]);
        assert_eq!(format!("{environment:?}"), "[\"AWS_SECRET_ACCESS_KEY\"]");
    }

    #[cfg(feature = "cloud")]
    #[test]
    fn secrets_are_taken_out_of_a_text() {
        let environment = Environment::of(&[
            ("AZURE_STORAGE_SAS_TOKEN", "sig=geheim"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_SESSION_TOKEN", "of"),
        ]);
        let text = environment.hidden("no pair in `sig=geheim` of eu-central-1");
        assert_eq!(text, "no pair in `…` of eu-central-1");
    }
}
