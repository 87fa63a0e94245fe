//! Compute threads: each computes whole slices alone, with one torch thread, since the number of
//! torch threads changes the bits of a gradient.

use super::backbones::Backbone;
use super::batch::Slice;
use super::step::{Network, RunStep, Setting, SliceGradient};
use super::{Result, TensorError};
use ptv2_common::error::Explained;
use std::cmp::Reverse;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

enum Work {
    Gradient { values: Arc<Vec<f32>>, at: RunStep, slice: Slice },
    Logits { values: Arc<Vec<f32>>, number: usize, slice: Slice },
}

enum Done {
    Gradient(Result<SliceGradient>),
    Logits(usize, Result<Vec<f32>>),
}

/// A job's compute threads. They end when the pool is dropped.
pub struct Pool {
    work: Option<Sender<Work>>,
    done: Receiver<Done>,
    threads: Vec<JoinHandle<()>>,
}

/// A compute thread panicked, which means a defect; its message went to the log.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// torch refused an operation.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A thread is gone.
    #[error("a compute thread ended; its message stands above")]
    ThreadGone,
}

impl From<PoolError> for Explained {
    fn from(error: PoolError) -> Self {
        match error {
            PoolError::Tensor(error) => error.into(),
            PoolError::ThreadGone => Self::new(error.to_string()),
        }
    }
}

impl Pool {
    /// Starts `threads` threads that share a backbone's weights.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(backbone: &Backbone, setting: &Arc<Setting>, threads: u32) -> std::io::Result<Self> {
        let (work, queue) = channel::<Work>();
        let (results, done) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let threads = (0..threads.max(1))
            .map(|number| {
                // `Tensor` is Send, not Sync: each thread gets handles of its own before it starts.
                let network = Network::new(backbone.share(), Arc::clone(setting));
                let (queue, results) = (Arc::clone(&queue), results.clone());
                std::thread::Builder::new().name(format!("compute-{number}")).spawn(move || {
                    tch::set_num_threads(1);
                    compute(&network, &queue, &results);
                })
            })
            .collect::<std::io::Result<_>>()?;
        Ok(Self { work: Some(work), done, threads })
    }

    /// The gradients of some slices of a step, in the order of the slices.
    ///
    /// # Errors
    /// The first failure; the other slices are finished first.
    pub fn gradients(
        &self,
        values: &Arc<Vec<f32>>,
        at: RunStep,
        mut slices: Vec<Slice>,
    ) -> std::result::Result<Vec<SliceGradient>, PoolError> {
        let count = slices.len();
        // The dearest first, so that the threads end at about the same time.
        slices.sort_by_key(|slice| Reverse(slice.cost()));
        for slice in slices {
            self.send(Work::Gradient { values: Arc::clone(values), at, slice })?;
        }
        let mut all = Vec::with_capacity(count);
        let mut failure = None;
        for _ in 0..count {
            match self.done.recv() {
                Ok(Done::Gradient(Ok(gradient))) => all.push(gradient),
                Ok(Done::Gradient(Err(error))) => failure = failure.or(Some(error)),
                Ok(Done::Logits(..)) | Err(_) => return Err(PoolError::ThreadGone),
            }
        }
        match failure {
            Some(error) => Err(error.into()),
            None => {
                all.sort_unstable_by_key(|gradient: &SliceGradient| gradient.index);
                Ok(all)
            }
        }
    }

    /// The scores of some slices' rows without dropout, in the order of the slices.
    ///
    /// # Errors
    /// The first failure; the other slices are finished first.
    pub fn logits(
        &self,
        values: &Arc<Vec<f32>>,
        slices: Vec<Slice>,
    ) -> std::result::Result<Vec<Vec<f32>>, PoolError> {
        let mut all = vec![Vec::new(); slices.len()];
        let mut failure = None;
        let count = slices.len();
        for (number, slice) in slices.into_iter().enumerate() {
            self.send(Work::Logits { values: Arc::clone(values), number, slice })?;
        }
        for _ in 0..count {
            match self.done.recv() {
                Ok(Done::Logits(number, Ok(logits))) => all[number] = logits,
                Ok(Done::Logits(_, Err(error))) => failure = failure.or(Some(error)),
                Ok(Done::Gradient(_)) | Err(_) => return Err(PoolError::ThreadGone),
            }
        }
        failure.map_or(Ok(all), |error| Err(error.into()))
    }

    fn send(&self, work: Work) -> std::result::Result<(), PoolError> {
        let sender = self.work.as_ref().ok_or(PoolError::ThreadGone)?;
        sender.send(work).map_err(|_| PoolError::ThreadGone)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Without a sender the threads find the queue closed and end.
        self.work = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a compute thread had panicked");
            }
        }
    }
}

fn compute(network: &Network, queue: &Mutex<Receiver<Work>>, results: &Sender<Done>) {
    loop {
        let work = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let done = match work {
            Ok(Work::Gradient { values, at, slice }) => {
                Done::Gradient(network.gradient(&values, at, &slice))
            }
            Ok(Work::Logits { values, number, slice }) => {
                Done::Logits(number, network.logits(&values, &slice))
            }
            Err(_) => return,
        };
        if results.send(done).is_err() {
            return;
        }
    }
}
