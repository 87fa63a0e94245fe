//! A worker at half speed does not set the pace: slices are dealt by measured speed.

use super::harness::{Cluster, hash, superglue, takes_less_than, tiny};
use crate::chaos::clock::pause;
use crate::chaos::signals::signal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the slow worker runs, and how long it stands still, in turns.
const TURN: Duration = Duration::from_millis(10);
/// The share of the slow pace, which an even deal would have, that the job may take. By speed one and
/// a half workers are left of two, so two thirds of the slow pace are the best that can be.
const MOST: f64 = 0.85;

/// Halves a process's speed until it is dropped.
struct HalfSpeed {
    ends: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HalfSpeed {
    fn of(pid: u32) -> Self {
        let ends = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ends);
        let thread = std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                signal(pid, libc::SIGSTOP);
                turn();
                signal(pid, libc::SIGCONT);
                turn();
            }
        });
        Self { ends, thread: Some(thread) }
    }
}

/// The rhythm is the very thing that is tested with, so this waits for a time and no event. A turn that
/// the machine prolongs is as long for both.
fn turn() {
    pause(TURN);
}

impl Drop for HalfSpeed {
    fn drop(&mut self) {
        self.ends.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[test]
fn a_worker_at_half_speed_does_not_set_the_pace() {
    let Some(data) = superglue() else { return };
    let job = format!(
        "task = \"superglue/cb\"\n\
         backbone.path = \"{}\"\n\
         data = {{ root = \"{}\", max_seq_length = 48, max_val_rows = 8 }}\n\
         method.pre_seq_len = 16\n\
         training = {{ epochs = 24, batch_size = 240, learning_rate = 1e-2, slices = 12, eval_every = 24 }}\n",
        tiny().display(),
        data.display()
    );
    let mut cluster = Cluster::by_file(&data);
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let two = ["--workers", "2"];
    // This one also loads and compiles what the others find done.
    let reference = hash(&cluster.run(&job, &two));
    let timed = |slow: bool| {
        let _half = slow.then(|| HalfSpeed::of(cluster.pids()[1]));
        let status = cluster.run(&job, &two);
        assert_eq!(hash(&status), reference);
        status["timings"]["train_s"].as_f64().unwrap()
    };
    // Others who use the machine may hit one of the two times alone; an even deal misses the bound each time.
    takes_less_than(MOST, || {
        let (calm, slow) = (timed(false), timed(true));
        let even = 2.0 * calm;
        println!(
            "two workers {calm:.2} s; one at half speed {slow:.2} s; an even deal {even:.2} s"
        );
        slow / even
    });
}
