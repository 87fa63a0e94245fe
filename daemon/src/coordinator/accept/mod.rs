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
use crate::numerics::state::Layout;
use crate::tasks::rows::{self, Labels};
use crate::tasks::{self, Task};
use backbone::Backbone;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::job::{JobRecord, PinnedBackbone};
use ptv2_common::plan::Plan;
use ptv2_common::spec::JobSpec;
use ptv2_common::storage;
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
        architecture: config.architecture.name().into(),
        hidden_size: config.hidden_size,
        layers: config.num_hidden_layers,
        heads: config.num_attention_heads,
    };
    if let Some(adapter) = &resolved.spec.init.adapter {
        peft::check_backbone(Path::new(adapter), &backbone)?;
    }
    let values = resolved.spec.init.adapter.as_ref().map(|one| peft::values_file(Path::new(one)));
    let init_sha256 = values.map(|file| hashes.sha256(&file)).transpose()?;
    let task = resolved.task;
    let root = Path::new(&resolved.spec.data.root);
    let data_sha256 = rows::PINNED
        .iter()
        .map(|split| Ok(((*split).to_owned(), hashes.sha256(&rows::file(root, task, split))?)))
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
        plan: resolved.plan,
        labels: task.labels().iter().map(|label| (*label).to_owned()).collect(),
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
    task: &'static dyn Task,
    backbone: Backbone,
    plan: Plan,
}

impl Resolved {
    fn new(spec: Value, roots: &Roots) -> Result<Self, Explained> {
        let mut spec = JobSpec::from_value(spec)?;
        // Fields of a struct are written in the order of their declaration: canonical enough.
        let canonical = serde_json::to_vec(&spec).map_err(|error| Explained::from_error(&error))?;
        let task = tasks::by_name(&spec.task)?;
        check_template(&spec, task)?;
        let data = roots.admit("data.root", &spec.data.root)?;
        let directory = roots.admit("backbone.path", &spec.backbone.path)?;
        if let Some(adapter) = &spec.init.adapter {
            let adapter = roots.admit("init.adapter", adapter)?;
            backbone::check_adapter(roots, &adapter)?;
            spec.init.adapter = Some(roots::text(&adapter)?);
        }
        let backbone = Backbone::open(roots, directory, spec.data.max_seq_length)?;
        check_positions(&spec, &backbone)?;
        let rows = |split, limit| count_rows(roots, &data, task, split, limit);
        let train_rows = rows("train", spec.data.max_train_rows)?;
        let val_rows = rows("val", spec.data.max_val_rows)?;
        spec.data.root = roots::text(&data)?;
        spec.backbone.path = roots::text(&backbone.directory)?;
        spec.training.slices = Some(spec.training.slice_count());
        let layout = layout(&spec, task, &backbone.config)?;
        if let Some(adapter) = &spec.init.adapter {
            peft::check_fit(Path::new(adapter), &spec, &backbone.config)?;
            peft::import(Path::new(adapter), &layout, None)?;
        }
        let plan = compute(&spec, &layout, &backbone.config, [train_rows, val_rows]);
        Ok(Self { spec, spec_sha256: storage::sha256(&canonical), task, backbone, plan })
    }
}

fn check_template(spec: &JobSpec, task: &dyn Task) -> Result<(), Explained> {
    let (asked, templates) = (spec.data.template_id, task.templates());
    if asked < templates {
        return Ok(());
    }
    Err(Explained::new(format!("`data.template_id` is {asked}, but {} has no such", task.name()))
        .at("data.template_id")
        .expected(format!("below {templates}"))
        .hint("remove the key: 0 is the default"))
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

/// Counts rows by assembling each, so that a bad row is refused at submit.
fn count_rows(
    roots: &Roots,
    root: &Path,
    task: &dyn Task,
    split: &str,
    limit: Option<u32>,
) -> Result<u64, Explained> {
    let file = rows::file(root, task, split);
    roots.check_file("data.root", &file)?;
    let bytes = rows::load(&file)?;
    rows::parse(&bytes, &file, task, Labels::Needed, limit).map(|rows| rows.len() as u64)
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
    Plan {
        train_rows,
        val_rows,
        steps_per_epoch,
        total_steps: spec.training.max_steps.unwrap_or(epochs * steps_per_epoch),
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
