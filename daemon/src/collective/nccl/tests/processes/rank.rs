//! One rank, in a process of its own.

use super::super::super::{Communicator, NcclError, State};
use super::super::{Library, join, stand_in};
use crate::clock;
use crate::collective::tcp::{Listener, Peer};
use crate::collective::tests::{ELEMENTS, SLICES, listeners, parts, spec};
use crate::collective::{AbortHandle, Collective, CollectiveError};
use ptv2_common::ids::WorkerId;
use ptv2_common::spec::Reduction;
use sha2::{Digest, Sha256};
use std::io::BufRead;
use std::path::Path;
use std::sync::mpsc::channel;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tch::{Device, Kind, Tensor};

/// The test that is the process.
pub(super) const NAME: &str = "collective::nccl::tests::processes::rank::serves_a_rank";
/// Says that it was started for it.
pub(super) const FOLDER: &str = "PTV2_TEST_RANK";
/// Where the stand-in leaves a line for what has begun, in that folder.
pub(super) const BEGUN: &str = "begun";
/// Stands before each answer.
pub(super) const AT: char = '@';

/// What ranks compare of a sum.
pub(super) fn digest(values: &[f32]) -> String {
    let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    hex::encode(&Sha256::digest(bytes)[..8])
}

struct Rank {
    listener: Listener,
    abort: AbortHandle,
    /// When this generation was aborted.
    aborted: Arc<OnceLock<Instant>>,
    reduction: Reduction,
    group: Option<Box<dyn Collective>>,
}

/// Waits until a fault of the stand-in has begun, in whichever process.
#[expect(
    clippy::disallowed_methods,
    reason = "polling pauses; the test that waits has the deadline"
)]
fn has_begun(fault: &str) {
    let place = Path::new(&std::env::var_os(FOLDER).unwrap()).join(BEGUN);
    let is_there = |lines: String| lines.lines().any(|line| line == fault);
    while !std::fs::read_to_string(&place).is_ok_and(is_there) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

impl Rank {
    fn obey(&mut self, words: &[&str]) -> Result<String, CollectiveError> {
        let ms = |word: &str| Duration::from_millis(word.parse().unwrap());
        match words {
            ["ring"] => self.reduction = Reduction::Ring,
            ["join", generation, rank, addresses, within] => {
                (self.abort, self.aborted) = Default::default();
                let mut spec = spec(&[], rank.parse().unwrap(), b"key");
                spec.generation = generation.parse().unwrap();
                let peer = |address: &str| Peer {
                    worker: WorkerId(address.into()),
                    address: address.parse().unwrap(),
                };
                spec.peers = addresses.split(',').map(peer).collect();
                let tcp = self.listener.join(&spec, &self.abort)?;
                self.group = Some(Box::new(join(tcp, self.reduction, ms(within))?));
            }
            ["reduce", step] => {
                let group = self.group.as_mut().unwrap();
                let weights = vec![1.0; group.world() as usize];
                let own = parts(group.rank(), &weights);
                let mut out = vec![0.0; ELEMENTS];
                group.reduce(step.parse().unwrap(), SLICES, &own, &[0; 24], &mut out)?;
                return Ok(format!("sum {}", digest(&out)));
            }
            ["abort-at", fault] => {
                let (abort, aborted) = (self.abort.clone(), Arc::clone(&self.aborted));
                let fault = (*fault).to_owned();
                std::thread::spawn(move || {
                    has_begun(&fault);
                    aborted.set(clock::now()).unwrap();
                    abort.abort();
                });
            }
            ["beside-an-abort"] => return Ok(beside_an_abort()),
            ["behind-a-stuck-call"] => return Ok(behind_a_stuck_call()),
            ["leave"] => self.group = None,
            other => panic!("{other:?}"),
        }
        Ok("ok".into())
    }
}

/// A communicator of one rank, which is connected.
fn alone() -> Communicator {
    let library = Library::find(Some(stand_in())).unwrap();
    let id = library.unique_id().unwrap();
    let one = Communicator::begin(&library, &id, (0, 1), Device::Cpu).unwrap();
    while one.state().unwrap() == State::InProgress {
        std::thread::yield_now();
    }
    one
}

/// How long after the abort began a thread is told so that looks after its operation; the abort hangs meanwhile.
fn beside_an_abort() -> String {
    // It is not dropped, which the hanging abort would hold up.
    let one = Arc::new(alone());
    let tensor = Tensor::zeros([4], (Kind::Float, Device::Cpu));
    one.all_reduce(&tensor).unwrap();
    assert_eq!(one.state(), Ok(State::InProgress));
    let (aborting, began) = (Arc::clone(&one), clock::now());
    std::thread::spawn(move || aborting.abort());
    let state = loop {
        if let Err(error) = one.state() {
            break error;
        }
        std::thread::yield_now();
    };
    let next = one.all_reduce(&tensor).unwrap_err();
    format!("error {} {state:?} {next:?}", began.elapsed().as_millis())
}

/// How long after the abort began a thread is told so that waits for another's call, and how long after it that call
/// ends.
fn behind_a_stuck_call() -> String {
    let one = Arc::new(alone());
    let (stuck, waiting) = (Arc::clone(&one), Arc::clone(&one));
    let calls = std::thread::spawn(move || {
        let found = stuck.all_reduce(&Tensor::zeros([4], (Kind::Float, Device::Cpu)));
        (clock::now(), found)
    });
    let (say, looks) = channel();
    let waits = std::thread::spawn(move || {
        // Some looks may come before the other thread's call.
        let found = loop {
            match waiting.state() {
                Ok(_) => say.send(()).unwrap(),
                Err(error) => break error,
            }
            std::thread::yield_now();
        };
        (clock::now(), found)
    });
    has_begun("stuck");
    while looks.recv_timeout(Duration::from_millis(300)).is_ok() {}
    assert!(!waits.is_finished() && !calls.is_finished());
    let began = clock::now();
    one.abort().unwrap();
    let ms = |at: Instant| at.saturating_duration_since(began).as_millis();
    let (told, state) = waits.join().unwrap();
    let (ended, found) = calls.join().unwrap();
    let NcclError::Failed { operation, .. } = found.unwrap_err() else { panic!("no failure") };
    format!("error {} {state:?}, {operation} {}", ms(told), ms(ended))
}

#[test]
#[ignore = "a process of the other tests"]
fn serves_a_rank() {
    if std::env::var_os(FOLDER).is_none() {
        println!("skipped: it is started by other tests");
        return;
    }
    let listener = listeners(1).remove(0);
    println!("{AT}{}", listener.address());
    let mut rank = Rank {
        listener,
        abort: AbortHandle::default(),
        aborted: Arc::default(),
        reduction: Reduction::Ordered,
        group: None,
    };
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let began = clock::now();
        let outcome = rank.obey(&line.split(' ').collect::<Vec<_>>());
        let since = rank.aborted.get().copied().unwrap_or(began);
        let answer = outcome
            .unwrap_or_else(|error| format!("error {} {error:?}", since.elapsed().as_millis()));
        println!("{AT}{answer}");
    }
}
