//! One generation on one rank: the training loop.
//!
//! Read [`Training::run`], then [`Training::step`].

use super::agreement;
use super::health::{self, Health};
use super::held::{Exit, Held};
use super::keeper::{Beginning, Keeper};
use super::{Shared, evaluate, join};
use crate::checkpoint::write::Lineage;
use crate::clock;
use crate::collective::Collective;
use crate::features::Rows;
use crate::numerics::adamw::{AdamW, clip_global_norm};
use crate::numerics::batches::{BatchPlan, cut, deal};
use crate::numerics::runs::Runs;
use crate::numerics::schedule::Schedule;
use crate::numerics::state::TunedState;
use crate::numerics::tree::{Node, covering, sum};
use crate::protocol::speeds::Speeds;
use crate::protocol::vote::Vote;
use crate::train::batch::{Slice, expected_cost};
use crate::train::step::{RunStep, SliceGradient};
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
    Training::new(shared, start, held, &mut *group).run()
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
    ) -> Self {
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
        Self {
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
        }
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
        let parts = self.parts(at, &slices, own.clone())?;
        let took = clock::now().saturating_duration_since(began);

        self.shared.pulse.now(Moment::Reduction);
        let progress = self.held.progress.as_ref().ok_or(Exit::Left)?;
        let elements = self.held.setting.layout.tuned_len();
        #[expect(clippy::cast_possible_truncation, reason = "a measurement, not a result")]
        let vote = Vote {
            hash: agreement::hash_of(&progress.state),
            leaving: self.shared.orders.is_leaving(),
            cost: cost as f32,
            seconds: took.as_secs_f32(),
        };
        let mut sums = vec![0.0; elements + 2];
        let votes =
            self.group.reduce(step, self.plan.slices, &parts, &vote.to_bytes(), &mut sums)?;
        let votes: Vec<Vote> = votes.iter().map(Vote::from_bytes).collect();
        let leaving = self.verify(&votes)?;
        self.speeds.record(&votes);
        self.shared.pulse.speed(self.speeds.measured(self.group.rank()));

        self.shared.pulse.now(Moment::Update);
        let update = self.update(at.step, &mut sums)?;
        let Some((loss, learning_rate, grad_norm)) = update else {
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
            grad_norm,
            rows_per_s: f64::from(sums[elements + 1]) / seconds,
            tokens_per_s: tokens / seconds,
        }));
        let steps_per_epoch = self.plan.steps_per_epoch();
        self.warn(|health| health.step(loss, steps_per_epoch));
        Ok(leaving)
    }

    /// Makes the step number `step` of its run, as the summed gradient says; gives the batch's mean loss,
    /// the learning rate and the gradient's norm. `sums` holds gradient, loss sum and row count. Where
    /// they are no finite numbers, nothing is changed and none are given.
    fn update(&mut self, step: u64, sums: &mut [f32]) -> Result<Option<(f64, f64, f64)>, Exit> {
        let elements = sums.len() - 2;
        let (loss_sum, rows) = (f64::from(sums[elements]), sums[elements + 1]);
        let gradient = &mut sums[..elements];
        // The mean over the batch's true number of rows.
        gradient.iter_mut().for_each(|value| *value /= rows);
        let norm = clip_global_norm(gradient, self.start.job.spec.training.max_grad_norm);
        if !loss_sum.is_finite() || !norm.is_finite() {
            return Ok(None);
        }
        let learning_rate = self.schedule.at(step);
        let progress = self.held.progress.as_mut().ok_or(Exit::Left)?;
        let layout = &self.held.setting.layout;
        self.adamw.update(layout, &mut progress.state, gradient, learning_rate);
        progress.place = Place { step: progress.state.step, ..Place::default() };
        progress.scored.clear();
        #[cfg(feature = "faults")]
        crate::faults::spoil_state(&mut progress.state);
        self.shared.pulse.stepped(progress.place);
        Ok(Some((loss_sum / f64::from(rows), learning_rate, norm)))
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

    /// This rank's partial sums: gradient, loss sum, row count.
    fn parts(
        &self,
        at: RunStep,
        slices: &[Vec<u32>],
        own: Range<u32>,
    ) -> Result<Vec<(Node, Vec<f32>)>, Exit> {
        let elements = self.held.setting.layout.tuned_len();
        let mut found = self.gradients(at, slices, own.clone())?.into_iter().peekable();
        // A slice without rows, in a partial batch, adds zeros.
        let mut leaf = |index: u32| match found.next_if(|one| u32::from(one.index) == index) {
            Some(gradient) => leaf_of(gradient),
            None => vec![0.0; elements + 2],
        };
        Ok(covering(self.plan.slices, &own)
            .into_iter()
            .map(|node| (node, sum(node, &mut leaf)))
            .collect())
    }

    /// The gradients of this rank's slices, but for those without rows.
    fn gradients(
        &self,
        at: RunStep,
        slices: &[Vec<u32>],
        own: Range<u32>,
    ) -> Result<Vec<SliceGradient>, Exit> {
        let values = Arc::new(self.state()?.values.clone());
        let work = own
            .filter(|index| !slices[*index as usize].is_empty())
            .map(|index| Slice::of(&self.held.data.train, index, &slices[index as usize]))
            .collect();
        Ok(self.held.pool.gradients(&values, at, work)?)
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
        let Some(progress) = &mut self.held.progress else { return Err(Exit::Left) };
        let state = &mut progress.state;
        let measured = ptv2_common::manifest::BestMetric { metric, value, step: state.step };
        // Strictly better: of equal ones the earliest stays, as in the reference.
        let is_best = state.best.as_ref().is_none_or(|best| value > best.value);
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

    pub(super) fn state(&self) -> Result<&TunedState, Exit> {
        self.held.progress.as_ref().map(|progress| &progress.state).ok_or(Exit::Left)
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
        let found = self.gradients(at, slices, own)?;
        let is_bad = |one: &&SliceGradient| {
            !one.loss.is_finite() || one.gradient.iter().any(|value| !value.is_finite())
        };
        let bad = found.iter().filter(is_bad).flat_map(|one| one.index.to_le_bytes());
        let all = self.group.all_gather_bytes(step, &bad.collect::<Vec<u8>>())?.concat();
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

/// What one slice adds: gradient, loss sum, row count.
fn leaf_of(found: SliceGradient) -> Vec<f32> {
    let mut values = found.gradient;
    values.push(found.loss);
    #[expect(clippy::cast_precision_loss, reason = "a slice's rows are far below 2^24")]
    values.push(found.rows as f32);
    values
}
