//! Checks a submitted job completely and pins what it refers to; or only says what it would do.
//!
//! Everything here reads files, so callers run it on a blocking thread.

mod backbone;
mod hashes;
mod roots;
pub mod score;
#[cfg(test)]
pub(crate) mod tests;
pub mod wanted;

pub use hashes::HashCache;
pub use roots::Roots;

use crate::backbone::Config;
use crate::checkpoint::peft;
use crate::inputs::Folder;
use crate::numerics::state::Layout;
use crate::tasks::rows::{self, Labels, Wanted};
use crate::tasks::{self, Task};
use backbone::Backbone;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::job::{JobRecord, MirroredFiles, PinnedBackbone, Score};
use ptv2_common::names;
use ptv2_common::plan::Plan;
use ptv2_common::spec::JobSpec;
use ptv2_common::storage;
use ptv2_common::task::{self, OwnTask};
use serde_json::Value;
use std::collections::BTreeMap;
use wanted::{ADAPTER, DATA};

/// The version of [`JobRecord`] that this build writes.
const RECORD_FORMAT: u32 = 1;
/// Bytes of a task file at most.
const TASK_BYTES_MAX: u64 = 1 << 20;

/// Accepts a job: checks its spec, pins its backbone by hash, resolves paths and defaults.
///
/// # Errors
/// Names the key or file, what was expected, and what to do.
pub fn accept(
    spec: Value,
    roots: &Roots,
    hashes: &HashCache,
    id: JobId,
    now_unix_ms: u64,
) -> Result<JobRecord, Explained> {
    let resolved = Resolved::new(spec, roots, None)?;
    let backbone = resolved.backbone.pin(hashes)?;
    if let Some(adapter) = &resolved.adapter {
        peft::check_backbone(adapter, &backbone)?;
    }
    resolved.record(backbone, (roots, hashes), (id, now_unix_ms), None)
}

/// Says what a job would do, with all checks of [`accept`]; hashes nothing.
///
/// # Errors
/// As [`accept`].
pub fn plan(spec: Value, roots: &Roots) -> Result<Plan, Explained> {
    Ok(Resolved::new(spec, roots, None)?.plan)
}

/// A checked job, its paths made absolute.
struct Resolved {
    spec: JobSpec,
    spec_sha256: String,
    task: Box<dyn Task>,
    own_task: Option<OwnTask>,
    /// Where its rows are, and the first values that it names.
    data: Folder,
    adapter: Option<Folder>,
    backbone: Backbone,
    layout: Layout,
    /// The splits that it reads.
    wanted: Vec<Wanted>,
    plan: Plan,
}

impl Resolved {
    /// Of a job that trains, or of one that scores a split.
    fn new(spec: Value, roots: &Roots, scored: Option<(&str, Labels)>) -> Result<Self, Explained> {
        let mut spec = JobSpec::from_value(spec)?;
        // Fields of a struct are written in the order of their declaration: canonical enough.
        let canonical = serde_json::to_vec(&spec).map_err(|error| Explained::from_error(&error))?;
        if let Some((split, _)) = scored {
            names::check("split", split)?;
        }
        let data = roots.admit(DATA, &spec.data.root)?;
        let mut own_task = own_task(roots, &mut spec)?;
        if let Some(declared) = &mut own_task {
            declared.settle_files(data.path());
        }
        let task = match &own_task {
            Some(declared) => tasks::own(declared, spec.data.template_id)?,
            None => tasks::named(&spec.task, spec.data.template_id)?,
        };
        if scored.is_none() {
            check_trainable(&*task)?;
        }
        let adapter = spec.init.adapter.as_ref();
        let adapter = adapter.map(|adapter| roots.admit(ADAPTER, adapter)).transpose()?;
        if let Some(adapter) = &adapter {
            backbone::check_adapter(roots, adapter)?;
            spec.init.adapter = Some(roots::text(adapter)?);
        }
        let backbone = Backbone::find(roots, &spec.backbone.path, spec.data.max_seq_length)?;
        check_positions(&spec, &backbone)?;
        let wanted = rows::wanted(&spec.data, scored);
        let [mut train_rows, mut val_rows] = [0; 2];
        for wanted in &wanted {
            let count = count_rows(roots, &data, &*task, wanted)?;
            *(if wanted.is_scored { &mut val_rows } else { &mut train_rows }) = count;
        }
        spec.data.root = roots::text(&data)?;
        spec.backbone.path = backbone.path()?;
        spec.training.slices = Some(spec.training.slice_count());
        let layout = layout(&spec, &*task, &backbone.config)?;
        if let Some(adapter) = &adapter {
            peft::check_fit(adapter, &spec, &backbone.config)?;
            peft::import(adapter, &layout, None)?;
        }
        let plan = compute(&spec, &layout, &backbone.config, [train_rows, val_rows]);
        let spec_sha256 = storage::sha256(&canonical);
        Ok(Self {
            spec,
            spec_sha256,
            task,
            own_task,
            data,
            adapter,
            backbone,
            layout,
            wanted,
            plan,
        })
    }

    /// The job as it is kept.
    fn record(
        self,
        backbone: PinnedBackbone,
        (roots, hashes): (&Roots, &HashCache),
        (id, now_unix_ms): (JobId, u64),
        score: Option<Score>,
    ) -> Result<JobRecord, Explained> {
        let hash_of = |folder: &Folder, name: &str| {
            let file = roots.check_file("", folder, name)?;
            hashes.sha256(&file, &folder.place(name))
        };
        let values = self.adapter.as_ref().map(|one| hash_of(one, peft::values_file(one)));
        let init_sha256 = values.transpose()?;
        let task = self.task;
        let hash = |split: &str| hash_of(&self.data, &rows::name(&*task, split));
        let data_sha256 = self
            .wanted
            .iter()
            .map(|Wanted { split, .. }| Ok((split.clone(), hash(split)?)))
            .collect::<Result<_, Explained>>()?;
        let default_name = || format!("{}-{id}", task.short_name());
        Ok(JobRecord {
            format: RECORD_FORMAT,
            name: self.spec.name.clone().unwrap_or_else(default_name),
            spec: self.spec,
            spec_sha256: self.spec_sha256,
            submitted_unix_ms: now_unix_ms,
            // Who, is known at the edge.
            submitted_by: None,
            backbone,
            data_sha256,
            init_sha256,
            mirrored: mirrored(roots),
            score,
            own_task: self.own_task,
            plan: self.plan,
            labels: task.labels().into_iter().map(str::to_owned).collect(),
            choices: task.choices(),
            best_metric: task.best_metric().into(),
            id,
        })
    }
}

/// Files of stores that the job needs later.
fn mirrored(roots: &Roots) -> BTreeMap<String, MirroredFiles> {
    let later = |key: &str| key != wanted::SCORED_ADAPTER;
    let found = roots.mirrored.iter().filter(|(key, _)| later(key));
    found
        .map(|(key, found)| {
            let (url, files) = (found.url.to_string(), found.files.clone());
            let folder = found.folder.display().to_string();
            (key.clone(), MirroredFiles { url, folder, files })
        })
        .collect()
}

/// Reads the task file that a job names, if it does.
fn own_task(roots: &Roots, spec: &mut JobSpec) -> Result<Option<OwnTask>, Explained> {
    if !task::is_own(&spec.task) {
        return Ok(None);
    }
    let (path, file) = roots.admit_file("task", &spec.task)?;
    let refused = |why: String| {
        Explained::new(format!("the task file cannot be read: {why}"))
            .at(path.display().to_string())
            .expected("a file like configs/own-task.toml")
            .hint("see that it may be read, and is text in UTF-8")
    };
    let bytes = file.read(TASK_BYTES_MAX).map_err(|error| refused(error.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|error| refused(error.to_string()))?;
    let declared = OwnTask::from_toml(&text, &path)?;
    spec.task = roots::path_text(&path)?;
    Ok(Some(declared))
}

/// Refuses to train on a diagnostic set.
fn check_trainable(task: &dyn Task) -> Result<(), Explained> {
    let Some(other) = task.trained_as() else { return Ok(()) };
    Err(Explained::new(format!("{} has no training rows", task.name()))
        .at("task")
        .expected("a task to train on")
        .hint(format!("train on {other}, and evaluate that job on {}", task.name())))
}

fn check_positions(spec: &JobSpec, backbone: &Backbone) -> Result<(), Explained> {
    let prefix = backbone.config.prefix_positions(spec.method.prefix_length());
    let (longest, bound) = (spec.data.max_seq_length, backbone.config.positions());
    if prefix + longest <= bound {
        return Ok(());
    }
    let room = bound.saturating_sub(prefix);
    let hint = if room >= 8 {
        format!("lower `data.max_seq_length` to {room}, or `method.pre_seq_len`")
    } else {
        "lower `method.pre_seq_len`: the prefix takes positions in front of the text".into()
    };
    Err(Explained::new(format!(
        "a prefix of {prefix} and sequences of up to {longest} take {} positions, but the backbone has \
         {bound}",
        prefix + longest
    ))
    .at("data.max_seq_length")
    .expected(format!("`method.pre_seq_len` + `data.max_seq_length` of at most {bound}"))
    .hint(hint))
}

/// Counts examples by assembling each, so that a bad row is refused at submit.
fn count_rows(
    roots: &Roots,
    data: &Folder,
    task: &dyn Task,
    wanted: &Wanted,
) -> Result<u64, Explained> {
    let name = rows::name(task, &wanted.split);
    roots.check_file(DATA, data, &name).map_err(|error| match error.expected {
        Some(_) => error,
        None => error.expected("a file of rows, JSONL or CSV"),
    })?;
    rows::each(rows::open(data, &name)?.reader(), &data.place(&name), task, wanted, |_| Ok(()))
}

/// What the job tunes.
fn layout(spec: &JobSpec, task: &dyn Task, config: &Config) -> Result<Layout, Explained> {
    Layout::of(&spec.method, config, task.head_outputs() as usize)
}

fn compute(spec: &JobSpec, layout: &Layout, config: &Config, rows: [u64; 2]) -> Plan {
    let [train_rows, val_rows] = rows;
    let trainable = layout.tuned_len() as u64;
    let frozen = layout.len() as u64 - trainable;
    let under = |start| layout.tuned_under(start) as u64;
    let steps_per_epoch = train_rows.div_ceil(u64::from(spec.training.batch_size));
    let epochs = u64::from(spec.training.epochs.unwrap_or(0));
    let runs = spec.training.run_seeds().len() as u64;
    let steps_of_run = spec.training.max_steps.unwrap_or(epochs * steps_per_epoch);
    Plan {
        train_rows,
        val_rows,
        steps_per_epoch,
        // A job that scores has no rows to train on, and no steps.
        total_steps: if train_rows == 0 { 0 } else { runs * steps_of_run },
        slices: spec.training.slice_count(),
        trainable_parameters: trainable,
        prefix_parameters: under("prefix.") + under("prompt."),
        pooler_parameters: under("pooler."),
        frozen_parameters: frozen,
        gradient_bytes: 4 * trainable,
        checkpoint_bytes: 4 * (3 * trainable + frozen),
        positions_used: config.prefix_positions(spec.method.prefix_length())
            + spec.data.max_seq_length,
        positions_available: config.positions(),
    }
}
