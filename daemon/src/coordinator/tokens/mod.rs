//! Tokens: who may do what, and which worker is which.
//!
//! Of a token only a hash is kept. It has 256 random bits, so that nobody finds it by trying: a slow hash,
//! made for passwords, would protect nothing more and cost each request some milliseconds. What is decided
//! here is in the journal's database before anyone hears of it.
//!
//! A worker joins by a token, and proves from then on, by a secret of its own process, that it is still the
//! same one. So a token that is good for one worker is good for all connections of that worker, also when
//! the coordinator was started again, and nobody else can speak in its name.

mod folder;
mod known;
mod table;
#[cfg(test)]
mod tests;

use super::journal::Journal;
use known::{Hash, Known, Token};
use ptv2_common::access::{MadeToken, NewToken, Scope, TokenStatus};
use ptv2_common::error::Explained;
use ptv2_common::ids::WorkerId;
use ptv2_common::secret::Secret;
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use table::Change;
use tokio::sync::watch;

/// Tokens that are in use at a time, at most: each request is compared with all of them.
const MOST: usize = 1000;
/// The last use of a token is noted this often, in milliseconds.
const COARSE_MS: u64 = 5 * 60 * 1000;
/// The two that a coordinator makes for itself: file in the state folder, scope, principal. Idempotency
/// keys of before there were names belong to `user`.
const OWN: [(&str, Scope, &str); 2] =
    [("token", Scope::Admin, "user"), ("worker-token", Scope::Worker, "worker")];
/// Longest name.
const LONGEST_NAME: usize = 64;

/// Whoever sent a request, once its token was found to be good.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The token's name.
    pub principal: String,
    /// The token's id.
    pub token: String,
    /// What the token is good for.
    pub scope: Scope,
    /// When it ends, in milliseconds since 1970.
    pub expires_unix_ms: Option<u64>,
    /// What the request turned out to be about, for the audit.
    subject: Arc<OnceLock<String>>,
}

impl Caller {
    /// One whose token has its name as its id.
    #[cfg(test)]
    pub(in crate::coordinator) fn named(name: &str, scope: Scope) -> Self {
        let (principal, token) = (name.to_owned(), name.to_owned());
        Self { principal, token, scope, expires_unix_ms: None, subject: Arc::default() }
    }

    /// Says which thing, made or found, the request is about. The first word counts.
    pub fn about(&self, subject: impl Into<String>) {
        self.subject.get_or_init(|| subject.into());
    }

    /// What was said of that.
    pub fn subject(&self) -> Option<&str> {
        self.subject.get().map(String::as_str)
    }
}

/// Why something is not done.
#[derive(Debug)]
pub enum Denied {
    /// What was asked makes no sense.
    Malformed(Explained),
    /// There is no such token.
    Unknown(Explained),
    /// It must not be.
    Refused(Explained),
    /// It may work later.
    Unavailable(Explained),
}

impl Denied {
    /// What a person needs to know of it.
    pub fn error(&self) -> &Explained {
        match self {
            Self::Malformed(error)
            | Self::Unknown(error)
            | Self::Refused(error)
            | Self::Unavailable(error) => error,
        }
    }
}

/// How a worker was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// By its token.
    Newly,
    /// As the one that it was before.
    Before,
}

/// All tokens and the workers that joined by them.
#[derive(Debug)]
pub struct Tokens {
    known: RwLock<Known>,
    /// Changes are made one after the other, each on disk before the next is decided.
    turn: tokio::sync::Mutex<()>,
    journal: Journal,
    state: PathBuf,
    /// Grows with each token that is revoked.
    revoked: watch::Sender<u64>,
}

impl Tokens {
    /// Reads what is known of tokens, and the two of the state folder, of which it makes those that are
    /// missing. What lies in a file counts: who put another token there has revoked the former.
    ///
    /// # Errors
    /// When the journal or a file cannot be read or made.
    pub async fn open(state: &Path, journal: &Journal, now: u64) -> Result<Self, Explained> {
        let known = journal.beside(table::read).await?;
        let tokens = Self {
            known: RwLock::new(known),
            turn: tokio::sync::Mutex::default(),
            journal: journal.clone(),
            state: state.to_owned(),
            revoked: watch::channel(0).0,
        };
        for (file, ..) in OWN {
            let _turn = tokens.turn.lock().await;
            tokens.take_up(file, now).await?;
        }
        Ok(tokens)
    }

    /// Whose request it is that bears this token; nobody's if the token is unknown, expired or revoked.
    /// `session` is a worker's: by it a token is still good that has come to its end since the worker joined.
    pub fn caller(&self, given: &str, session: Option<&str>, now: u64) -> Option<Caller> {
        let known = self.known();
        let token = known.find(&hash(given))?;
        let status = &token.status;
        let has_joined = || session.is_some_and(|session| known.has_joined(status, &hash(session)));
        if !status.is_open(now) && !has_joined() {
            return None;
        }
        let before = token.last_used.load(Ordering::Relaxed);
        if before == 0 || now.saturating_sub(before) >= COARSE_MS {
            token.last_used.store(now, Ordering::Relaxed);
            self.note_use(status.id.clone(), now);
        }
        Some(Caller {
            principal: status.name.clone(),
            token: status.id.clone(),
            scope: status.scope,
            expires_unix_ms: status.expires_unix_ms,
            subject: Arc::default(),
        })
    }

    /// Writes a use down, beside the request.
    fn note_use(&self, id: String, now: u64) {
        let journal = self.journal.clone();
        tokio::spawn(async move {
            let noted = journal.beside(move |connection| table::used(connection, &id, now)).await;
            if let Err(error) = noted {
                tracing::debug!(%error, "a token's last use is not written down");
            }
        });
    }

    /// Lets a worker in: by its token the first time, by the secret of its process from then on.
    ///
    /// # Errors
    /// [`Denied::Refused`] if the token is good for no other worker, or the id is another process's.
    pub async fn admit(
        &self,
        worker: &WorkerId,
        session: &str,
        token: &str,
        now: u64,
    ) -> Result<Admitted, Denied> {
        let own = hash(session);
        let decide = || self.known().admission(worker, &own, token, now).map_err(Denied::Refused);
        if decide()?.is_none() {
            return Ok(Admitted::Before);
        }
        let _turn = self.turn.lock().await;
        let Some((admitted, change)) = decide()? else { return Ok(Admitted::Before) };
        self.make(change).await.map_err(Denied::Unavailable)?;
        Ok(admitted)
    }

    /// Whether a worker that was let in may stay.
    pub fn is_admitted(&self, worker: &WorkerId) -> bool {
        self.known().is_admitted(worker)
    }

    /// Whether a token was not revoked.
    pub fn is_good(&self, id: &str) -> bool {
        self.known().tokens.get(id).is_some_and(|token| token.status.revoked_unix_ms.is_none())
    }

    /// Changes whenever a token is revoked.
    pub fn revocations(&self) -> watch::Receiver<u64> {
        self.revoked.subscribe()
    }

    /// All tokens, oldest first.
    pub fn list(&self) -> Vec<TokenStatus> {
        let mut all: Vec<_> = self.known().tokens.values().map(Token::shown).collect();
        all.sort_by(|one, other| (one.made_unix_ms, &one.id).cmp(&(other.made_unix_ms, &other.id)));
        all
    }

    /// Makes a token.
    ///
    /// # Errors
    /// [`Denied::Malformed`] for a name or a bound that makes no sense, or when there are too many.
    pub async fn create(&self, new: NewToken, now: u64) -> Result<MadeToken, Denied> {
        check(&new).map_err(Denied::Malformed)?;
        let _turn = self.turn.lock().await;
        let open = self.known().tokens.values().filter(|one| one.status.is_open(now)).count();
        if open >= MOST {
            let error = Explained::new(format!("{open} tokens are in use already"))
                .expected(format!("at most {MOST}"))
                .hint("`ptv2ctl token list` shows them, `ptv2ctl token revoke` ends one");
            return Err(Denied::Refused(error));
        }
        let (id, token) = self.fresh().map_err(Denied::Unavailable)?;
        let expires = new.expires_s.map(|s| now.saturating_add(s.saturating_mul(1000)));
        let status = TokenStatus {
            expires_unix_ms: expires,
            uses_left: new.uses,
            ..unbounded(id, new.name, new.scope, now)
        };
        let forgotten = self.known().to_forget(now);
        let tokens = vec![Token::new(hash(token.expose()), status.clone())];
        let change = Change { tokens, forgotten, ..Change::default() };
        self.make(change).await.map_err(Denied::Unavailable)?;
        Ok(MadeToken { token, status })
    }

    /// Revokes a token. One of the two that lie in the state folder is replaced there, so that whoever may
    /// read the folder is not shut out.
    ///
    /// # Errors
    /// [`Denied::Unknown`] when there is none of that id.
    pub async fn revoke(&self, id: &str, now: u64) -> Result<TokenStatus, Denied> {
        let _turn = self.turn.lock().await;
        let status = self.status(id).ok_or_else(|| {
            let error = Explained::new(format!("there is no token `{id}`"))
                .expected("a token's id")
                .hint("`ptv2ctl token list` shows them");
            Denied::Unknown(error)
        })?;
        if status.revoked_unix_ms.is_some() {
            return Ok(status);
        }
        let done = match status.file.clone() {
            Some(file) => self.replace(&file, now).await,
            None => {
                let token = self.known().of_id(id);
                self.make(Change::default().revoking(token, now)).await
            }
        };
        done.map_err(Denied::Unavailable)?;
        Ok(self.status(id).unwrap_or(status))
    }

    fn status(&self, id: &str) -> Option<TokenStatus> {
        self.known().tokens.get(id).map(Token::shown)
    }

    /// Puts a new token into a file of the state folder.
    async fn replace(&self, file: &str, now: u64) -> Result<(), Explained> {
        let (_, token) = self.fresh()?;
        let path = self.state.join(file);
        folder::write(path, token).await?;
        self.take_up(file, now).await
    }

    /// Makes what lies in a file of the state folder the one token of that file.
    async fn take_up(&self, file: &str, now: u64) -> Result<(), Explained> {
        let path = self.state.join(file);
        let mut found = folder::read(&path)?;
        let was_revoked = |token: &Secret| {
            let known = self.known();
            let found = known.find(&hash(token.expose()));
            found.is_some_and(|token| token.status.revoked_unix_ms.is_some())
        };
        // A copy of before it was revoked may have been put back.
        found = found.filter(|token| !was_revoked(token));
        let token = match found {
            Some(token) => token,
            None => {
                let (_, token) = self.fresh()?;
                folder::write(path, token.clone()).await?;
                token
            }
        };
        let (id, _) = self.fresh()?;
        let change = self.known().with_file(file, hash(token.expose()), (id, now));
        self.make(change).await
    }

    /// An id that no token has, and a new token that bears it.
    fn fresh(&self) -> Result<(String, Secret), Explained> {
        loop {
            let (mut id, mut random) = ([0; 4], [0; 32]);
            for bytes in [&mut id[..], &mut random[..]] {
                getrandom::fill(bytes).map_err(|error| Explained::from_error(&error))?;
            }
            let id = hex::encode(id);
            if !self.known().tokens.contains_key(&id) {
                let token = Secret::new(format!("ptv2_{id}_{}", hex::encode(random)));
                return Ok((id, token));
            }
        }
    }

    /// Writes a change down, then lets it count.
    async fn make(&self, change: Change) -> Result<(), Explained> {
        if change.is_empty() {
            return Ok(());
        }
        let change = Arc::new(change);
        let written = Arc::clone(&change);
        self.journal.beside(move |connection| table::write(connection, &written)).await?;
        self.known.write().unwrap_or_else(PoisonError::into_inner).apply(&change);
        if !change.ended.is_empty() {
            self.revoked.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(text: &str) -> Hash {
    Sha256::digest(text.as_bytes()).into()
}

fn unbounded(id: String, name: String, scope: Scope, now: u64) -> TokenStatus {
    TokenStatus {
        id,
        name,
        scope,
        file: None,
        made_unix_ms: now,
        expires_unix_ms: None,
        last_used_unix_ms: None,
        revoked_unix_ms: None,
        uses_left: None,
    }
}

fn check(new: &NewToken) -> Result<(), Explained> {
    let name = &new.name;
    let is_inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
    let begins = name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if !begins || name.len() > LONGEST_NAME || !name.chars().all(is_inner) {
        return Err(Explained::new(format!("{name:?} is no name of a token's holder"))
            .at("name")
            .expected(format!(
                "1 to {LONGEST_NAME} of a-z, 0-9, `.`, `_`, `-`, beginning with a letter or digit"
            ))
            .hint("a user's or a machine's name, for example `--name anna`"));
    }
    if OWN.iter().any(|(_, _, own)| own == name) {
        return Err(Explained::new(format!(
            "`{name}` is the holder of a token of the state folder"
        ))
        .at("name")
        .expected("another name")
        .hint("a new one of those is made when the old one is revoked"));
    }
    if new.expires_s == Some(0) || new.uses == Some(0) {
        return Err(Explained::new("the token could never be used")
            .at(if new.uses == Some(0) { "uses" } else { "expires_s" })
            .expected("a number above 0")
            .hint("leave it out for a token without that bound"));
    }
    if new.uses.is_some() && new.scope != Scope::Worker {
        return Err(Explained::new(format!(
            "a token of scope `{}` has no uses to count",
            new.scope
        ))
        .at("uses")
        .expected("`uses` with the scope `worker` only, as the number of workers that may join")
        .hint("`expires_s` bounds the other tokens"));
    }
    Ok(())
}
