use super::*;
use fastrand::Rng;
use ptv2_common::launch::LauncherKind;

const SECOND: Duration = Duration::from_secs(1);

fn config(min: u32, max: u32) -> LauncherConfig {
    LauncherConfig {
        kind: LauncherKind::Slurm,
        min,
        max,
        idle: Duration::from_secs(30),
        ..LauncherConfig::default()
    }
}

fn hand(worker: &str, launch: Option<&str>, use_: Use) -> Hand {
    Hand { id: WorkerId(worker.into()), launch: launch.map(str::to_owned), use_ }
}

fn load(wanted: u32, workers: Vec<Hand>) -> Load {
    Load { wanted, workers }
}

fn seen(id: &str, at: At) -> Seen {
    Seen { id: id.into(), slurm_job: Some("7".into()), at }
}

fn pending() -> At {
    At::Pending { state: "PENDING".into(), reason: "Resources".into() }
}

fn dead() -> At {
    At::Ended { well: false, how: Explained::new("it died") }
}

#[test]
fn so_many_are_started_as_can_be_used_and_as_are_allowed() {
    let starts = |(min, max), wanted, workers: Vec<Hand>| {
        let acts = Scaler::new(config(min, max)).step(SECOND, &load(wanted, workers), vec![]);
        acts.iter().map(|act| if let Act::Start(n) = act { *n } else { 0 }).sum::<u32>()
    };
    let other = |use_| vec![hand("w1", None, use_)];
    assert_eq!(starts((0, 4), 0, vec![]), 0);
    assert_eq!(starts((0, 4), 3, vec![]), 3);
    assert_eq!(starts((0, 4), 9, vec![]), 4);
    assert_eq!(starts((2, 4), 0, vec![]), 2);
    assert_eq!(starts((0, 99), 99, vec![]), 8, "so many at once");
    assert_eq!(starts((0, 4), 3, other(Use::Busy)), 2, "who is there already counts first");
    assert_eq!(starts((0, 4), 3, other(Use::Suspect)), 3);
    assert_eq!(starts((0, 4), 3, other(Use::Leaving)), 3);
}

#[test]
fn what_waits_is_cancelled_when_nobody_needs_it_and_not_at_once() {
    let mut scaler = Scaler::new(config(0, 2));
    assert_eq!(scaler.step(SECOND, &load(1, vec![]), vec![]), [Act::Start(1)]);
    let look = |scaler: &mut Scaler, at: u32, wanted| {
        scaler.step(SECOND * at, &load(wanted, vec![]), vec![seen("l1", pending())])
    };
    assert!(look(&mut scaler, 2, 1).is_empty());
    assert!(look(&mut scaler, 3, 0).is_empty());
    assert!(look(&mut scaler, 7, 1).is_empty(), "needed again");
    assert!(look(&mut scaler, 8, 0).is_empty());
    assert_eq!(look(&mut scaler, 13, 0), [Act::End("l1".into())]);
    assert!(look(&mut scaler, 14, 0).is_empty(), "once");
    // It does not count any more.
    assert_eq!(look(&mut scaler, 15, 1), [Act::Start(1)]);
}

#[test]
fn an_idle_worker_goes_after_a_while_and_a_busy_one_stays() {
    let mut scaler = Scaler::new(config(1, 4));
    let running = || ["l1", "l2", "l3"].map(|id| seen(id, At::Running)).to_vec();
    let hands = |second| {
        vec![
            hand("w1", Some("l1"), Use::Busy),
            hand("w2", Some("l2"), second),
            hand("w3", Some("l3"), Use::Idle),
        ]
    };
    for at in 1..31 {
        assert!(scaler.step(SECOND * at, &load(1, hands(Use::Busy)), running()).is_empty());
    }
    let acts = scaler.step(SECOND * 31, &load(1, hands(Use::Idle)), running());
    let third = WorkerId("w3".into());
    assert_eq!(acts, [Act::LetGo(third.clone())]);
    // Gone before it was seen to leave: it is not to come, and its end is no failure.
    scaler.gone(SECOND * 31, &third);
    let two = || hands(Use::Idle)[..2].to_vec();
    assert!(scaler.step(SECOND * 31, &load(1, two()), running()).is_empty());
    assert!(!scaler.status().launches.iter().any(|launch| launch.is_coming()));
    let ended = [&running()[..2], &[seen("l3", dead())]].concat();
    assert!(scaler.step(SECOND * 31, &load(1, two()), ended).is_empty());
    assert_eq!(scaler.status().trouble, None);
    // The other is idle only now, and none is to go below the least.
    let mut left = hands(Use::Idle);
    left[0].use_ = Use::Idle;
    left.truncate(2);
    let (load, mut gone) = (load(0, left), 0);
    for at in 32..200 {
        let acts = scaler.step(SECOND * at, &load, running()[..2].to_vec());
        gone = gone.max(acts.len());
    }
    assert_eq!(gone, 1, "one of two is kept");
}

#[test]
fn failures_are_tried_again_less_and_less_often_and_one_at_a_time() {
    let mut scaler = Scaler::new(config(0, 8));
    let mut starts = Vec::new();
    let mut running: Vec<String> = Vec::new();
    for at in 1..900_u32 {
        let now = SECOND * at;
        let ended = running.drain(..).map(|id| seen(&id, dead())).collect();
        for act in scaler.step(now, &load(5, vec![]), ended) {
            let Act::Start(number) = act else { panic!("{act:?}") };
            starts.push((at, number));
            running.extend((0..number).map(|index| format!("l{at}-{index}")));
        }
        // They are seen once before they end.
        let alive = running.iter().map(|id| seen(id, At::Running)).collect();
        scaler.step(now + SECOND / 2, &load(0, vec![]), alive);
    }
    assert_eq!(starts[0], (1, 5));
    assert!(starts[1..].iter().all(|(_, number)| *number == 1), "{starts:?}");
    assert!(starts.len() < 13, "{starts:?}");
    let trouble = scaler.status().trouble.unwrap();
    assert_eq!(trouble.error.what, "it died");
    assert!(trouble.failures as usize + 1 >= starts.len(), "{trouble:?}");
}

#[test]
fn after_a_failure_one_is_tried_however_long_it_takes_to_fail() {
    let mut scaler = Scaler::new(config(0, 8));
    scaler.step(SECOND, &load(5, vec![]), vec![seen("l1", At::Running)]);
    scaler.step(SECOND * 2, &load(5, vec![]), vec![seen("l1", dead())]);
    assert_eq!(scaler.step(SECOND * 5, &load(5, vec![]), vec![]), [Act::Start(1)]);
    for at in 6..100 {
        let at_work = if at < 50 { pending() } else { At::Running };
        let acts = scaler.step(SECOND * at, &load(5, vec![]), vec![seen("l2", at_work)]);
        assert!(acts.is_empty(), "{acts:?}");
    }
    // It has come: the others follow.
    let come = load(5, vec![hand("w2", Some("l2"), Use::Busy)]);
    let acts = scaler.step(SECOND * 100, &come, vec![seen("l2", At::Running)]);
    assert_eq!(acts, [Act::Start(4)]);
    assert_eq!(scaler.status().trouble, None);
}

#[test]
fn what_was_refused_and_then_is_taken_holds_up_nobody() {
    let mut scaler = Scaler::new(config(0, 8));
    assert_eq!(scaler.step(SECOND, &load(5, vec![]), vec![]), [Act::Start(5)]);
    scaler.refused(SECOND, Explained::new("no such partition"));
    assert_eq!(scaler.step(SECOND * 4, &load(5, vec![]), vec![]), [Act::Start(1)]);
    scaler.accepted();
    let acts = scaler.step(SECOND * 7, &load(5, vec![]), vec![seen("l1", pending())]);
    assert_eq!(acts, [Act::Start(4)]);
    assert_eq!(scaler.status().trouble, None);
}

#[test]
fn one_that_does_not_connect_is_ended_and_counts_as_failed() {
    let mut scaler = Scaler::new(config(0, 2));
    let running = || vec![seen("l1", At::Running)];
    assert!(scaler.step(SECOND, &load(1, vec![]), running()).is_empty());
    let acts = scaler.step(SECOND * 301, &load(1, vec![]), running());
    assert_eq!(acts, [Act::End("l1".into())]);
    let trouble = scaler.status().trouble.unwrap();
    assert!(trouble.error.what.starts_with("Slurm job 7 was not connected within 5m"));
    // Its end is no second failure.
    scaler.step(SECOND * 302, &load(0, vec![]), vec![seen("l1", dead())]);
    assert_eq!(scaler.status().trouble.unwrap().failures, 1);
}

#[test]
fn one_that_ends_well_without_having_come_is_a_failure_too() {
    let mut scaler = Scaler::new(config(0, 2));
    scaler.step(SECOND, &load(1, vec![]), vec![seen("l1", At::Running)]);
    let at = At::Ended { well: true, how: Explained::new("it ended: COMPLETED") };
    scaler.step(SECOND * 2, &load(1, vec![]), vec![seen("l1", at)]);
    assert_eq!(scaler.status().trouble.unwrap().failures, 1);
}

#[test]
fn a_worker_that_has_just_died_is_not_taken_for_someone_elses() {
    let mut scaler = Scaler::new(config(0, 4));
    let hands = || vec![hand("w1", Some("l1"), Use::Busy), hand("w2", Some("l2"), Use::Idle)];
    let both = || ["l1", "l2"].map(|id| seen(id, At::Running)).to_vec();
    for at in 1..40 {
        assert!(scaler.step(SECOND * at, &load(2, hands()), both()).is_empty());
    }
    // Its connection is not known to have ended yet.
    let seen = vec![seen("l1", dead()), seen("l2", At::Running)];
    let acts = scaler.step(SECOND * 40, &load(2, hands()), seen);
    assert!(!acts.iter().any(|act| matches!(act, Act::LetGo(_))), "{acts:?}");
}

/// A made-up Slurm and cluster, for the launcher to live in.
struct World {
    rng: Rng,
    now: Duration,
    config: LauncherConfig,
    launches: BTreeMap<String, Made>,
    wanted: u32,
    started: u32,
    let_go: u32,
    healthy: bool,
}

struct Made {
    /// When it begins to run, and when its worker connects.
    runs_at: Duration,
    connects_at: Duration,
    /// Whether it has a job, and whether it ends.
    busy: bool,
    draining: bool,
}

impl World {
    fn new(seed: u64, min: u32, max: u32) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            now: SECOND,
            config: config(min, max),
            launches: BTreeMap::new(),
            wanted: 0,
            started: 0,
            let_go: 0,
            healthy: false,
        }
    }

    fn load(&mut self) -> Load {
        // Workers take work as long as there is some.
        let mut left = self.wanted;
        let mut workers = Vec::new();
        for (id, made) in &mut self.launches {
            if self.now < made.connects_at {
                continue;
            }
            made.busy = !made.draining && left > 0;
            left -= u32::from(made.busy);
            let use_ = match (made.draining, made.busy) {
                (true, _) => Use::Leaving,
                (false, true) => Use::Busy,
                (false, false) => Use::Idle,
            };
            workers.push(hand(&format!("w{id}"), Some(id), use_));
        }
        load(self.wanted, workers)
    }

    fn seen(&mut self) -> Vec<Seen> {
        let (now, healthy) = (self.now, self.healthy);
        let rng = &mut self.rng;
        let ends = |made: &Made, rng: &mut Rng| {
            made.draining || (!healthy && now >= made.runs_at && rng.u32(0..200) == 0)
        };
        let mut all = Vec::new();
        self.launches.retain(|id, made| {
            let gone = ends(made, rng) && rng.bool();
            let at = match gone {
                true => dead(),
                false if now < made.runs_at => pending(),
                false => At::Running,
            };
            all.push(seen(id, at));
            !gone
        });
        all
    }

    fn tick(&mut self, scaler: &mut Scaler) {
        self.now += SECOND / 4;
        let (load, seen) = (self.load(), self.seen());
        let acts = scaler.step(self.now, &load, seen);
        let lets_go = acts.iter().any(|act| !matches!(act, Act::Start(_)));
        for act in acts {
            match act {
                Act::Start(number) => self.start(number, scaler),
                Act::LetGo(worker) => {
                    let launch = worker.0.trim_start_matches('w').to_owned();
                    let Some(made) = self.launches.get_mut(&launch) else { continue };
                    // The driver drains none that has work by now.
                    made.draining = !made.busy;
                    if made.draining {
                        scaler.gone(self.now, &worker);
                    }
                    self.let_go += 1;
                }
                Act::End(id) => {
                    self.let_go += 1;
                    if let Some(made) = self.launches.get_mut(&id) {
                        made.draining = true;
                    }
                }
            }
        }
        let living = self.launches.values().filter(|made| !made.draining).count();
        assert!(self.launches.len() <= self.config.max as usize, "never more than the most");
        let needed = self.wanted.clamp(self.config.min, self.config.max) as usize;
        assert!(!lets_go || living >= needed, "none is let go that is needed");
    }

    fn start(&mut self, number: u32, scaler: &mut Scaler) {
        for _ in 0..number {
            if !self.healthy && self.rng.u32(0..10) == 0 {
                return scaler.refused(self.now, Explained::new("sbatch refused"));
            }
            scaler.accepted();
            self.started += 1;
            let runs_at = self.now + SECOND * self.rng.u32(0..40);
            let connects_at = runs_at + SECOND * self.rng.u32(1..5);
            let made = Made { runs_at, connects_at, busy: false, draining: false };
            self.launches.insert(format!("l{:05}", self.started), made);
        }
    }

    fn ticks(&mut self, scaler: &mut Scaler, seconds: u32) {
        for _ in 0..seconds * 4 {
            self.tick(scaler);
        }
    }
}

/// Whatever happened before: in the end there are as many as are wanted and allowed, nothing more is started
/// or let go, and without work only the least is left.
#[test]
fn it_follows_the_queue_within_its_bounds_and_comes_to_rest() {
    for seed in 0..300 {
        let mut rng = Rng::with_seed(seed);
        let min = rng.u32(0..3);
        let max = rng.u32(min.max(1)..7);
        let mut world = World::new(seed, min, max);
        let mut scaler = Scaler::new(world.config.clone());
        for _ in 0..rng.u32(1..12) {
            world.wanted = rng.u32(0..9);
            let seconds = rng.u32(1..90);
            world.ticks(&mut scaler, seconds);
        }
        // Nothing fails from now on; the longest pause passes.
        world.healthy = true;
        world.wanted = rng.u32(0..9);
        world.ticks(&mut scaler, 600);
        let settled = (world.started, world.let_go);
        let expected = world.wanted.clamp(min, max);
        let living = |world: &World| count(world.launches.len());
        assert_eq!(living(&world), expected, "seed {seed}: {:?}", scaler.status());
        world.ticks(&mut scaler, 300);
        assert_eq!((world.started, world.let_go), settled, "seed {seed}: it flaps");
        // Work comes and goes faster than workers are let go: none is.
        for _ in 0..20 {
            world.wanted = 0;
            world.ticks(&mut scaler, 4);
            world.wanted = expected;
            world.ticks(&mut scaler, 4);
        }
        assert_eq!((world.started, world.let_go), settled, "seed {seed}: it flaps");
        world.wanted = 0;
        world.ticks(&mut scaler, 120);
        assert_eq!(living(&world), min, "seed {seed}: {:?}", scaler.status());
    }
}
