//! Who may do what: scopes, tokens, and what is noted of their use.
//!
//! | route | answer |
//! |---|---|
//! | `POST /v1/tokens` ([`NewToken`]) | [`MadeToken`], 201: the only time that the token itself is told |
//! | `GET /v1/tokens` | list of [`TokenStatus`], oldest first |
//! | `DELETE /v1/tokens/{id}` | [`TokenStatus`]; running requests and sessions of it end |
//! | `GET /v1/audit?limit` | list of [`AuditEvent`], newest first |

use crate::secret::Secret;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use utoipa::ToSchema;

/// The header in which a worker proves, at each connection after its first, that it is the same process.
pub const SESSION_HEADER: &str = "ptv2-session";

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// To look at jobs, workers and metrics, and to pull.
    Read,
    /// To submit, cancel and retry, too.
    Submit,
    /// To do all that people do: tokens, draining, audit.
    Admin,
    /// To join as a worker, and nothing else.
    Worker,
}

impl Scope {
    /// All, from the smallest.
    pub const ALL: [Self; 4] = [Self::Read, Self::Submit, Self::Admin, Self::Worker];

    /// Whether a token of this scope may do what needs another.
    pub fn allows(self, needed: Self) -> bool {
        match self {
            Self::Read => needed == Self::Read,
            Self::Submit => matches!(needed, Self::Read | Self::Submit),
            Self::Admin => needed != Self::Worker,
            Self::Worker => needed == Self::Worker,
        }
    }

    /// Its word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Submit => "submit",
            Self::Admin => "admin",
            Self::Worker => "worker",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scope| scope.word() == text);
        found.ok_or_else(|| format!("`{text}` is no scope: read, submit, admin or worker"))
    }
}

/// Asks for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewToken {
    /// Whose it is: its jobs, idempotency keys and audit events bear this name.
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
    /// For how many seconds; without an end where it is absent. A worker that has joined may stay longer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_s: Option<u64>,
    /// How many workers may join by it, where its scope is `worker`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses: Option<u32>,
}

/// A token that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MadeToken {
    /// The token itself, told this once: only its hash is kept.
    #[schema(value_type = String)]
    pub token: Secret,
    /// What is known of it from now on.
    pub status: TokenStatus,
}

/// What is known of a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TokenStatus {
    /// Its id, which is no secret.
    pub id: String,
    /// Whose it is.
    pub name: String,
    /// What it is good for.
    pub scope: Scope,
    /// The file of the state folder that it lies in, of the two that a coordinator makes for itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub made_unix_ms: u64,
    /// When it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_unix_ms: Option<u64>,
    /// When it was last used, to within minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_used_unix_ms: Option<u64>,
    /// When it was revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revoked_unix_ms: Option<u64>,
    /// How many workers may still join by it, where that is bounded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uses_left: Option<u32>,
}

impl TokenStatus {
    /// Whether it was neither revoked nor has come to its end, and may be used once more.
    pub fn is_open(&self, now_unix_ms: u64) -> bool {
        self.over_since(now_unix_ms).is_none() && self.uses_left != Some(0)
    }

    /// Since when it is revoked or at its end, if it is.
    pub fn over_since(&self, now_unix_ms: u64) -> Option<u64> {
        let expired = self.expires_unix_ms.filter(|at| *at <= now_unix_ms);
        self.revoked_unix_ms.or(expired)
    }
}

/// Something that someone did, or was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct AuditEvent {
    /// Grows by one for each event.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub unix_ms: u64,
    /// Whose token came with the request; absent where none did that is good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub principal: Option<String>,
    /// That token's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// The address that the request came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<String>,
    /// What was asked: a method and a route, `worker joined`, `worker refused`, ….
    pub action: String,
    /// What it was about: a job, a worker, a token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `done`, or the code of the refusal.
    pub outcome: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_holds_those_before_it_and_workers_are_apart() {
        let check = |has: Scope, may: [bool; 4]| {
            assert_eq!(Scope::ALL.map(|needed| has.allows(needed)), may, "{has}");
            assert_eq!(has.word().parse(), Ok(has));
        };
        check(Scope::Read, [true, false, false, false]);
        check(Scope::Submit, [true, true, false, false]);
        check(Scope::Admin, [true, true, true, false]);
        check(Scope::Worker, [false, false, false, true]);
        assert!("root".parse::<Scope>().is_err());
    }

    #[test]
    fn a_token_is_over_when_it_is_revoked_expired_or_used_up() {
        let open = TokenStatus {
            id: "1".into(),
            name: "n".into(),
            scope: Scope::Worker,
            file: None,
            made_unix_ms: 0,
            expires_unix_ms: Some(10),
            last_used_unix_ms: None,
            revoked_unix_ms: None,
            uses_left: Some(1),
        };
        assert!(open.is_open(9) && !open.is_open(10));
        assert_eq!(open.over_since(11), Some(10));
        let revoked = TokenStatus { revoked_unix_ms: Some(3), ..open.clone() };
        assert!(!revoked.is_open(5));
        assert!(!TokenStatus { uses_left: Some(0), ..open }.is_open(5));
    }
}
