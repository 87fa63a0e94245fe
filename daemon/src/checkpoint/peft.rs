//! PEFT's prefix-tuning adapter directory, written and read (specification, section 15).
//!
//! | tensor | shape |
//! |---|---|
//! | `prompt_embeddings` | `[P, 2·L·H]` |
//! | `base_model.classifier.weight` | `[C, H]` |
//! | `base_model.classifier.bias` | `[C]` |

use super::STATE_FILE;
use crate::numerics::state::{
    HEAD_BIAS, HEAD_WEIGHT, Layout, PREFIX_TABLE, TunedState, fp32, le_bytes,
};
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use ptv2_common::job::JobRecord;
use ptv2_common::storage::sha256;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use std::path::{Path, PathBuf};

const CONFIG: &str = "adapter_config.json";
const MODEL: &str = "adapter_model.safetensors";

/// PEFT's name of each tuned tensor.
const NAMES: [(&str, &str); 3] = [
    (HEAD_BIAS, "base_model.classifier.bias"),
    (HEAD_WEIGHT, "base_model.classifier.weight"),
    (PREFIX_TABLE, "prompt_embeddings"),
];

/// An adapter's files: name and bytes. None for a job without a prefix, which PEFT has no form for.
///
/// # Errors
/// When a file cannot be assembled, which means a defect.
pub fn export(
    job: &JobRecord,
    layout: &Layout,
    values: &[f32],
) -> Result<Vec<(String, Vec<u8>)>, Explained> {
    let length = job.spec.method.prefix_length();
    if length == 0 {
        return Ok(Vec::new());
    }
    let backbone = &job.backbone;
    // The smallest configuration that PEFT 0.12 and 0.21 both read: 0.12 refuses unknown keys.
    let mut config = serde_json::json!({
        "peft_type": "PREFIX_TUNING",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": backbone.directory,
        "inference_mode": true,
        "num_virtual_tokens": length,
        "token_dim": backbone.hidden_size,
        "num_transformer_submodules": 1,
        "num_attention_heads": backbone.heads,
        "num_layers": backbone.layers,
        "prefix_projection": false,
        "encoder_hidden_size": backbone.hidden_size,
    });
    if let Some(id) = backbone.hub.as_deref().map(HubId::of).transpose()?.flatten() {
        config["base_model_name_or_path"] = id.repository.into();
        config["revision"] = id.revision.into();
    }
    let config =
        serde_json::to_vec_pretty(&config).map_err(|error| Explained::from_error(&error))?;
    let parts: Vec<_> = layout
        .tensors()
        .iter()
        .filter_map(|tensor| {
            let name = NAMES.iter().find(|(ours, _)| *ours == tensor.name)?.1;
            Some((name, tensor.shape.clone(), le_bytes(&values[tensor.range.clone()])))
        })
        .collect();
    let views = parts
        .iter()
        .map(|(name, shape, bytes)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (*name, view))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Explained::from_error(&error))?;
    let format = std::collections::HashMap::from([("format".to_owned(), "pt".to_owned())]);
    let model = safetensors::serialize(views, Some(format))
        .map_err(|error| Explained::from_error(&error))?;
    Ok(vec![(CONFIG.into(), config), (MODEL.into(), model)])
}

/// The file of an adapter directory that holds its values: of a PEFT adapter, or of a checkpoint that
/// was pulled in native form.
pub fn values_file(directory: &Path) -> PathBuf {
    let (adapter, native) = (directory.join(MODEL), directory.join(STATE_FILE));
    if native.exists() && !adapter.exists() { native } else { adapter }
}

/// First values for a layout from an adapter directory. `pinned` is the SHA-256 that the file had at
/// submit.
///
/// # Errors
/// Names the directory and the tensor, with the expected and the found shape.
pub fn import(
    directory: &Path,
    layout: &Layout,
    pinned: Option<&str>,
) -> Result<Vec<f32>, Explained> {
    let path = values_file(directory);
    let at = |error: Explained| {
        let error = error.at(path.display().to_string());
        error.hint("`init.adapter` must be of the same backbone, prefix length and task")
    };
    let bytes = std::fs::read(&path).map_err(|error| {
        at(Explained::new(format!("no adapter can be read there: {error}"))
            .expected(format!("a directory with {MODEL} or {STATE_FILE}")))
    })?;
    if let Some(pinned) = pinned
        && let found = sha256(&bytes)
        && found != pinned
    {
        return Err(at(Explained::new(format!("the adapter has SHA-256 {found}")))
            .expected(format!("{pinned}, as it was when the job was submitted")));
    }
    if path.ends_with(STATE_FILE) {
        return TunedState::from_bytes(&bytes, layout).map(|state| state.values).map_err(at);
    }
    let file =
        SafeTensors::deserialize(&bytes).map_err(|error| at(Explained::from_error(&error)))?;
    let mut values = Vec::with_capacity(layout.len());
    for tensor in layout.tensors() {
        let Some((_, name)) = NAMES.iter().find(|(ours, _)| *ours == tensor.name) else {
            return Err(at(Explained::new(format!("PEFT has no name for `{}`", tensor.name))));
        };
        values.extend(fp32(&file, name, &tensor.shape).map_err(at)?);
    }
    Ok(values)
}
