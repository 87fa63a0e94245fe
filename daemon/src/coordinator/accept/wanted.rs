//! What of stores a job needs: known before anything is fetched for it.

use super::{Roots, own_task};
use crate::checkpoint::peft;
use crate::inputs::{Needs, Wanted};
use crate::tasks;
use crate::tasks::rows::{self, Labels};
use ptv2_common::error::Explained;
use ptv2_common::names;
use ptv2_common::spec::JobSpec;
use serde_json::Value;

/// Keys that name a folder, or a place in a store.
pub const DATA: &str = "data.root";
/// The backbone.
pub const BACKBONE: &str = "backbone.path";
/// First values.
pub const ADAPTER: &str = "init.adapter";
/// Values that are scored.
pub const SCORED_ADAPTER: &str = "adapter";

/// What a job needs of stores, by the keys that name the places; the small ones first. Nothing for a job
/// that names folders only. `split` is the one that is scored, of a job that scores.
///
/// # Errors
/// For a URL that may not be read, and what is wrong with the task.
pub fn wanted(
    spec: Value,
    roots: &Roots,
    split: Option<&str>,
) -> Result<Vec<(&'static str, Wanted)>, Explained> {
    let mut spec = JobSpec::from_value(spec)?;
    let mut found = Vec::new();
    if let Some(url) = roots.store_url(DATA, &spec.data.root)? {
        let needs = rows_of(roots, &mut spec, split)?;
        found.push((DATA, Wanted { url, needs }));
    }
    if let Some(adapter) = &spec.init.adapter
        && let Some(wanted) = adapter_at(ADAPTER, adapter, roots)?
    {
        found.push((ADAPTER, wanted));
    }
    let is_of_hub = spec.backbone.path.starts_with("hf://");
    if !is_of_hub && let Some(url) = roots.store_url(BACKBONE, &spec.backbone.path)? {
        found.push((BACKBONE, Wanted { url, needs: Needs::Backbone }));
    }
    Ok(found)
}

/// What is needed of an adapter that lies in a store.
///
/// # Errors
/// For a URL that may not be read.
pub fn adapter_at(key: &str, location: &str, roots: &Roots) -> Result<Option<Wanted>, Explained> {
    let files = peft::all_files().map(|name| vec![name.to_owned()]);
    let url = roots.store_url(key, location)?;
    Ok(url.map(|url| Wanted { url, needs: Needs::FirstOf(files.into()) }))
}

/// The files of the splits that a job reads.
fn rows_of(roots: &Roots, spec: &mut JobSpec, split: Option<&str>) -> Result<Needs, Explained> {
    if let Some(split) = split {
        names::check("split", split)?;
    }
    let own = own_task(roots, spec)?;
    let task = match &own {
        Some(declared) => tasks::own(declared, spec.data.template_id)?,
        None => tasks::named(&spec.task, spec.data.template_id)?,
    };
    let splits = rows::wanted(&spec.data, split.map(|split| (split, Labels::Optional)));
    let files = |wanted: rows::Wanted| match &own {
        Some(declared) => declared.candidates(&wanted.split),
        None => vec![rows::name(&*task, &wanted.split)],
    };
    Ok(Needs::FirstOf(splits.into_iter().map(files).collect()))
}
