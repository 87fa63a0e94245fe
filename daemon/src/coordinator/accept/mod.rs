//! Checks a submitted job completely and pins what it refers to; or only says what it would do.
//!
//! Everything here reads files, so callers run it on a blocking thread.

mod backbone;
mod hashes;
mod roots;
#[cfg(test)]
pub(crate) mod tests;

pub use hashes::HashCache;
pub use roots::Roots;

use crate::backbone::{CONFIG, Config, TOKENIZER, WEIGHTS};
use crate::checkpoint::peft;
use crate::numerics::state::{Layout, PREFIX_TABLE};
use crate::tasks::rows::{self, Wanted};
use crate::tasks::{self, Task};
use backbone::Backbone;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::job::{JobRecord, PinnedBackbone};
use ptv2_common::plan::Plan;
use ptv2_common::spec::JobSpec;
use ptv2_common::storage;
use ptv2_common::task::{self, OwnTask};
use serde_json::Value;
use std::path::Path;

/// The version of [`JobRecord`] that this build writes.
const RECORD_FORMAT: u32 = 1;

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
    let resolved = Resolved::new(spec, roots)?;
    let pin = |name: &str| hashes.sha256(&resolved.backbone.directory.join(name));
    let config = &resolved.backbone.config;
    let backbone = PinnedBackbone {
        directory: resolved.spec.backbone.path.clone(),
        config_sha256: pin(CONFIG)?,
        weights_sha256: pin(WEIGHTS)?,
        tokenizer_sha256: pin(TOKENIZER)?,
        hidden_size: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
    };
    let values = resolved.spec.init.adapter.as_ref().map(|one| peft::values_file(Path::new(one)));
    let init_sha256 = values.map(|file| hashes.sha256(&file)).transpose()?;
    let task = resolved.task;
    let root = Path::new(&resolved.spec.data.root);
    let data_sha256 = rows::wanted(&resolved.spec.data)
        .into_iter()
        .map(|Wanted { split, .. }| {
            let sha256 = hashes.sha256(&rows::file(root, &*task, &split))?;
            Ok((split, sha256))
        })
        .collect::<Result<_, Explained>>()?;
    let default_name = || format!("{}-{id}", task.short_name());
    Ok(JobRecord {
        format: RECORD_FORMAT,
        name: resolved.spec.name.clone().unwrap_or_else(default_name),
        spec: resolved.spec,
        spec_sha256: resolved.spec_sha256,
        submitted_unix_ms: now_unix_ms,
        backbone,
        data_sha256,
        init_sha256,
        own_task: resolved.own_task,
        plan: resolved.plan,
        labels: task.labels().into_iter().map(str::to_owned).collect(),
        choices: task.choices(),
        best_metric: task.best_metric().into(),
        id,
    })
}

/// Says what a job would do, with all checks of [`accept`]; hashes nothing.
///
/// # Errors
/// As [`accept`].
pub fn plan(spec: Value, roots: &Roots) -> Result<Plan, Explained> {
    Ok(Resolved::new(spec, roots)?.plan)
}

/// A checked job, its paths made absolute.
struct Resolved {
    spec: JobSpec,
    spec_sha256: String,
    task: Box<dyn Task>,
    own_task: Option<OwnTask>,
    backbone: Backbone,
    plan: Plan,
}

impl Resolved {
    fn new(spec: Value, roots: &Roots) -> Result<Self, Explained> {
        let mut spec = JobSpec::from_value(spec)?;
        // Fields of a struct are written in the order of their declaration: canonical enough.
        let canonical = serde_json::to_vec(&spec).map_err(|error| Explained::from_error(&error))?;
        let data = roots.admit("data.root", &spec.data.root)?;
        let own_task = own_task(roots, &mut spec, &data)?;
        let task = match &own_task {
            Some(declared) => tasks::own(declared, spec.data.template_id)?,
            None => tasks::named(&spec.task, spec.data.template_id)?,
        };
        check_trainable(&*task)?;
        let directory = roots.admit("backbone.path", &spec.backbone.path)?;
        if let Some(adapter) = &spec.init.adapter {
            let adapter = roots.admit("init.adapter", adapter)?;
            backbone::check_adapter(roots, &adapter)?;
            spec.init.adapter = Some(roots::text(&adapter)?);
        }
        let backbone = Backbone::open(roots, directory, spec.data.max_seq_length)?;
        check_positions(&spec, &backbone)?;
        let [mut train_rows, mut val_rows] = [0; 2];
        for wanted in rows::wanted(&spec.data) {
            let count = count_rows(roots, &data, &*task, &wanted)?;
            *(if wanted.is_scored { &mut val_rows } else { &mut train_rows }) = count;
        }
        spec.data.root = roots::text(&data)?;
        spec.backbone.path = roots::text(&backbone.directory)?;
        spec.training.slices = Some(spec.training.slice_count());
        let layout = layout(&spec, &*task, &backbone.config);
        if let Some(adapter) = &spec.init.adapter {
            peft::import(Path::new(adapter), &layout, None)?;
        }
        let plan = compute(&spec, &layout, &backbone.config, [train_rows, val_rows]);
        let spec_sha256 = storage::sha256(&canonical);
        Ok(Self { spec, spec_sha256, task, own_task, backbone, plan })
    }
}

/// Reads the task file that a job names, if it does, and settles which files it has.
fn own_task(roots: &Roots, spec: &mut JobSpec, data: &Path) -> Result<Option<OwnTask>, Explained> {
    if !task::is_own(&spec.task) {
        return Ok(None);
    }
    let file = roots.admit("task", &spec.task)?;
    roots.check_file("task", &file)?;
    let text = std::fs::read_to_string(&file).map_err(|error| {
        Explained::new(format!("the task file cannot be read: {error}"))
            .at(file.display().to_string())
            .expected("a file like configs/own-task.toml")
            .hint("see that it may be read, and is text in UTF-8")
    })?;
    let mut declared = OwnTask::from_toml(&text, &file)?;
    declared.settle_files(data);
    spec.task = roots::text(&file)?;
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
    root: &Path,
    task: &dyn Task,
    wanted: &Wanted,
) -> Result<u64, Explained> {
    let file = rows::file(root, task, &wanted.split);
    roots.check_file("data.root", &file)?;
    rows::each(&rows::load(&file)?, &file, task, wanted, |_| Ok(()))
}

/// What the job tunes.
fn layout(spec: &JobSpec, task: &dyn Task, config: &Config) -> Layout {
    Layout::new(
        spec.method.prefix_length() as usize,
        config.num_hidden_layers as usize,
        config.hidden_size as usize,
        task.head_outputs() as usize,
    )
}

fn compute(spec: &JobSpec, layout: &Layout, config: &Config, rows: [u64; 2]) -> Plan {
    let [train_rows, val_rows] = rows;
    let trainable = layout.len() as u64;
    let steps_per_epoch = train_rows.div_ceil(u64::from(spec.training.batch_size));
    let epochs = u64::from(spec.training.epochs.unwrap_or(0));
    let runs = spec.training.run_seeds().len() as u64;
    Plan {
        train_rows,
        val_rows,
        steps_per_epoch,
        total_steps: runs * spec.training.max_steps.unwrap_or(epochs * steps_per_epoch),
        slices: spec.training.slice_count(),
        trainable_parameters: trainable,
        prefix_parameters: layout.tensor(PREFIX_TABLE).map_or(0, |table| table.range.len() as u64),
        gradient_bytes: 4 * trainable,
        checkpoint_bytes: 3 * 4 * trainable,
        positions_used: config.prefix_positions(spec.method.prefix_length())
            + spec.data.max_seq_length,
        positions_available: config.positions(),
    }
}
