//! The tables of tokens and of workers' sessions, in the journal's database.

use super::known::{Hash, Known, SESSIONS, Session, Token};
use ptv2_common::ids::WorkerId;
use rusqlite::{Connection, params};

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS tokens (id TEXT PRIMARY KEY, hash TEXT NOT NULL, status TEXT NOT NULL,
        last_used INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS sessions (worker TEXT PRIMARY KEY, hash TEXT NOT NULL, token TEXT,
        seen INTEGER NOT NULL);
";

/// What is written together, and counts together.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Tokens that are new, or of which something is.
    pub(super) tokens: Vec<Token>,
    /// Tokens that nobody needs to see any more.
    pub(super) forgotten: Vec<String>,
    /// Tokens by which nobody is here any more.
    pub(super) ended: Vec<String>,
    /// A worker that was let in.
    pub(super) session: Option<(WorkerId, Session)>,
    /// A worker that is known no more.
    pub(super) gone: Option<WorkerId>,
}

impl Change {
    pub(super) fn is_empty(&self) -> bool {
        let Self { tokens, forgotten, ended, session, gone } = self;
        tokens.is_empty()
            && forgotten.is_empty()
            && ended.is_empty()
            && session.is_none()
            && gone.is_none()
    }

    /// The same, and these tokens are revoked.
    pub(super) fn revoking(mut self, tokens: impl IntoIterator<Item = Token>, now: u64) -> Self {
        for token in tokens {
            self.ended.push(token.status.id.clone());
            self.tokens.push(token.with(|status| status.revoked_unix_ms = Some(now)));
        }
        self
    }
}

/// Makes the tables where there are none, and reads them.
pub(super) fn read(connection: &mut Connection) -> rusqlite::Result<Known> {
    connection.execute_batch(TABLES)?;
    let mut known = Known::default();
    let mut select = connection.prepare("SELECT hash, status, last_used FROM tokens")?;
    let rows = select.query_map([], |row| {
        Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?))
    })?;
    for row in rows {
        let (hash, status, last_used) = row?;
        let mut status: ptv2_common::access::TokenStatus =
            serde_json::from_str(&status).map_err(|error| unreadable(error.into()))?;
        status.last_used_unix_ms = u64::try_from(last_used).ok().filter(|at| *at > 0);
        known.tokens.insert(status.id.clone(), Token::new(bytes(&hash)?, status));
    }
    let mut select = connection
        .prepare("SELECT worker, hash, token, seen FROM sessions ORDER BY seen DESC LIMIT ?")?;
    let rows = select.query_map([i64::try_from(SESSIONS).unwrap_or(i64::MAX)], |row| {
        let hash = row.get::<_, String>(1)?;
        Ok((WorkerId(row.get(0)?), hash, row.get(2)?, row.get::<_, i64>(3)?))
    })?;
    for row in rows {
        let (worker, hash, token, seen) = row?;
        let seen = u64::try_from(seen).unwrap_or(0);
        known.sessions.insert(worker, Session { hash: bytes(&hash)?, token, seen });
    }
    Ok(known)
}

pub(super) fn write(connection: &mut Connection, change: &Change) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for token in &change.tokens {
        let status = serde_json::to_string(&token.status)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        let last_used = signed(token.status.last_used_unix_ms.unwrap_or(0));
        transaction.execute(
            "INSERT INTO tokens (id, hash, status, last_used) VALUES (?, ?, ?, ?) \
             ON CONFLICT (id) DO UPDATE SET status = excluded.status",
            params![token.status.id, hex::encode(token.hash), status, last_used],
        )?;
    }
    for id in &change.forgotten {
        transaction.execute("DELETE FROM tokens WHERE id = ?", [id])?;
    }
    for token in &change.ended {
        transaction.execute("UPDATE sessions SET token = NULL WHERE token = ?", [token])?;
    }
    if let Some(worker) = &change.gone {
        transaction.execute("DELETE FROM sessions WHERE worker = ?", [&worker.0])?;
    }
    if let Some((worker, Session { hash, token, seen })) = &change.session {
        transaction.execute(
            "INSERT OR REPLACE INTO sessions (worker, hash, token, seen) VALUES (?, ?, ?, ?)",
            params![worker.0, hex::encode(hash), token, signed(*seen)],
        )?;
    }
    transaction.commit()
}

/// Notes when a token was used last.
pub(super) fn used(connection: &mut Connection, id: &str, now: u64) -> rusqlite::Result<()> {
    let update = "UPDATE tokens SET last_used = ? WHERE id = ?";
    connection.execute(update, params![signed(now), id]).map(drop)
}

/// SQLite's integers are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn bytes(text: &str) -> rusqlite::Result<Hash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).map_err(|error| unreadable(error.into()))?;
    Ok(hash)
}

fn unreadable(error: Box<dyn std::error::Error + Send + Sync>) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, error)
}
