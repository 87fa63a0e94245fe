//! The signals by which a scheduler takes an allocation away, without the scheduler: what it sets in the
//! environment is set by hand. Under Slurm itself: `make test-slurm`.

use super::harness::{Cluster, hash, minilm, poll, superglue, takes_less_than, tiny_cb};
use crate::chaos::clock::now;
use crate::chaos::signals::signal;
use std::path::Path;
use std::time::Duration;

/// Nothing is left of a process after this: two seconds, and half a one for a machine that is busy with other tests.
const OVER: Duration = Duration::from_millis(2500);

/// A job whose steps take longer than a scheduler waits: a slice of 250 rows cannot be interrupted.
fn slow_steps(data: &Path) -> String {
    format!(
        "task = \"superglue/cb\"\n\
         backbone.path = \"{}\"\n\
         data = {{ root = \"{}\", max_seq_length = 256, max_val_rows = 4 }}\n\
         method.pre_seq_len = 8\n\
         training = {{ max_steps = 50, batch_size = 250, learning_rate = 1e-2, slices = 1 }}\n",
        minilm().display(),
        data.display()
    )
}

#[test]
fn inside_slurm_a_worker_gives_up_a_step_that_takes_too_long() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::start(0, 1);
    cluster.set("SLURM_JOB_ID", "7".into());
    for asked in [libc::SIGTERM, libc::SIGUSR1] {
        takes_less_than(OVER, || gives_up(&mut cluster, &slow_steps(&data), asked));
    }
}

/// How long a worker that is in a long step needs to go.
fn gives_up(cluster: &mut Cluster, job: &str, asked: i32) -> Duration {
    cluster.worker(1, &[]);
    let id = cluster.submit(job, &[]);
    poll("a step", || {
        let worker = cluster.json(&["workers"])[0].clone();
        (worker["job"] == id.as_str() && worker["phase"] == "stepping").then_some(())
    });
    let given_up = cluster.logs().matches("is given up").count();
    let began = now();
    // As `scancel` does it. The second one does not abort what the first one began.
    for sent in [libc::SIGCONT, asked, asked] {
        signal(cluster.workers[0].pid(), sent);
    }
    let code = cluster.worker_ends(0);
    let took = began.elapsed();
    println!("signal {asked}: gone after {} ms", took.as_millis());
    assert_eq!(code, 0, "{}", cluster.logs());
    assert_eq!(cluster.logs().matches("is given up").count(), given_up + 1, "{}", cluster.logs());
    cluster.is_queued(&id);
    assert!(cluster.ctl(&["cancel", &id]).status.success());
    took
}

/// Submits with a key; the job's id.
fn submit(cluster: &Cluster, job: &str, more: &[&str], key: &str) -> String {
    cluster.submit(job, &[more, &["--idempotency-key", key]].concat())
}

/// A coordinator in an allocation that is taken away, and one whose disk goes with it.
#[test]
fn a_run_goes_on_by_its_key_in_the_next_allocation() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::new("ptv2d");
    cluster.set("SLURM_JOB_ID", "7".into());
    cluster.serve_by_file(&data);
    cluster.worker(1, &[]);
    cluster.worker(1, &[]);
    let job = tiny_cb(&data, "checkpoint.every = 1000000");
    let more =
        ["--set", "training.epochs=60", "--set", "training.eval_every=30", "--workers", "1..2"];
    let calm = cluster.run(&job, &more);
    let id = submit(&cluster, &job, &more, "calm");
    cluster.reaches(&id, 20);
    for (life, asked) in [libc::SIGTERM, libc::SIGUSR1].into_iter().enumerate() {
        let began = now();
        // The coordinator alone is told. It lets the workers leave, and a state of theirs is in the store.
        signal(cluster.daemon.as_ref().unwrap().pid(), asked);
        poll("the coordinator's end", || cluster.daemon.as_mut()?.ended());
        println!("signal {asked}: gone after {} ms", began.elapsed().as_millis());
        assert_eq!([cluster.worker_ends(0), cluster.worker_ends(0)], [0, 0], "{}", cluster.logs());
        if life == 1 {
            std::fs::remove_dir_all(cluster.state()).unwrap();
        }
        cluster.serve_by_file(&data);
        assert_eq!(submit(&cluster, &job, &more, "calm"), id, "{}", cluster.logs());
        let checkpoints = cluster.json(&["checkpoints", &id]);
        let steps = checkpoints.as_array().unwrap().iter().map(|one| one["step"].as_u64().unwrap());
        let kept = steps.max().unwrap_or(0);
        assert!(kept >= 20, "{checkpoints:#}\n{}", cluster.logs());
        cluster.worker(1, &[]);
        cluster.worker(1, &[]);
        if life == 0 {
            cluster.reaches(&id, kept + 20);
        }
    }
    let status = cluster.done(&id);
    assert_eq!(hash(&status), hash(&calm), "{}", cluster.logs());
    assert_eq!(submit(&cluster, &job, &more, "calm"), id);
}

/// A coordinator and its worker that were only held up, and wake beside those that have taken the run over: they train
/// on to their end, and nothing of theirs counts.
#[test]
fn a_former_life_that_wakes_up_changes_nothing() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::by_file(&data);
    cluster.worker(1, &[]);
    let job = tiny_cb(&data, "checkpoint.every = 5");
    let more = ["--set", "training.epochs=60", "--set", "training.eval_every=30"];
    let calm = cluster.run(&job, &more);
    let id = submit(&cluster, &job, &more, "held up");
    cluster.reaches(&id, 20);
    cluster.has_checkpoints(&id, 1);
    let former = (cluster.daemon.take().unwrap(), cluster.workers.remove(0));
    let pids = [former.0.pid(), former.1.pid()];
    let tell = |signalled| pids.iter().for_each(|pid| signal(*pid, signalled));
    tell(libc::SIGSTOP);
    let away = cluster.folder.path().join("former-state");
    std::fs::rename(cluster.state(), &away).unwrap();

    cluster.serve_by_file(&data);
    assert_eq!(submit(&cluster, &job, &more, "held up"), id, "{}", cluster.logs());
    cluster.worker(1, &[]);
    let generation = cluster.reaches(&id, 60)["generation"].as_u64().unwrap();
    tell(libc::SIGCONT);
    assert_eq!(hash(&cluster.done(&id)), hash(&calm), "{}", cluster.logs());
    let generations = std::fs::read_dir(cluster.store().join(format!("jobs/{id}/generations")));
    assert!(generations.unwrap().count() >= 2, "a life each");

    // Whoever finds the run now finds it done, by the later life's last checkpoint.
    drop(former);
    (cluster.daemon, cluster.workers) = (None, Vec::new());
    std::fs::remove_dir_all(cluster.state()).unwrap();
    cluster.serve_by_file(&data);
    assert_eq!(submit(&cluster, &job, &more, "held up"), id, "{}", cluster.logs());
    let newest = cluster.json(&["checkpoints", &id]);
    let newest = newest.as_array().unwrap().last().unwrap().clone();
    assert_eq!(newest["generation"].as_u64(), Some(generation), "{newest:#}");
    cluster.worker(1, &[]);
    assert_eq!(hash(&cluster.done(&id)), hash(&calm), "{}", cluster.logs());
}

/// Without a checkpoint nothing is adopted: the key finds a new job, which is not disturbed by what the old
/// one's generation left in the store.
#[test]
fn a_run_that_is_lost_before_its_first_checkpoint_begins_anew_by_its_key() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::by_file(&data);
    cluster.worker(1, &[]);
    let job = tiny_cb(&data, "checkpoint.every = 1000000");
    let more = ["--set", "training.epochs=40", "--set", "training.eval_every=40"];
    let calm = cluster.run(&job, &more);
    let mut lost = Vec::new();
    for _ in 0..2 {
        let id = submit(&cluster, &job, &more, "early");
        assert!(!lost.contains(&id), "{lost:?}");
        let began = cluster.store().join(format!("jobs/{id}/generations/000001.json"));
        cluster.reaches(&id, 1);
        poll("the generation's start", || began.exists().then_some(()));
        cluster.daemon = None;
        cluster.workers.clear();
        assert!(!cluster.store().join(format!("jobs/{id}/checkpoints")).exists(), "too late");
        std::fs::remove_dir_all(cluster.state()).unwrap();
        cluster.serve_by_file(&data);
        cluster.worker(1, &[]);
        lost.push(id);
    }
    let id = submit(&cluster, &job, &more, "early");
    assert!(!lost.contains(&id), "{lost:?}");
    assert_eq!(hash(&cluster.done(&id)), hash(&calm));
    assert_eq!(submit(&cluster, &job, &more, "early"), id);
}
