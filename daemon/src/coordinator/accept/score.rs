//! Jobs that train nothing: they score a split with values that were trained before.

use super::wanted::SCORED_ADAPTER;
use super::{HashCache, Resolved, Roots, backbone};
use crate::checkpoint::{JOB_FILE, peft};
use crate::inputs::Folder;
use crate::numerics::state::TunedState;
use crate::tasks::rows::Labels;
use ptv2_common::api::ScoreRequest;
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::job::{JobRecord, PinnedBackbone, Score};
use ptv2_common::{spec, storage};
use serde_json::{Value, json};

/// Values that were trained before, and what is known of the job that trained them.
pub struct Trained {
    /// That job's spec, or as much of one as an adapter tells.
    spec: Value,
    /// The backbone that they were trained on, and the names of the labels, where they are known.
    backbone: Option<PinnedBackbone>,
    labels: Option<Vec<String>>,
    values: Values,
    /// For people.
    of: String,
}

enum Values {
    /// A state file.
    State(Vec<u8>),
    /// An adapter's folder.
    Adapter(Folder),
}

impl Trained {
    /// Those of a checkpoint, whose state file this is.
    pub fn checkpoint(record: JobRecord, state: Vec<u8>, of: String) -> Self {
        let spec = serde_json::to_value(&record.spec).unwrap_or_default();
        let (backbone, labels) = (Some(record.backbone), Some(record.labels));
        Self { spec, backbone, labels, values: Values::State(state), of }
    }

    /// Those of a folder: a checkpoint that was pulled in native form tells its whole job, a PEFT adapter
    /// its prefix only.
    ///
    /// # Errors
    /// When there is no adapter, or what it says of itself cannot be read.
    pub fn adapter(location: &str, roots: &Roots) -> Result<Self, Explained> {
        let folder = roots.admit(SCORED_ADAPTER, location)?;
        backbone::check_adapter(roots, &folder)?;
        let of = folder.place("");
        let known = |spec, backbone, labels| (spec, Some(backbone), Some(labels));
        let (spec, backbone, labels) = if folder.has(JOB_FILE) {
            roots.check_file(SCORED_ADAPTER, &folder, JOB_FILE)?;
            let record: JobRecord = peft::read(&folder, JOB_FILE)?;
            let spec = serde_json::to_value(&record.spec).unwrap_or_default();
            known(spec, record.backbone, record.labels)
        } else if folder.has(peft::ORIGIN) {
            roots.check_file(SCORED_ADAPTER, &folder, peft::ORIGIN)?;
            let origin: peft::Origin = peft::read(&folder, peft::ORIGIN)?;
            let mut spec = spec_of_peft(&folder)?;
            spec["task"] = origin.task.into();
            spec["backbone"] = json!({ "path": origin.backbone.path() });
            spec["data"] = origin.data;
            known(spec, origin.backbone, origin.labels)
        } else {
            (spec_of_peft(&folder)?, None, None)
        };
        Ok(Self { spec, backbone, labels, values: Values::Adapter(folder), of })
    }

    /// The spec of a job that scores with these values.
    ///
    /// # Errors
    /// When the request sets what has no part in it.
    pub fn spec_for(&self, request: &ScoreRequest) -> Result<Value, Explained> {
        spec_of(self.spec.clone(), &request.spec)
    }
}

/// What a PEFT adapter tells of a job: its backbone and its prefix. The rest is for the request to say.
fn spec_of_peft(folder: &Folder) -> Result<Value, Explained> {
    let config: Value = peft::read(folder, peft::CONFIG)?;
    let length = config["num_virtual_tokens"].as_u64().ok_or_else(|| {
        Explained::new("`num_virtual_tokens` is no number").at(folder.place(peft::CONFIG))
    })?;
    let mut spec = json!({ "method": { "kind": "prefix", "pre_seq_len": length } });
    if let Some(path) = config["base_model_name_or_path"].as_str().filter(|path| !path.is_empty()) {
        spec["backbone"] = json!({ "path": path });
    }
    Ok(spec)
}

/// Accepts a job that scores. Gives the state file that is to lie with it, too.
///
/// # Errors
/// As [`super::accept`]; and when the values are of another task, backbone or method than the job.
pub fn accept(
    trained: Trained,
    request: &ScoreRequest,
    roots: &Roots,
    hashes: &HashCache,
    (id, now_unix_ms): (JobId, u64),
) -> Result<(JobRecord, Vec<u8>), Explained> {
    let labels = if request.labels { Labels::Needed } else { Labels::Optional };
    let spec = trained.spec_for(request)?;
    let resolved = Resolved::new(spec, roots, Some((&request.split, labels)))?;
    check_task(&trained, &resolved)?;
    let pinned = resolved.backbone.pin(hashes)?;
    if let Some(backbone) = &trained.backbone {
        check_backbone(backbone, &pinned)?;
    }
    let layout = &resolved.layout;
    let values = match trained.values {
        Values::State(bytes) => TunedState::from_bytes(&bytes, layout)?.values,
        Values::Adapter(folder) => {
            peft::check_fit(&folder, &resolved.spec, &resolved.backbone.config)?;
            peft::import(&folder, layout, None)?
        }
    };
    let state = TunedState::new(values).to_bytes(layout)?;
    let score = Score {
        split: request.split.clone(),
        labels: request.labels,
        of: trained.of,
        state_sha256: storage::sha256(&state),
    };
    let record = resolved.record(pinned, (roots, hashes), (id, now_unix_ms), Some(score))?;
    Ok((record, state))
}

/// The source's spec with what the request changes, without what only training needs.
fn spec_of(mut spec: Value, changes: &Value) -> Result<Value, Explained> {
    if let Some(spec) = spec.as_object_mut() {
        spec.remove("init");
        spec.remove("name");
        spec.remove("checkpoint");
        spec.remove("resources");
    }
    if let Some(data) = spec.get_mut("data").and_then(Value::as_object_mut) {
        data.remove("max_train_rows");
        data.remove("max_val_rows");
    }
    // What a spec must say of training, which has no part in this.
    spec["training"] = json!({ "max_steps": 1, "learning_rate": 1.0, "batch_size": 32 });
    spec::merge(&mut spec, changes);
    for key in ["training", "init"] {
        if changes.get(key).is_some() {
            return Err(Explained::new(format!("`{key}` is set for a job that trains nothing"))
                .at(key)
                .expected("keys of task, data, backbone and resources, and a name"));
        }
    }
    Ok(spec)
}

/// A prefix means something for its own task only, and for diagnostic sets of that task.
fn check_task(trained: &Trained, resolved: &Resolved) -> Result<(), Explained> {
    let asked = resolved.spec.task.as_str();
    let of = resolved.task.trained_as();
    if let Some(task) = trained.spec["task"].as_str().filter(|task| *task != asked)
        && of != Some(task)
    {
        let error = format!("the values were trained for {task}, not for {asked}");
        return Err(Explained::new(error).at("task").expected(match of {
            Some(other) => format!("values of {other}, which {asked} is scored with"),
            None => task.to_owned(),
        }));
    }
    // A task's file may have changed since.
    let found: Vec<String> = resolved.task.labels().into_iter().map(str::to_owned).collect();
    let Some(labels) = trained.labels.as_ref().filter(|labels| **labels != found) else {
        return Ok(());
    };
    Err(Explained::new(format!("the task's labels are {}", found.join(", ")))
        .at("task")
        .expected(format!("{}, which the values were trained for", labels.join(", "))))
}

fn check_backbone(trained: &PinnedBackbone, found: &PinnedBackbone) -> Result<(), Explained> {
    if trained.weights_sha256 == found.weights_sha256
        && trained.config_sha256 == found.config_sha256
    {
        return Ok(());
    }
    let named =
        |one: &PinnedBackbone| format!("{} (SHA-256 {})", one.directory, one.weights_sha256);
    Err(Explained::new(format!("the backbone is {}", named(found)))
        .at("backbone.path")
        .expected(format!("{}, which the values were trained on", named(trained)))
        .hint("a prefix is of use on its own backbone only"))
}
