//! What the workers' pulse files say: by file, and watched over a whole job.

use super::clock::{now, pause};
use ptv2_common::place::{Moment, PulseRecord};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One worker process's pulse file. It can be read when the process is dead.
#[derive(Debug)]
pub(crate) struct Pulse {
    path: PathBuf,
    file: OnceLock<File>,
}

impl Pulse {
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { path, file: OnceLock::new() }
    }

    /// What the file says now; nothing before the process has made it.
    pub(crate) fn read(&self) -> Option<PulseRecord> {
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let opened = File::open(&self.path).ok()?;
                self.file.get_or_init(|| opened)
            }
        };
        let mut bytes = [0; PulseRecord::LENGTH];
        file.read_exact_at(&mut bytes, 0).ok()?;
        PulseRecord::from_bytes(&bytes)
    }
}

/// Whether a worker is in the middle of a job's steps.
pub(crate) fn trains(record: &PulseRecord) -> bool {
    match record.moment {
        Moment::Forward | Moment::Reduction | Moment::Update | Moment::Evaluation => true,
        Moment::Idle | Moment::Loading | Moment::Joining | Moment::Finishing => false,
    }
}

/// A live worker's pulse as one job sees it.
struct Watched {
    pulse: Arc<Pulse>,
    /// What it said before the job began: the step and generation of another job.
    stale: Option<(u64, u64)>,
}

impl Watched {
    fn read(&mut self) -> Option<PulseRecord> {
        let record = self.pulse.read()?;
        if self.stale == Some((record.generation, record.step)) {
            return None;
        }
        self.stale = None;
        Some(record)
    }
}

#[derive(Default)]
struct Seen {
    watched: Vec<Watched>,
    /// When a step of the job was first seen to be done by anyone, with its number, ascending.
    steps: Vec<(Instant, u64)>,
}

impl Seen {
    fn look(&mut self) {
        let highest = self.steps.last().map(|(_, step)| *step);
        let records = self.watched.iter_mut().filter_map(Watched::read);
        let step = records.filter(trains_or_ends).map(|record| record.step).max();
        if let Some(step) = step
            && highest.is_none_or(|highest| step > highest)
        {
            self.steps.push((now(), step));
        }
    }
}

fn trains_or_ends(record: &PulseRecord) -> bool {
    trains(record) || record.moment == Moment::Finishing
}

/// Looks at all live workers' pulses about every millisecond.
pub(crate) struct Watch {
    seen: Arc<Mutex<Seen>>,
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        let (seen, ends) =
            (Arc::new(Mutex::new(Seen::default())), Arc::new(AtomicBool::new(false)));
        let (looks, until) = (Arc::clone(&seen), Arc::clone(&ends));
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                looks.lock().unwrap().look();
                pause(Duration::from_millis(1));
            }
        });
        Self { seen, ends, thread: Some(thread) }
    }

    /// A worker has started.
    pub(crate) fn add(&self, pulse: Arc<Pulse>) {
        self.seen.lock().unwrap().watched.push(Watched { pulse, stale: None });
    }

    /// A worker is dead.
    pub(crate) fn remove(&self, pulse: &Arc<Pulse>) {
        self.seen.lock().unwrap().watched.retain(|one| !Arc::ptr_eq(&one.pulse, pulse));
    }

    /// Another job is about to begin: what the workers say of the last one does not count for it.
    pub(crate) fn begin(&self) {
        let mut seen = self.seen.lock().unwrap();
        seen.steps.clear();
        for one in &mut seen.watched {
            one.stale = one.pulse.read().map(|record| (record.generation, record.step));
        }
    }

    /// What the live workers say of this job.
    pub(crate) fn records(&self) -> Vec<(Arc<Pulse>, PulseRecord)> {
        let mut seen = self.seen.lock().unwrap();
        let pulses = seen.watched.iter_mut();
        pulses.filter_map(|one| Some((Arc::clone(&one.pulse), one.read()?))).collect()
    }

    /// The highest step that was seen to be done; nothing before the first slice.
    pub(crate) fn highest(&self) -> Option<u64> {
        self.seen.lock().unwrap().steps.last().map(|(_, step)| *step)
    }

    /// When a step above this one was first seen to be done.
    pub(crate) fn first_above(&self, step: u64) -> Option<Instant> {
        let seen = self.seen.lock().unwrap();
        seen.steps.iter().find(|(_, done)| *done > step).map(|(at, _)| *at)
    }

    /// All steps of the job, with the time when each was first seen to be done.
    pub(crate) fn steps(&self) -> Vec<(Instant, u64)> {
        self.seen.lock().unwrap().steps.clone()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}
