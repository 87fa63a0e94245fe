//! One generation on one rank: the training loop.
//!
//! Read [`Training::run`], then [`Training::step`].

use super::health::{self, Health};
use super::held::{Exit, Held};
use super::keeper::{Beginning, Keeper};
use super::{Shared, evaluate, join};
use crate::checkpoint::write::Lineage;
use crate::clock;
use crate::collective::Collective;
use crate::features::Rows;
use crate::numerics::adamw::AdamW;
use crate::numerics::batches::{BatchPlan, cut, deal};
use crate::numerics::runs::Runs;
use crate::numerics::schedule::Schedule;
use crate::numerics::state::TunedState;
use crate::numerics::tree::covering;
use crate::protocol::speeds::Speeds;
use crate::protocol::vote::Vote;
use crate::train::batch::{Slice, expected_cost};
use crate::train::step::RunStep;
use crate::train::stepper::Made;
use ptv2_common::api::{LogLevel, MetricsRow, StepMetrics};
use ptv2_common::error::Explained;
use ptv2_common::place::{DevicePhase, Moment, Place, PlacePhase};
use ptv2_common::session::{FromWorker, Stage, Start};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tokio::runtime::Handle;

/// Brings the ranks level and trains to the end; gives the hash of the final tuned state.
///
/// # Errors
/// Why this rank left. What it holds stays in `held`.
pub(super) fn run(
    shared: &Arc<Shared>,
    runtime: &Handle,
    start: &Start,
    held: &mut Held,
    mut group: Box<dyn Collective>,
) -> Result<String, Exit> {
    join::level(shared, runtime, start, held, &mut *group)?;
    let Some(progress) = &held.progress else {
        return Err(Explained::new("a rank began without a state").into());
    };
    // That of a former generation was kept until now, since this rank might have had to leave without having
    // begun this one.
    held.keeper = None;
    if start.rank == 0 {
        let lineage = Lineage {
            features: start.features.clone(),
            generation: start.generation,
            start_step: progress.state.step,
        };
        let beginning = Beginning {
            store: held.store.clone(),
            job: start.job.clone(),
            layout: held.setting.layout.clone(),
            lineage,
            unwritten: progress.ended.iter().chain(&progress.best).cloned().collect(),
        };
        held.keeper = Some(Keeper::start(runtime, Arc::clone(shared), beginning));
    }
    let outcome = Training::new(shared, start, held, &mut *group).and_then(Training::run);
    // What the next generation begins with is on the host, but where the device fails: then it is with the
    // others, or in the store.
    if let Some(progress) = &mut held.progress
        && let Err(error) = held.stepper.settle(&mut progress.state)
    {
        tracing::error!(%error, "the state is lost with its device");
        held.progress = None;
    }
    outcome
}

/// A generation's training on this rank.
pub(super) struct Training<'a> {
    pub(super) shared: &'a Shared,
    pub(super) start: &'a Start,
    pub(super) held: &'a mut Held,
    pub(super) group: &'a mut dyn Collective,
    /// How fast each rank is.
    speeds: Speeds,
    pub(super) runs: Runs,
    plan: BatchPlan,
    schedule: Schedule,
    adamw: AdamW,
    /// The order of rows of a run's epoch.
    order: Option<(u32, u64, Vec<u32>)>,
    /// A state to be kept once the ranks have been seen to agree on it.
    pub(super) unverified: Option<TunedState>,
    /// When, and after which step, a checkpoint was last offered.
    pub(super) kept: (Instant, u64),
    /// Whether training is seen to lead nowhere.
    health: Health,
}

impl<'a> Training<'a> {
    fn new(
        shared: &'a Shared,
        start: &'a Start,
        held: &'a mut Held,
        group: &'a mut dyn Collective,
    ) -> Result<Self, Exit> {
        let training = &start.job.spec.training;
        let runs = Runs::of(&start.job);
        let run = held.progress.as_ref().map_or(0, |progress| progress.state.run);
        let plan = BatchPlan {
            rows: u32::try_from(held.data.train.len()).unwrap_or(u32::MAX),
            batch_size: training.batch_size,
            slices: start.job.plan.slices,
            seed: runs.seed(run),
            shuffle: training.shuffle,
        };
        let adamw = AdamW {
            beta1: training.adam_beta1,
            beta2: training.adam_beta2,
            epsilon: training.adam_epsilon,
            weight_decay: training.weight_decay,
        };
        let step = held.progress.as_ref().map_or(0, |progress| progress.state.step);
        if let Some(progress) = &held.progress {
            held.stepper.load(&progress.state)?;
        }
        Ok(Self {
            shared,
            start,
            held,
            group,
            speeds: Speeds::new(start.members.iter().map(|member| member.weight)),
            plan,
            schedule: Schedule::new(training, runs.steps()),
            runs,
            adamw,
            order: None,
            unverified: None,
            kept: (clock::now(), step),
            health: Health::default(),
        })
    }

    fn run(mut self) -> Result<String, Exit> {
        let (job, generation) = (self.start.job.id.clone(), self.start.generation);
        let place = self.place()?;
        self.shared.pulse.is(Stage::Running);
        self.shared.outbox.put(FromWorker::Running { job, generation, place });
        if self.group.rank() == 0 {
            // What a lost rank 0 applied and did not report any more.
            let rows = self.held.rows_after(self.start.reported_step);
            rows.into_iter().for_each(|row| self.report(row));
        }
        if self.start.job.score.is_some() {
            return self.score();
        }
        loop {
            if self.evaluation_is_due()? && self.evaluate()? {
                self.keep()?;
            }
            let state = self.state()?;
            if self.runs.is_over(state) {
                if self.runs.is_last(state.run) {
                    return self.finish(Vec::new());
                }
                self.next_run()?;
            }
            let leaving = self.step()?;
            if self.checkpoint_is_due()? {
                self.keep()?;
            }
            if leaving {
                // What is parked now, or taken along, is what all have.
                self.agree()?;
                return Err(Exit::Left);
            }
        }
    }

    /// One optimizer step: this rank's slices, the sum over all ranks, the same update everywhere. Says
    /// whether all leave after it.
    fn step(&mut self) -> Result<bool, Exit> {
        let place = self.place()?;
        self.shared.pulse.moved(DevicePhase::Stepping, Some(place));
        let began = clock::now();
        let step = place.step;
        let at = self.run_step()?;
        let slices = self.slices(at.step)?;
        let (own, cost) = self.own_run(&self.held.data.train, &slices);
        let nodes = covering(self.plan.slices, &own);
        let work = self.work(&slices, own.clone());
        let parts = self.held.stepper.parts(self.state()?, at, &nodes, work)?;
        let took = clock::now().saturating_duration_since(began);

        self.shared.pulse.now(Moment::Reduction);
        #[expect(clippy::cast_possible_truncation, reason = "a measurement, not a result")]
        let vote = Vote {
            hash: self.hash()?,
            leaving: self.shared.orders.is_leaving(),
            cost: cost as f32,
            // Of a device that is still at it nothing is measured, and all count alike.
            seconds: if self.held.stepper.waits() { took.as_secs_f32() } else { 0.0 },
        };
        let place = (step, self.plan.slices);
        let votes = self.held.stepper.reduce(self.group, place, parts, &vote.to_bytes())?;
        let votes: Vec<Vote> = votes.iter().map(Vote::from_bytes).collect();
        let leaving = self.verify(&votes)?;
        self.speeds.record(&votes);
        self.shared.pulse.speed(self.speeds.measured(self.group.rank()));

        self.shared.pulse.now(Moment::Update);
        let learning_rate = self.schedule.at(at.step);
        let Some(Made { loss, rows, norm }) = self.update(learning_rate)? else {
            return Err(self.not_finite(at, &slices, own)?);
        };
        let seconds = clock::now().saturating_duration_since(began).as_secs_f64();
        let tokens: u64 =
            slices.iter().flatten().map(|row| tokens(&self.held.data.train, *row)).sum();
        #[expect(clippy::cast_precision_loss, reason = "a batch's tokens are far below 2^53")]
        let tokens = tokens as f64;
        self.note(MetricsRow::Step(StepMetrics {
            step: step + 1,
            epoch: u32::try_from(self.plan.epoch_of(at.step)).unwrap_or(u32::MAX),
            loss,
            learning_rate,
            seed: self.runs.shown_seed(self.state()?.run),
            grad_norm: norm,
            rows_per_s: rows / seconds,
            tokens_per_s: tokens / seconds,
        }));
        let steps_per_epoch = self.plan.steps_per_epoch();
        self.warn(|health| health.step(loss, steps_per_epoch));
        Ok(leaving)
    }

    /// Makes a step of what was reduced. Where loss or gradient are no finite numbers, nothing is changed and
    /// nothing given.
    fn update(&mut self, learning_rate: f64) -> Result<Option<Made>, Exit> {
        let rates = (learning_rate, self.start.job.spec.training.max_grad_norm);
        let Held { progress: Some(progress), stepper, .. } = &mut *self.held else {
            return Err(Exit::Left);
        };
        let made = stepper.update(&mut progress.state, &self.adamw, rates)?;
        if made.is_some() {
            progress.place = Place { step: progress.state.step, ..Place::default() };
            progress.scored.clear();
            #[cfg(feature = "faults")]
            crate::faults::kill_device(progress.state.step, self.shared.config.compute.torch())?;
            #[cfg(feature = "faults")]
            if crate::faults::spoils(progress.state.step) {
                stepper.settle(&mut progress.state)?;
                crate::faults::spoil_state(&mut progress.state);
                stepper.load(&progress.state)?;
            }
            self.shared.pulse.stepped(progress.place);
        }
        Ok(made)
    }

    /// The rows of a step of the current run, by slice.
    fn slices(&mut self, step: u64) -> Result<Vec<Vec<u32>>, Exit> {
        let (run, epoch) = (self.state()?.run, self.plan.epoch_of(step));
        if self.order.as_ref().is_none_or(|(of, at, _)| (*of, *at) != (run, epoch)) {
            self.plan.seed = self.runs.seed(run);
            self.order = Some((run, epoch, self.plan.order(epoch)));
        }
        let order = self.order.as_ref().map_or(&[][..], |(_, _, order)| order);
        let train = &self.held.data.train;
        let length = |row| train.length(row as usize);
        Ok(cut(&order[self.plan.range(step)], self.plan.slices, length))
    }

    /// The run of slices that this rank computes, and what they cost.
    pub(super) fn own_run(&self, data: &Rows, slices: &[Vec<u32>]) -> (Range<u32>, f64) {
        let costs: Vec<f64> = slices.iter().map(|rows| expected_cost(data, rows)).collect();
        let own = deal(&costs, &self.speeds.weights())[self.group.rank() as usize].clone();
        let cost = costs[own.start as usize..own.end as usize].iter().sum();
        (own, cost)
    }

    /// This rank's slices, but for those without rows, as in a partial batch.
    fn work(&self, slices: &[Vec<u32>], own: Range<u32>) -> Vec<Slice> {
        own.filter(|index| !slices[*index as usize].is_empty())
            .map(|index| Slice::of(&self.held.data.train, index, &slices[index as usize]))
            .collect()
    }

    pub(super) fn evaluation_is_due(&self) -> Result<bool, Exit> {
        let step = self.state()?.steps_of_run();
        let every = u64::from(self.start.job.spec.training.eval_every);
        let at_epoch = step > 0
            && self.plan.completes_epoch(step)
            && (step / self.plan.steps_per_epoch()).is_multiple_of(every);
        let is_open = self.place()?.phase == PlacePhase::Applied;
        Ok(is_open && (at_epoch || step >= self.runs.steps()))
    }

    /// Evaluates the current state; gives whether it is the best so far.
    fn evaluate(&mut self) -> Result<bool, Exit> {
        let row = evaluate::evaluate(self)?.row;
        let metric = self.start.job.best_metric.clone();
        let value = row.values.get(&metric).copied().unwrap_or(0.0);
        // Strictly better: of equal ones the earliest stays, as in the reference.
        let is_best = self.state()?.best.as_ref().is_none_or(|best| value > best.value);
        if is_best {
            self.whole_state()?;
        }
        let Some(progress) = &mut self.held.progress else { return Err(Exit::Left) };
        let state = &mut progress.state;
        let measured = ptv2_common::manifest::BestMetric { metric, value, step: state.step };
        state.last = Some(measured.clone());
        if is_best {
            state.best = Some(measured);
            state.best_values.clone_from(&state.values);
            progress.best = Some(Arc::new(state.clone()));
        }
        progress.place.phase = PlacePhase::Evaluated;
        progress.place.evaluation_slice = 0;
        progress.scored.clear();
        self.note(MetricsRow::Evaluation(row));
        Ok(is_best)
    }

    /// Seed and step of the current run.
    fn run_step(&self) -> Result<RunStep, Exit> {
        let state = self.state()?;
        Ok(RunStep { seed: self.runs.seed(state.run), step: state.steps_of_run() })
    }

    /// The state's facts. Its buffers may be behind: see [`Self::whole_state`].
    pub(super) fn state(&self) -> Result<&TunedState, Exit> {
        self.held.progress.as_ref().map(|progress| &progress.state).ok_or(Exit::Left)
    }

    /// The state with its buffers as they are now.
    pub(super) fn whole_state(&mut self) -> Result<&TunedState, Exit> {
        let Held { progress: Some(progress), stepper, .. } = &mut *self.held else {
            return Err(Exit::Left);
        };
        stepper.settle(&mut progress.state)?;
        Ok(&progress.state)
    }

    /// What ranks compare of their states.
    pub(super) fn hash(&self) -> Result<u64, Exit> {
        let state = self.state()?;
        #[cfg(feature = "faults")]
        if crate::faults::reduction_alone() {
            return Ok(0);
        }
        Ok(self.held.stepper.hash(state))
    }

    pub(super) fn place(&self) -> Result<Place, Exit> {
        self.held.progress.as_ref().map(|progress| progress.place).ok_or(Exit::Left)
    }

    /// Why a step was not made: whichever slices of any rank gave no finite loss or gradient.
    ///
    /// # Errors
    /// Why this rank left meanwhile.
    fn not_finite(
        &mut self,
        at: RunStep,
        slices: &[Vec<u32>],
        own: Range<u32>,
    ) -> Result<Exit, Exit> {
        let step = self.place()?.step;
        let bad = self.held.stepper.bad(self.state()?, at, self.work(slices, own))?;
        let bad: Vec<u8> = bad.into_iter().flat_map(u16::to_le_bytes).collect();
        let all = self.group.all_gather_bytes(step, &bad)?.concat();
        let bad: Vec<String> = all
            .as_chunks::<2>()
            .0
            .iter()
            .map(|index| u16::from_le_bytes(*index).to_string())
            .collect();
        let slices = if bad.is_empty() { "none alone".into() } else { bad.join(", ") };
        Ok(health::not_finite(step + 1, self.plan.epoch_of(at.step), &slices).into())
    }

    /// Tells people, once, what rank 0 sees.
    pub(super) fn warn(&mut self, look: impl FnOnce(&mut Health) -> Option<String>) {
        if self.group.rank() == 0
            && let Some(message) = look(&mut self.health)
        {
            let (job, level) = (self.start.job.id.clone(), LogLevel::Warn);
            let step = self.held.progress.as_ref().map(|progress| progress.place.step);
            let _at = tracing::error_span!("at", step).entered();
            self.shared.outbox.put(FromWorker::Log { job, level, message });
        }
    }

    /// Every rank remembers what happened, and rank 0 reports it.
    pub(super) fn note(&mut self, row: MetricsRow) {
        #[cfg(feature = "faults")]
        if crate::faults::reduction_alone() {
            return;
        }
        if self.group.rank() == 0 {
            self.report(row.clone());
        }
        self.held.remember(row);
    }

    fn report(&self, row: MetricsRow) {
        let (job, generation) = (self.start.job.id.clone(), self.start.generation);
        self.shared.outbox.put(FromWorker::Progress { job, generation, metrics: vec![row] });
    }
}

/// A row's tokens.
pub(super) fn tokens(data: &Rows, row: u32) -> u64 {
    data.sequences(row as usize).iter().map(|sequence| sequence.ids.len() as u64).sum()
}
