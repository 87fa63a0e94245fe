//! The journal's SQLite file: its tables, what is written, what is read.

use super::disk::Disk;
use super::{Entry, Past};
use crate::coordinator::run::{Fact, Recorded};
use ptv2_common::api::{Event, LogLevel, LogLine, MetricsRow};
use ptv2_common::error::Explained;
use ptv2_common::ids::{JobId, WorkerId};
use rusqlite::{Connection, params};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// The version of the tables that this build reads and writes.
const SCHEMA: i64 = 3;
/// Workers whose last report's number is kept. A worker's process has its id for its life only.
const WORKERS: u32 = 10_000;

/// Events, and lines of its log, that are kept of a job: the newest.
const ROWS_OF_JOB: u32 = 100_000;
/// After so many rows of all jobs it is looked whether the last one's job has too many.
const LOOKED_AFTER: i64 = 1024;
/// The longest line, in bytes; the rest of one that is longer is cut off.
const LONGEST_LINE: usize = 16 << 10;
/// Text of events or lines that is given at once, in bytes; the row that goes beyond it is still given.
const LONGEST_PAGE: usize = 1 << 20;
/// A page of few rows, as followers ask for, has room for so much text for each, in bytes.
const ROOM_OF_ROW: usize = 256;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS facts (seq INTEGER PRIMARY KEY, fact TEXT NOT NULL,
        unix_ms INTEGER NOT NULL DEFAULT 0);
    CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL,
        unix_ms INTEGER NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS events_of_job ON events (job, seq);
    CREATE TABLE IF NOT EXISTS logs (seq INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL,
        unix_ms INTEGER NOT NULL, level TEXT NOT NULL, source TEXT NOT NULL, message TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS logs_of_job ON logs (job, seq);
    CREATE TABLE IF NOT EXISTS metrics (job TEXT NOT NULL, step INTEGER NOT NULL,
        evaluation INTEGER NOT NULL, row TEXT NOT NULL, PRIMARY KEY (job, step, evaluation));
    CREATE TABLE IF NOT EXISTS reported (worker TEXT PRIMARY KEY, seq INTEGER NOT NULL);
";

/// Opens or makes the file on such a disk and gives what is in it.
///
/// # Errors
/// When it is damaged or of another version, with what to do.
pub(super) fn open(path: &Path, disk: Disk) -> Result<(Connection, Past), Explained> {
    prepare(path, disk).map_err(|error| {
        Explained::new(format!("the journal cannot be used: {error}"))
            .at(path.display().to_string())
            .expected("a journal that this version of ptv2 wrote")
            .hint(
                "restore the file from a copy; or move it away and start again: the coordinator then \
                 adopts every job of which the artifact store holds a checkpoint",
            )
    })
}

fn prepare(path: &Path, disk: Disk) -> Result<(Connection, Past), Box<dyn std::error::Error>> {
    let connection = Connection::open(path)?;
    match disk {
        Disk::Local => connection.pragma_update(None, "journal_mode", "wal")?,
        Disk::Network(name) => {
            tracing::warn!(
                file_system = name,
                journal = %path.display(),
                "the journal lies on a network's file system: it is written in a slower way, and is as safe as \
                 that file system's locks; name a folder on a disk of this machine by `state` (--state)"
            );
            // A log beside the file needs memory that is shared by way of the file system, which these do not
            // have. Exclusively held, one of an earlier start elsewhere is read without it.
            connection.pragma_update(None, "locking_mode", "exclusive")?;
            connection.pragma_update(None, "journal_mode", "delete")?;
        }
    }
    connection.pragma_update(None, "synchronous", "full")?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > SCHEMA {
        return Err(format!("its version is {version}; this build reads up to {SCHEMA}").into());
    }
    let check: String = connection.query_row("PRAGMA quick_check", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(check.into());
    }
    if version == 1 {
        connection
            .execute_batch("ALTER TABLE facts ADD COLUMN unix_ms INTEGER NOT NULL DEFAULT 0")?;
    }
    connection.execute_batch(TABLES)?;
    connection.pragma_update(None, "user_version", SCHEMA)?;
    let past = Past { facts: facts(&connection)?, reported: reported(&connection)? };
    Ok((connection, past))
}

/// A second connection to a file that is open, for readers: they keep no decision waiting.
///
/// # Errors
/// Those of SQLite.
pub(super) fn reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "query_only", true)?;
    Ok(connection)
}

fn reported(connection: &Connection) -> rusqlite::Result<BTreeMap<WorkerId, u64>> {
    connection.execute(
        "DELETE FROM reported WHERE rowid NOT IN \
         (SELECT rowid FROM reported ORDER BY rowid DESC LIMIT ?)",
        [WORKERS],
    )?;
    let mut select = connection.prepare("SELECT worker, seq FROM reported")?;
    let rows = select.query_map([], |row| Ok((WorkerId(row.get(0)?), unsigned(row.get(1)?))))?;
    rows.collect()
}

fn facts(connection: &Connection) -> Result<Vec<Recorded>, Box<dyn std::error::Error>> {
    let mut select = connection.prepare("SELECT seq, unix_ms, fact FROM facts ORDER BY seq")?;
    let mut rows = select.query([])?;
    let mut facts = Vec::new();
    while let Some(row) = rows.next()? {
        let (seq, unix_ms, text): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let fact: Fact = serde_json::from_str(&text)
            .map_err(|error| format!("fact {seq} cannot be read: {error}"))?;
        facts.push((Duration::from_millis(unsigned(unix_ms)), fact));
    }
    Ok(facts)
}

pub(super) fn write(connection: &mut Connection, entries: &[Entry]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for entry in entries {
        match entry {
            Entry::Fact { unix_ms, fact } => {
                let mut insert = transaction
                    .prepare_cached("INSERT INTO facts (unix_ms, fact) VALUES (?, ?)")?;
                insert.execute(params![signed(*unix_ms), json(fact)?])?;
            }
            Entry::Event { job, unix_ms, kind, message } => {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO events (job, unix_ms, kind, message) VALUES (?, ?, ?, ?)",
                )?;
                insert.execute(params![job.0, signed(*unix_ms), kind, line(message)])?;
                if transaction.last_insert_rowid() % LOOKED_AFTER == 0 {
                    prune(&transaction, "events", job, ROWS_OF_JOB)?;
                }
            }
            Entry::Log { job, unix_ms, level, source, message } => {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO logs (job, unix_ms, level, source, message) VALUES (?, ?, ?, ?, ?)",
                )?;
                let level = json(level)?;
                insert.execute(params![job.0, signed(*unix_ms), level, source, line(message)])?;
                if transaction.last_insert_rowid() % LOOKED_AFTER == 0 {
                    prune(&transaction, "logs", job, ROWS_OF_JOB)?;
                }
            }
            Entry::Reported { worker, seq } => {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO reported (worker, seq) VALUES (?, ?) \
                     ON CONFLICT (worker) DO UPDATE SET seq = excluded.seq",
                )?;
                insert.execute(params![worker.0, signed(*seq)])?;
            }
            Entry::Metrics { job, row } => {
                let (step, evaluation) = match row {
                    MetricsRow::Step(step) => (step.step, 0),
                    MetricsRow::Evaluation(evaluation) => (evaluation.step, 1),
                };
                let mut insert = transaction.prepare_cached(
                    "INSERT OR REPLACE INTO metrics (job, step, evaluation, row) \
                     VALUES (?, ?, ?, ?)",
                )?;
                insert.execute(params![job.0, signed(step), evaluation, json(row)?])?;
            }
        }
    }
    transaction.commit()
}

/// Keeps the newest rows of a job in a table.
pub(super) fn prune(
    connection: &Connection,
    table: &str,
    job: &JobId,
    kept: u32,
) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached(&format!(
        "DELETE FROM {table} WHERE job = ?1 AND seq <= \
         (SELECT seq FROM {table} WHERE job = ?1 ORDER BY seq DESC LIMIT 1 OFFSET ?2)"
    ))?;
    delete.execute(params![job.0, kept]).map(drop)
}

/// A line, or its beginning.
fn line(text: &str) -> &str {
    &text[..text.floor_char_boundary(LONGEST_LINE)]
}

pub(super) fn events(
    connection: &Connection,
    job: &JobId,
    (after, at_most): (u64, u32),
) -> rusqlite::Result<Vec<Event>> {
    let mut select = connection.prepare_cached(
        "SELECT seq, unix_ms, kind, message FROM events WHERE job = ? AND seq > ? \
         ORDER BY seq LIMIT ?",
    )?;
    let rows = select.query_map(params![job.0, signed(after), at_most], |row| {
        Ok(Event {
            seq: unsigned(row.get(0)?),
            unix_ms: unsigned(row.get(1)?),
            kind: row.get(2)?,
            message: row.get(3)?,
        })
    })?;
    up_to(rows, at_most, |event| &event.message)
}

pub(super) fn logs(
    connection: &Connection,
    job: &JobId,
    (after, at_most): (u64, u32),
) -> rusqlite::Result<Vec<LogLine>> {
    let mut select = connection.prepare_cached(
        "SELECT seq, unix_ms, level, source, message FROM logs WHERE job = ? AND seq > ? \
         ORDER BY seq LIMIT ?",
    )?;
    let rows = select.query_map(params![job.0, signed(after), at_most], |row| {
        let level: String = row.get(2)?;
        Ok(LogLine {
            seq: unsigned(row.get(0)?),
            unix_ms: unsigned(row.get(1)?),
            level: serde_json::from_str(&level).unwrap_or(LogLevel::Info),
            source: row.get(3)?,
            message: row.get(4)?,
        })
    })?;
    up_to(rows, at_most, |line| &line.message)
}

/// Rows up to so much text. Who wants more asks for what comes after the last.
fn up_to<T>(
    rows: impl Iterator<Item = rusqlite::Result<T>>,
    at_most: u32,
    text: fn(&T) -> &str,
) -> rusqlite::Result<Vec<T>> {
    let room = (at_most as usize * ROOM_OF_ROW).min(LONGEST_PAGE);
    let (mut found, mut bytes) = (Vec::new(), 0);
    for row in rows {
        let row = row?;
        bytes += text(&row).len();
        found.push(row);
        if bytes >= room {
            break;
        }
    }
    Ok(found)
}

pub(super) fn metrics(connection: &Connection, job: &JobId) -> rusqlite::Result<Vec<MetricsRow>> {
    let mut select = connection
        .prepare_cached("SELECT row FROM metrics WHERE job = ? ORDER BY step, evaluation")?;
    let rows = select.query_map([&job.0], |row| row.get::<_, String>(0))?;
    let mut all = Vec::new();
    for row in rows {
        all.extend(serde_json::from_str(&row?).ok());
    }
    Ok(all)
}

fn json(value: &impl serde::Serialize) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

/// SQLite's integers are signed.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}
