//! Who did what, and who was refused: kept in the journal's database and said in the log.

use super::journal::Journal;
use ptv2_common::access::AuditEvent;
use ptv2_common::error::Explained;
use ptv2_common::text::escaped_to;
use rusqlite::{Connection, params};
use std::sync::{Mutex, PoisonError};

/// Events that are kept; the oldest give way.
pub const KEPT: u32 = 100_000;
/// Events of one answer, at most.
pub const LONGEST_LIST: u32 = 10_000;
/// Refused requests that are noted within [`WINDOW_MS`]. More are counted: whoever floods the API with
/// wrong tokens must not fill the disk.
const REFUSALS: u32 = 60;
const WINDOW_MS: u64 = 60_000;
/// Longest text of an event, in characters.
const LONGEST_TEXT: usize = 200;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS audit (seq INTEGER PRIMARY KEY AUTOINCREMENT, \
    unix_ms INTEGER NOT NULL, event TEXT NOT NULL)";

/// The notes.
#[derive(Debug)]
pub struct Audit {
    journal: Journal,
    refusals: Mutex<Refusals>,
}

/// Refusals since a window began.
#[derive(Debug, Default)]
struct Refusals {
    began_ms: u64,
    count: u32,
}

impl Refusals {
    /// Whether one more is noted; and how many of the window before were not.
    fn next(&mut self, now: u64) -> (bool, u32) {
        let mut left_out = 0;
        if now.saturating_sub(self.began_ms) >= WINDOW_MS {
            left_out = self.count.saturating_sub(REFUSALS);
            *self = Self { began_ms: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        (self.count <= REFUSALS, left_out)
    }
}

impl Audit {
    /// Makes the table where there is none.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn open(journal: &Journal) -> Result<Self, Explained> {
        journal.beside(|connection| connection.execute_batch(TABLE)).await?;
        Ok(Self { journal: journal.clone(), refusals: Mutex::default() })
    }

    /// Notes what was done.
    pub async fn done(&self, event: AuditEvent) {
        self.note(event).await;
    }

    /// Notes what was refused, so many times a minute.
    pub async fn refused(&self, event: AuditEvent) {
        let now = event.unix_ms;
        let (is_noted, left_out) =
            self.refusals.lock().unwrap_or_else(PoisonError::into_inner).next(now);
        if left_out > 0 {
            let subject = Some(format!("{left_out} more"));
            self.note(AuditEvent { subject, outcome: "refused".into(), ..new("requests", now) })
                .await;
        }
        if is_noted {
            self.note(event).await;
        }
    }

    /// The newest events, newest first.
    ///
    /// # Errors
    /// When the journal cannot be read.
    pub async fn list(&self, limit: u32) -> Result<Vec<AuditEvent>, Explained> {
        self.journal.beside(move |connection| read(connection, limit.min(LONGEST_LIST))).await
    }

    async fn note(&self, event: AuditEvent) {
        let event = escaped(event);
        let AuditEvent { principal, token, remote, action, subject, outcome, .. } = &event;
        tracing::info!(
            target: "audit", principal, token, remote, subject, outcome, "{action}"
        );
        let written = self.journal.beside(move |connection| write(connection, &event)).await;
        if let Err(error) = written {
            tracing::warn!(%error, "an audit event is in the log only");
        }
    }
}

/// An event that nothing but its action is known of.
pub fn new(action: impl Into<String>, now: u64) -> AuditEvent {
    AuditEvent {
        seq: 0,
        unix_ms: now,
        principal: None,
        token: None,
        remote: None,
        action: action.into(),
        subject: None,
        outcome: "done".into(),
    }
}

/// What came from outside cannot steer whoever reads it.
fn escaped(event: AuditEvent) -> AuditEvent {
    let safe = |text: String| escaped_to(&text, LONGEST_TEXT);
    AuditEvent {
        principal: event.principal.map(safe),
        remote: event.remote.map(safe),
        action: safe(event.action),
        subject: event.subject.map(safe),
        outcome: safe(event.outcome),
        ..event
    }
}

fn write(connection: &mut Connection, event: &AuditEvent) -> rusqlite::Result<()> {
    let json = serde_json::to_string(event)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    let unix_ms = i64::try_from(event.unix_ms).unwrap_or(i64::MAX);
    let transaction = connection.transaction()?;
    transaction
        .execute("INSERT INTO audit (unix_ms, event) VALUES (?, ?)", params![unix_ms, json])?;
    let last = transaction.last_insert_rowid() - i64::from(KEPT);
    transaction.execute("DELETE FROM audit WHERE seq <= ?", [last])?;
    transaction.commit()
}

fn read(connection: &Connection, limit: u32) -> rusqlite::Result<Vec<AuditEvent>> {
    let mut select =
        connection.prepare_cached("SELECT seq, event FROM audit ORDER BY seq DESC LIMIT ?")?;
    let rows =
        select.query_map([limit], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?)))?;
    let mut events = Vec::new();
    for row in rows {
        let (seq, event) = row?;
        // One that a later version wrote is passed over.
        if let Ok(event) = serde_json::from_str::<AuditEvent>(&event) {
            events.push(AuditEvent { seq: u64::try_from(seq).unwrap_or(0), ..event });
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open(folder: &tempfile::TempDir) -> Audit {
        let (journal, _) = Journal::open(&folder.path().join("journal.sqlite")).unwrap();
        Audit::open(&journal).await.unwrap()
    }

    #[tokio::test]
    async fn events_are_kept_over_a_restart_with_what_is_foreign_in_them_escaped() {
        let folder = tempfile::tempdir().unwrap();
        {
            let audit = open(&folder).await;
            audit.done(new("one", 1)).await;
            let subject = Some(format!("j1\n\u{1b}[2J{}", "x".repeat(500)));
            audit.done(AuditEvent { subject, ..new("two", 2) }).await;
        }
        let found = open(&folder).await.list(10).await.unwrap();
        let actions: Vec<&str> = found.iter().map(|event| event.action.as_str()).collect();
        assert_eq!(actions, ["two", "one"]);
        let subject = found[0].subject.as_ref().unwrap();
        assert!(subject.starts_with("j1\\n\\u{1b}[2Jx"), "{subject}");
        assert!(subject.chars().count() < 250 && found[0].seq == 2, "{found:?}");
    }

    #[tokio::test]
    async fn a_flood_of_refusals_is_counted_and_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let audit = open(&folder).await;
        let refusal = |now| AuditEvent { outcome: "no_token".into(), ..new("GET /v1/jobs", now) };
        for _ in 0..REFUSALS + 5 {
            audit.refused(refusal(100_000)).await;
        }
        assert_eq!(audit.list(1000).await.unwrap().len(), REFUSALS as usize);
        audit.refused(refusal(100_000 + WINDOW_MS)).await;
        let found = audit.list(2).await.unwrap();
        assert_eq!(found[1].subject.as_deref(), Some("5 more"));
        assert_eq!(found[0].action, "GET /v1/jobs");
    }

    #[test]
    fn only_the_newest_events_are_kept() {
        let mut connection = Connection::open_in_memory().unwrap();
        connection.execute_batch(TABLE).unwrap();
        write(&mut connection, &new("first", 0)).unwrap();
        let far = "INSERT INTO audit (seq, unix_ms, event) VALUES (?, 0, '{}')";
        connection.execute(far, [KEPT]).unwrap();
        write(&mut connection, &new("last", 0)).unwrap();
        let count = |of: &str| -> u32 {
            let count = format!("SELECT count(*) FROM audit WHERE seq {of}");
            connection.query_row(&count, [], |row| row.get(0)).unwrap()
        };
        assert_eq!((count("= 1"), count("> 1")), (0, 2));
    }
}
