//! The coordinator's memory: one SQLite file, one thread that writes it.
//!
//! Facts rebuild the jobs after a restart; events, log lines and metrics are for people. What is
//! written together is committed together, and on disk before the answer comes.

use super::run::Fact;
use ptv2_common::api::{Event, LogLevel, LogLine, MetricsRow};
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use rusqlite::{Connection, params};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;

/// The version of the tables that this build reads and writes.
const SCHEMA: i64 = 1;
/// Requests that may wait for the thread; more is refused to the caller.
const WAITING: usize = 1024;
/// Rows of one answer at most.
pub const PAGE: u32 = 10_000;

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS facts (seq INTEGER PRIMARY KEY, fact TEXT NOT NULL);
    CREATE TABLE IF NOT EXISTS events (seq INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL,
        unix_ms INTEGER NOT NULL, kind TEXT NOT NULL, message TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS events_of_job ON events (job, seq);
    CREATE TABLE IF NOT EXISTS logs (seq INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL,
        unix_ms INTEGER NOT NULL, level TEXT NOT NULL, source TEXT NOT NULL, message TEXT NOT NULL);
    CREATE INDEX IF NOT EXISTS logs_of_job ON logs (job, seq);
    CREATE TABLE IF NOT EXISTS metrics (job TEXT NOT NULL, step INTEGER NOT NULL,
        evaluation INTEGER NOT NULL, row TEXT NOT NULL, PRIMARY KEY (job, step, evaluation));
";

/// Something to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A decision.
    Fact(Fact),
    /// A line of a job's events.
    Event {
        /// The job.
        job: JobId,
        /// When, in milliseconds since 1970.
        unix_ms: u64,
        /// A stable word.
        kind: String,
        /// One line.
        message: String,
    },
    /// A line of a job's log.
    Log {
        /// The job.
        job: JobId,
        /// When, in milliseconds since 1970.
        unix_ms: u64,
        /// How grave it is.
        level: LogLevel,
        /// Who says it.
        source: String,
        /// One line.
        message: String,
    },
    /// A step or an evaluation. One that is done again replaces its row.
    Metrics {
        /// The job.
        job: JobId,
        /// The row.
        row: MetricsRow,
    },
}

type Reply<T> = oneshot::Sender<rusqlite::Result<T>>;

enum Request {
    Write(Vec<Entry>, Reply<()>),
    Events { job: JobId, after: u64, reply: Reply<Vec<Event>> },
    Logs { job: JobId, after: u64, reply: Reply<Vec<LogLine>> },
    Metrics { job: JobId, reply: Reply<Vec<MetricsRow>> },
}

/// A handle to the journal's thread. The thread ends with its last handle.
#[derive(Debug, Clone)]
pub struct Journal {
    requests: SyncSender<Request>,
    path: PathBuf,
}

impl Journal {
    /// Opens or makes the journal and gives the facts in it.
    ///
    /// # Errors
    /// When the file is damaged or of another version, with what to do.
    pub fn open(path: &Path) -> Result<(Self, Vec<Fact>), Explained> {
        let (connection, facts) = prepare(path).map_err(|error| unreadable(path, &error))?;
        let (requests, queue) = sync_channel(WAITING);
        std::thread::Builder::new()
            .name("journal".into())
            .spawn(move || serve(connection, &queue))
            .map_err(|error| Explained::from_error(&error))?;
        Ok((Self { requests, path: path.to_owned() }, facts))
    }

    /// Writes entries in one transaction; they are on disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or fails. Nothing of them is written then.
    pub async fn write(&self, entries: Vec<Entry>) -> Result<(), Explained> {
        self.ask(|reply| Request::Write(entries, reply)).await
    }

    /// A job's events after a sequence number, at most [`PAGE`].
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn events(&self, job: &JobId, after: u64) -> Result<Vec<Event>, Explained> {
        let job = job.clone();
        self.ask(|reply| Request::Events { job, after, reply }).await
    }

    /// A job's log lines after a sequence number, at most [`PAGE`].
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn logs(&self, job: &JobId, after: u64) -> Result<Vec<LogLine>, Explained> {
        let job = job.clone();
        self.ask(|reply| Request::Logs { job, after, reply }).await
    }

    /// A job's steps and evaluations, in order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn metrics(&self, job: &JobId) -> Result<Vec<MetricsRow>, Explained> {
        let job = job.clone();
        self.ask(|reply| Request::Metrics { job, reply }).await
    }

    async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, Explained> {
        let (reply, answer) = oneshot::channel();
        self.requests.try_send(request(reply)).map_err(|error| match error {
            TrySendError::Full(_) => {
                Explained::new("too many requests wait for the journal").hint("try again")
            }
            TrySendError::Disconnected(_) => self.ended(),
        })?;
        let answer = answer.await.map_err(|_| self.ended())?;
        answer.map_err(|error| {
            Explained::from_error(&error)
                .at(self.path.display().to_string())
                .hint("see that the state folder's disk works and has room")
        })
    }

    fn ended(&self) -> Explained {
        Explained::new("the journal's thread has ended")
            .at(self.path.display().to_string())
            .hint("start the coordinator again")
    }
}

fn prepare(path: &Path) -> Result<(Connection, Vec<Fact>), Box<dyn std::error::Error>> {
    let connection = Connection::open(path)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
    if version > SCHEMA {
        return Err(format!("its version is {version}; this build reads up to {SCHEMA}").into());
    }
    let check: String = connection.query_row("PRAGMA quick_check", [], |row| row.get(0))?;
    if check != "ok" {
        return Err(check.into());
    }
    connection.execute_batch(TABLES)?;
    connection.pragma_update(None, "user_version", SCHEMA)?;
    let mut facts = Vec::new();
    {
        let mut select = connection.prepare("SELECT seq, fact FROM facts ORDER BY seq")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (seq, text): (i64, String) = (row.get(0)?, row.get(1)?);
            let fact = serde_json::from_str(&text);
            facts.push(fact.map_err(|error| format!("fact {seq} cannot be read: {error}"))?);
        }
    }
    Ok((connection, facts))
}

fn unreadable(path: &Path, error: &dyn std::fmt::Display) -> Explained {
    Explained::new(format!("the journal cannot be used: {error}"))
        .at(path.display().to_string())
        .expected("a journal that this version of ptv2 wrote")
        .hint(
            "restore the file, or move it away and start with an empty one; checkpoints lie in the \
             artifact store and stay",
        )
}

fn serve(mut connection: Connection, queue: &Receiver<Request>) {
    for request in queue {
        match request {
            Request::Write(entries, reply) => answer(reply, write(&mut connection, &entries)),
            Request::Events { job, after, reply } => {
                answer(reply, events(&connection, &job, after));
            }
            Request::Logs { job, after, reply } => answer(reply, logs(&connection, &job, after)),
            Request::Metrics { job, reply } => answer(reply, metrics(&connection, &job)),
        }
    }
}

fn answer<T>(reply: Reply<T>, result: rusqlite::Result<T>) {
    // Whoever asked may have gone away; the write is done all the same.
    drop(reply.send(result));
}

fn write(connection: &mut Connection, entries: &[Entry]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    for entry in entries {
        match entry {
            Entry::Fact(fact) => {
                let mut insert =
                    transaction.prepare_cached("INSERT INTO facts (fact) VALUES (?)")?;
                insert.execute([json(fact)?])?;
            }
            Entry::Event { job, unix_ms, kind, message } => {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO events (job, unix_ms, kind, message) VALUES (?, ?, ?, ?)",
                )?;
                insert.execute(params![job.0, signed(*unix_ms), kind, message])?;
            }
            Entry::Log { job, unix_ms, level, source, message } => {
                let mut insert = transaction.prepare_cached(
                    "INSERT INTO logs (job, unix_ms, level, source, message) VALUES (?, ?, ?, ?, ?)",
                )?;
                let level = json(level)?;
                insert.execute(params![job.0, signed(*unix_ms), level, source, message])?;
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

fn events(connection: &Connection, job: &JobId, after: u64) -> rusqlite::Result<Vec<Event>> {
    let mut select = connection.prepare_cached(
        "SELECT seq, unix_ms, kind, message FROM events WHERE job = ? AND seq > ? \
         ORDER BY seq LIMIT ?",
    )?;
    let rows = select.query_map(params![job.0, signed(after), PAGE], |row| {
        Ok(Event {
            seq: unsigned(row.get(0)?),
            unix_ms: unsigned(row.get(1)?),
            kind: row.get(2)?,
            message: row.get(3)?,
        })
    })?;
    rows.collect()
}

fn logs(connection: &Connection, job: &JobId, after: u64) -> rusqlite::Result<Vec<LogLine>> {
    let mut select = connection.prepare_cached(
        "SELECT seq, unix_ms, level, source, message FROM logs WHERE job = ? AND seq > ? \
         ORDER BY seq LIMIT ?",
    )?;
    let rows = select.query_map(params![job.0, signed(after), PAGE], |row| {
        let level: String = row.get(2)?;
        Ok(LogLine {
            seq: unsigned(row.get(0)?),
            unix_ms: unsigned(row.get(1)?),
            level: serde_json::from_str(&level).unwrap_or(LogLevel::Info),
            source: row.get(3)?,
            message: row.get(4)?,
        })
    })?;
    rows.collect()
}

fn metrics(connection: &Connection, job: &JobId) -> rusqlite::Result<Vec<MetricsRow>> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::coordinator::run::tests::record;
    use ptv2_common::api::StepMetrics;

    fn step(step: u64, loss: f64) -> MetricsRow {
        let (learning_rate, grad_norm, rows_per_s, tokens_per_s) = (1e-3, 1.0, 2.0, 3.0);
        MetricsRow::Step(StepMetrics {
            step,
            epoch: 0,
            loss,
            learning_rate,
            grad_norm,
            rows_per_s,
            tokens_per_s,
        })
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.sqlite");
        let job = JobId("j1".into());
        let facts =
            [Fact::Submitted(Box::new(record("j1", "1"))), Fact::Cancelled { job: job.clone() }];
        {
            let (journal, before) = Journal::open(&path).unwrap();
            assert!(before.is_empty());
            let event = |kind: &str| Entry::Event {
                job: job.clone(),
                unix_ms: 5,
                kind: kind.into(),
                message: "m".into(),
            };
            let mut entries: Vec<Entry> = facts.iter().cloned().map(Entry::Fact).collect();
            entries.extend([event("submitted"), event("cancelled")]);
            let metrics = [step(1, 0.5), step(2, 0.4), step(1, 0.6)];
            entries.extend(metrics.map(|row| Entry::Metrics { job: job.clone(), row }));
            journal.write(entries).await.unwrap();
        }
        let (journal, found) = Journal::open(&path).unwrap();
        assert_eq!(found, facts);
        let events = journal.events(&job, 1).await.unwrap();
        assert_eq!(events.len(), 1);
        assert_eq!((events[0].seq, events[0].kind.as_str()), (2, "cancelled"));
        assert_eq!(journal.metrics(&job).await.unwrap(), [step(1, 0.6), step(2, 0.4)]);
        assert!(journal.logs(&job, 0).await.unwrap().is_empty());
    }

    #[test]
    fn a_damaged_journal_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.sqlite");
        std::fs::write(&path, b"this is no database, however long it goes on").unwrap();
        let error = Journal::open(&path).unwrap_err();
        assert!(error.hint.unwrap().contains("move it away"));
    }
}
