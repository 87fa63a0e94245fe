//! The coordinator's memory: one SQLite file, one thread that writes it, one that reads for people.
//!
//! Facts rebuild the jobs after a restart; events, log lines and metrics are for people. What is
//! written together is committed together, and on disk before the answer comes.

mod disk;
mod file;
#[cfg(test)]
mod tests;

use super::run::{Fact, Recorded};
use ptv2_common::api::{Event, LONGEST_LIST, LogLevel, LogLine, MetricsRow};
use ptv2_common::error::Explained;
use ptv2_common::ids::{JobId, WorkerId};
use rusqlite::Connection;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use tokio::sync::oneshot;

/// Requests that may wait for the thread; more is refused to the caller.
const WAITING: usize = 1024;

/// Something to be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Entry {
    /// A decision.
    Fact {
        /// When, in milliseconds since 1970, by the clock that decisions are made by.
        unix_ms: u64,
        /// What was decided.
        fact: Fact,
    },
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
    /// A worker's report with this number, and all before it, need not be sent again.
    Reported {
        /// The worker.
        worker: WorkerId,
        /// The number.
        seq: u64,
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

/// What comes after a sequence number, and how much of it at most.
type Page = (u64, u32);

enum Request {
    Write(Arc<[Entry]>, Reply<()>),
    Events { job: JobId, page: Page, reply: Reply<Vec<Event>> },
    Logs { job: JobId, page: Page, reply: Reply<Vec<LogLine>> },
    Metrics { job: JobId, reply: Reply<Vec<MetricsRow>> },
    Beside(Box<dyn FnOnce(&mut Connection) + Send>),
}

/// What a journal tells a coordinator that starts.
#[derive(Debug, Default)]
pub struct Past {
    /// What was decided, oldest first.
    pub facts: Vec<Recorded>,
    /// The number of each worker's last report that is in the journal.
    pub reported: BTreeMap<WorkerId, u64>,
}

/// A handle to the journal's threads. They end with their last handle.
#[derive(Debug, Clone)]
pub struct Journal {
    writes: SyncSender<Request>,
    /// Apart, so that nobody who reads much keeps a decision waiting.
    reads: SyncSender<Request>,
    path: PathBuf,
}

impl Journal {
    /// Opens or makes the journal and gives what is in it.
    ///
    /// # Errors
    /// When the file is damaged or of another version, with what to do.
    pub fn open(path: &Path) -> Result<(Self, Past), Explained> {
        let disk = disk::of(path.parent().unwrap_or(path))?;
        let (connection, past) = file::open(path, disk)?;
        let writes = start("journal", connection)?;
        let reads = match disk {
            disk::Disk::Local => {
                let reader = file::reader(path).map_err(|error| Explained::from_error(&error))?;
                start("journal-reader", reader)?
            }
            // It is held by one connection there, which readers wait for.
            disk::Disk::Network(_) => writes.clone(),
        };
        Ok((Self { writes, reads, path: path.to_owned() }, past))
    }

    /// Writes entries in one transaction; they are on disk when this returns.
    ///
    /// # Errors
    /// When the disk is full or fails. Nothing of them is written then.
    pub async fn write(&self, entries: impl Into<Arc<[Entry]>>) -> Result<(), Explained> {
        let entries = entries.into();
        self.ask(&self.writes, |reply| Request::Write(entries, reply)).await
    }

    /// A job's events after a sequence number, at most [`LONGEST_LIST`](ptv2_common::api::LONGEST_LIST)
    /// and a megabyte of text: those after the last are asked for again.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn events(&self, job: &JobId, after: u64) -> Result<Vec<Event>, Explained> {
        self.events_page(job, (after, LONGEST_LIST)).await
    }

    /// The same, at most so many.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn events_page(&self, job: &JobId, page: Page) -> Result<Vec<Event>, Explained> {
        let job = job.clone();
        self.ask(&self.reads, |reply| Request::Events { job, page, reply }).await
    }

    /// A job's log lines after a sequence number, at most [`LONGEST_LIST`](ptv2_common::api::LONGEST_LIST)
    /// and a megabyte of text: those after the last are asked for again.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn logs(&self, job: &JobId, after: u64) -> Result<Vec<LogLine>, Explained> {
        self.logs_page(job, (after, LONGEST_LIST)).await
    }

    /// The same, at most so many.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn logs_page(&self, job: &JobId, page: Page) -> Result<Vec<LogLine>, Explained> {
        let job = job.clone();
        self.ask(&self.reads, |reply| Request::Logs { job, page, reply }).await
    }

    /// A job's steps and evaluations, in order.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub async fn metrics(&self, job: &JobId) -> Result<Vec<MetricsRow>, Explained> {
        let job = job.clone();
        self.ask(&self.reads, |reply| Request::Metrics { job, reply }).await
    }

    /// Works on tables of the same file that stand beside the journal's own, on the thread that writes.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub(super) async fn beside<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Explained> {
        self.ask(&self.writes, |reply| {
            Request::Beside(Box::new(move |connection| answer(reply, work(connection))))
        })
        .await
    }

    async fn ask<T>(
        &self,
        queue: &SyncSender<Request>,
        request: impl FnOnce(Reply<T>) -> Request,
    ) -> Result<T, Explained> {
        let (reply, answer) = oneshot::channel();
        queue.try_send(request(reply)).map_err(|error| match error {
            TrySendError::Full(_) => {
                Explained::new("too many requests wait for the journal").hint("try again")
            }
            TrySendError::Disconnected(_) => self.ended(),
        })?;
        let answer = answer.await.map_err(|_| self.ended())?;
        answer.map_err(|error| {
            Explained::new(format!("the journal fails: {error}"))
                .at(self.path.display().to_string())
                .expected("a disk that works and has room")
                .hint("make room on the state folder's disk; the coordinator tries again by itself")
        })
    }

    fn ended(&self) -> Explained {
        Explained::new("the journal's thread has ended")
            .at(self.path.display().to_string())
            .hint("start the coordinator again")
    }
}

/// Starts a thread that serves requests by a connection.
fn start(name: &str, connection: Connection) -> Result<SyncSender<Request>, Explained> {
    let (requests, queue) = sync_channel(WAITING);
    std::thread::Builder::new()
        .name(name.into())
        .spawn(move || serve(connection, &queue))
        .map_err(|error| Explained::from_error(&error))?;
    Ok(requests)
}

fn serve(mut connection: Connection, queue: &Receiver<Request>) {
    for request in queue {
        match request {
            Request::Write(entries, reply) => {
                #[cfg(feature = "faults")]
                crate::faults::journal("journal-before");
                let written = file::write(&mut connection, &entries);
                #[cfg(feature = "faults")]
                crate::faults::journal("journal-after");
                answer(reply, written);
            }
            Request::Events { job, page, reply } => {
                answer(reply, file::events(&connection, &job, page));
            }
            Request::Logs { job, page, reply } => {
                answer(reply, file::logs(&connection, &job, page))
            }
            Request::Metrics { job, reply } => answer(reply, file::metrics(&connection, &job)),
            Request::Beside(work) => work(&mut connection),
        }
    }
}

fn answer<T>(reply: Reply<T>, result: rusqlite::Result<T>) {
    // Whoever asked may have gone away; the write is done all the same.
    drop(reply.send(result));
}
