//! The checks that need no files. Each names the key, its value, what was expected, and a hint.

use super::read::SEE_EXAMPLE;
use super::{FORMAT, JobSpec, MethodKind};
use crate::error::Explained;
use crate::hub::HubId;
use crate::names;
use std::collections::BTreeSet;
use std::fmt::Display;

/// Runs of a job at most.
const SEEDS_MAX: usize = 64;

/// Refuses the first value that cannot be.
pub(super) fn check(spec: &JobSpec) -> Result<(), Explained> {
    range("format", spec.format, spec.format == FORMAT, "1, the only format this build reads")?;
    if let Some(name) = &spec.name {
        range("name", name, names::is_name(name), names::PATTERN)?;
    }
    HubId::of(&spec.backbone.path)?;
    check_method(spec)?;
    check_training(spec)?;
    let slices = spec.training.slice_count();
    let wanted = spec.resources.workers.min;
    if wanted > slices {
        return Err(Explained::new(format!(
            "`resources.workers` asks for at least {wanted} workers, but a batch has {slices} slices"
        ))
        .at("resources.workers")
        .expected(format!("at most {slices}"))
        .hint("lower the number of workers, or raise `training.slices` or `training.batch_size`"));
    }
    Ok(())
}

fn check_method(spec: &JobSpec) -> Result<(), Explained> {
    let method = &spec.method;
    let length = method.pre_seq_len;
    range("method.pre_seq_len", length, (1..=4096).contains(&length), "1 to 4096")?;
    if method.prefix_projection && method.kind != MethodKind::Prefix {
        return Err(Explained::new("`method.prefix_projection` is true, but nothing has a prefix")
            .at("method.prefix_projection")
            .expected("false, or `method.kind` of prefix")
            .hint("remove one of the two keys"));
    }
    let hidden = method.prefix_hidden_size;
    range("method.prefix_hidden_size", hidden, (1..=65_536).contains(&hidden), "1 to 65536")?;
    let dropouts = [
        ("method.hidden_dropout_prob", Some(method.hidden_dropout_prob)),
        ("method.prefix_dropout", method.prefix_dropout),
        ("method.attention_dropout", method.attention_dropout),
        ("method.head_dropout", method.head_dropout),
    ];
    for (key, value) in dropouts {
        if let Some(value) = value {
            range(key, value, (0.0..1.0).contains(&value), "at least 0 and below 1")?;
        }
    }
    let length = spec.data.max_seq_length;
    range("data.max_seq_length", length, (8..=8192).contains(&length), "8 to 8192")?;
    for (key, rows) in [
        ("data.max_train_rows", spec.data.max_train_rows),
        ("data.max_val_rows", spec.data.max_val_rows),
    ] {
        if let Some(rows) = rows {
            range(key, rows, rows > 0, "at least 1")?;
        }
    }
    Ok(())
}

fn check_training(spec: &JobSpec) -> Result<(), Explained> {
    let training = &spec.training;
    match (training.epochs, training.max_steps) {
        (Some(epochs), None) => range("training.epochs", epochs, epochs > 0, "at least 1")?,
        (None, Some(steps)) => range("training.max_steps", steps, steps > 0, "at least 1")?,
        (Some(_), Some(_)) => {
            return Err(Explained::new("both `training.epochs` and `training.max_steps` are set")
                .at("training")
                .expected("one of the two")
                .hint("remove the one that you do not mean"));
        }
        (None, None) => {
            return Err(Explained::new(
                "neither `training.epochs` nor `training.max_steps` is set",
            )
            .at("training")
            .expected("one of the two")
            .hint("the reference's scripts use 10 to 120 epochs"));
        }
    }
    let batch = training.batch_size;
    range("training.batch_size", batch, (1..=65_536).contains(&batch), "1 to 65536")?;
    let rate = training.learning_rate;
    range(
        "training.learning_rate",
        rate,
        rate.is_finite() && rate > 0.0,
        "a finite number above 0",
    )?;
    range("training.eval_every", training.eval_every, training.eval_every > 0, "at least 1")?;
    if let Some(patience) = training.early_stopping {
        range("training.early_stopping", patience, patience > 0, "at least 1")?;
    }
    check_seeds(training.seeds.as_deref())?;
    let decay = training.weight_decay;
    range(
        "training.weight_decay",
        decay,
        decay.is_finite() && decay >= 0.0,
        "a finite number, at least 0",
    )?;
    let warmup = training.warmup_ratio;
    range("training.warmup_ratio", warmup, (0.0..=1.0).contains(&warmup), "0 to 1")?;
    let norm = training.max_grad_norm;
    range(
        "training.max_grad_norm",
        norm,
        norm.is_finite() && norm >= 0.0,
        "a finite number, at least 0",
    )?;
    for (key, beta) in
        [("training.adam_beta1", training.adam_beta1), ("training.adam_beta2", training.adam_beta2)]
    {
        range(key, beta, (0.0..1.0).contains(&beta), "at least 0 and below 1")?;
    }
    let epsilon = training.adam_epsilon;
    range(
        "training.adam_epsilon",
        epsilon,
        epsilon.is_finite() && epsilon > 0.0,
        "a finite number above 0",
    )?;
    let slices = training.slice_count();
    range("training.slices", slices, (1..=batch).contains(&slices), "1 to `training.batch_size`")
}

/// Several runs must differ.
fn check_seeds(seeds: Option<&[u64]>) -> Result<(), Explained> {
    let Some(seeds) = seeds else { return Ok(()) };
    let shown = format!("{seeds:?}");
    let count = (1..=SEEDS_MAX).contains(&seeds.len());
    range("training.seeds", &shown, count, "1 to 64 seeds")?;
    let different: BTreeSet<&u64> = seeds.iter().collect();
    let expected = "seeds that differ: runs of one seed are the same";
    range("training.seeds", &shown, different.len() == seeds.len(), expected)
}

fn range(key: &str, value: impl Display, ok: bool, expected: &str) -> Result<(), Explained> {
    if ok {
        return Ok(());
    }
    Err(Explained::new(format!("`{key}` is {value}")).at(key).expected(expected).hint(SEE_EXAMPLE))
}
