//! What is known of tokens and of the workers that joined by them; decided without a clock and a disk.

use super::table::Change;
use super::{Admitted, COARSE_MS, OWN, unbounded};
use ptv2_common::access::{Scope, TokenStatus};
use ptv2_common::error::Explained;
use ptv2_common::ids::WorkerId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use subtle::ConstantTimeEq;

/// A token that is over is still listed for so long, in milliseconds: thirty days.
const LISTED_MS: u64 = 30 * 24 * 3600 * 1000;
/// Workers whose secret is known, at most; the one that was seen least lately gives way.
pub(super) const SESSIONS: usize = 10_000;

/// SHA-256 of a token or of a worker's secret.
pub(super) type Hash = [u8; 32];

/// A token.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) hash: Hash,
    /// Its last use stands beside it.
    pub(super) status: TokenStatus,
    /// In milliseconds since 1970; 0 for never.
    pub(super) last_used: AtomicU64,
}

/// A worker's process that was let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) hash: Hash,
    /// The token that it joined by, until that is revoked. The hash stays, so that the worker's id stays
    /// its own.
    pub(super) token: Option<String>,
    /// When it was seen, now and then, in milliseconds since 1970.
    pub(super) seen: u64,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) tokens: BTreeMap<String, Token>,
    pub(super) sessions: BTreeMap<WorkerId, Session>,
}

impl Token {
    pub(super) fn new(hash: Hash, status: TokenStatus) -> Self {
        let last_used = AtomicU64::new(status.last_used_unix_ms.unwrap_or(0));
        Self { hash, status, last_used }
    }

    /// The token as it is from now on, of another status.
    pub(super) fn with(&self, change: impl FnOnce(&mut TokenStatus)) -> Self {
        let mut status = self.shown();
        change(&mut status);
        Self::new(self.hash, status)
    }

    /// As people see it.
    pub(super) fn shown(&self) -> TokenStatus {
        let used = Some(self.last_used.load(Ordering::Relaxed)).filter(|at| *at > 0);
        TokenStatus { last_used_unix_ms: used, ..self.status.clone() }
    }
}

impl Known {
    /// The token of a hash. Each one is compared, whole, so that the time it takes says nothing of any.
    pub(super) fn find(&self, hash: &Hash) -> Option<&Token> {
        self.tokens.values().fold(None, |found, token| {
            if bool::from(token.hash.ct_eq(hash)) { Some(token) } else { found }
        })
    }

    pub(super) fn of_id(&self, id: &str) -> Option<Token> {
        self.tokens.get(id).map(|token| token.with(|_| ()))
    }

    /// Whether a worker of this secret joined by that token, which was not revoked since.
    pub(super) fn has_joined(&self, token: &TokenStatus, hash: &Hash) -> bool {
        token.revoked_unix_ms.is_none()
            && self.sessions.values().any(|session| {
                session.token.as_ref() == Some(&token.id) && bool::from(session.hash.ct_eq(hash))
            })
    }

    pub(super) fn is_admitted(&self, worker: &WorkerId) -> bool {
        self.sessions.get(worker).is_some_and(|session| session.token.is_some())
    }

    /// What letting a worker in changes; nothing for one that was here a moment ago.
    ///
    /// # Errors
    /// When the id is another process's, or the token is good for no other worker.
    pub(super) fn admission(
        &self,
        worker: &WorkerId,
        hash: &Hash,
        token: &str,
        now: u64,
    ) -> Result<Option<(Admitted, Change)>, Explained> {
        let seen = Session { hash: *hash, token: Some(token.to_owned()), seen: now };
        let known = self.sessions.get(worker);
        if known.is_some_and(|known| !bool::from(known.hash.ct_eq(hash))) {
            return Err(Explained::new(format!("worker {worker} is another process"))
                .expected(
                    "an id that no other process has, or the secret that this one joined with",
                )
                .hint("start the worker again: each process draws an id of its own"));
        }
        let mut change = Change { session: Some((worker.clone(), seen)), ..Change::default() };
        if let Some(known) = known.filter(|known| known.token.as_deref() == Some(token)) {
            let is_fresh = now.saturating_sub(known.seen) < COARSE_MS;
            return Ok((!is_fresh).then_some((Admitted::Before, change)));
        }
        let open = self.tokens.get(token).filter(|token| token.status.is_open(now));
        let Some(open) = open.filter(|open| open.status.scope == Scope::Worker) else {
            return Err(Explained::new("this join token is good for no other worker")
                .expected("one that has neither ended nor been used up or revoked")
                .hint("`ptv2ctl token create --scope worker` makes another"));
        };
        if open.status.uses_left.is_some() {
            let one_less = |status: &mut TokenStatus| {
                status.uses_left = status.uses_left.map(|left| left.saturating_sub(1));
            };
            change.tokens.push(open.with(one_less));
        }
        if known.is_none() && self.sessions.len() >= SESSIONS {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.seen);
            change.gone = oldest.map(|(worker, _)| worker.clone());
        }
        Ok(Some((Admitted::Newly, change)))
    }

    /// What it changes that a token of this hash lies in a file of the state folder. A token that is new
    /// gets this id; another that was in the file is revoked.
    pub(super) fn with_file(&self, file: &str, hash: Hash, (id, now): (String, u64)) -> Change {
        let mut change = Change::default();
        let Some((_, scope, name)) = OWN.into_iter().find(|(own, ..)| *own == file) else {
            return change;
        };
        if self.find(&hash).is_none() {
            let status = unbounded(id, name.into(), scope, now);
            let status = TokenStatus { file: Some(file.into()), ..status };
            change.tokens.push(Token::new(hash, status));
        }
        let is_former = |token: &&Token| {
            let status = &token.status;
            let is_files = status.file.as_deref() == Some(file);
            is_files && token.hash != hash && status.revoked_unix_ms.is_none()
        };
        let former: Vec<Token> =
            self.tokens.values().filter(is_former).map(|token| token.with(|_| ())).collect();
        change.revoking(former, now)
    }

    /// Tokens that were over long ago, and by which no worker is here.
    pub(super) fn to_forget(&self, now: u64) -> Vec<String> {
        let is_old = |token: &&Token| {
            let over = token.status.over_since(now);
            over.is_some_and(|since| now.saturating_sub(since) > LISTED_MS)
        };
        let is_used = |token: &&Token| {
            self.sessions.values().any(|one| one.token.as_ref() == Some(&token.status.id))
        };
        let old = self.tokens.values().filter(is_old).filter(|token| !is_used(token));
        old.map(|token| token.status.id.clone()).collect()
    }

    /// Lets a change count that is on disk.
    pub(super) fn apply(&mut self, change: &Change) {
        for token in &change.tokens {
            self.tokens.insert(token.status.id.clone(), token.with(|_| ()));
        }
        for id in &change.forgotten {
            self.tokens.remove(id);
        }
        for session in self.sessions.values_mut() {
            if session.token.as_ref().is_some_and(|token| change.ended.contains(token)) {
                session.token = None;
            }
        }
        if let Some(worker) = &change.gone {
            self.sessions.remove(worker);
        }
        if let Some((worker, session)) = &change.session {
            self.sessions.insert(worker.clone(), session.clone());
        }
    }
}
