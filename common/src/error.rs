//! An error as a person needs it: what was wrong, where, what was expected, and what to do.

use serde::{Deserialize, Serialize};

/// One refusal, made for a person to read and for a program to branch on.
#[derive(
    Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema, thiserror::Error,
)]
#[error("{what}{}", .place.as_ref().map(|place| format!(" ({place})")).unwrap_or_default())]
pub struct Explained {
    /// What was wrong, as a lowercase fragment that names the value.
    pub what: String,
    /// Where it stands: a key, a file and line, a tensor, a URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// What was expected instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// What the person can do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Explained {
    /// Starts an explanation from what was wrong.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), place: None, expected: None, hint: None }
    }

    /// Says where it stands.
    #[must_use]
    pub fn at(mut self, place: impl Into<String>) -> Self {
        self.place = Some(place.into());
        self
    }

    /// Says what was expected.
    #[must_use]
    pub fn expected(mut self, expected: impl Into<String>) -> Self {
        self.expected = Some(expected.into());
        self
    }

    /// Says what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Folds an error and its chain of causes into one explanation.
    pub fn from_error(error: &dyn std::error::Error) -> Self {
        let mut what = error.to_string();
        let mut cause = error.source();
        while let Some(source) = cause {
            let words = source.to_string();
            // Some errors tell their cause themselves.
            if !what.contains(&words) {
                what.push_str(": ");
                what.push_str(&words);
            }
            cause = source.source();
        }
        Self::new(what)
    }
}
