//! A job's values as PEFT reads them.

use super::{BERT, CONFIG, MODEL, Names, ORIGIN, Origin, ROBERTA, name_in};
use crate::numerics::projection::flattened;
use crate::numerics::state::{Layout, PREFIX_TABLE, le_bytes};
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use ptv2_common::job::JobRecord;
use ptv2_common::spec::MethodKind;
use safetensors::{Dtype, tensor::TensorView};
use serde::Serialize;
use std::collections::HashMap;

/// An adapter's files: name and bytes. None where PEFT has no form: for anything but a prefix, and for
/// backbones other than BERT and RoBERTa. A projected prefix becomes its table.
///
/// # Errors
/// When a file cannot be assembled, which means a defect.
pub fn export(
    job: &JobRecord,
    layout: &Layout,
    values: &[f32],
) -> Result<Vec<(String, Vec<u8>)>, Explained> {
    let names = match job.backbone.architecture.as_str() {
        "bert" => &BERT,
        "roberta" => &ROBERTA,
        _ => return Ok(Vec::new()),
    };
    if job.spec.method.kind != MethodKind::Prefix {
        return Ok(Vec::new());
    }
    let origin = Origin {
        format: 1,
        task: job.spec.task.clone(),
        labels: job.labels.clone(),
        choices: job.choices,
        backbone: job.backbone.clone(),
        data: serde_json::json!({
            "max_seq_length": job.spec.data.max_seq_length,
            "template_id": job.spec.data.template_id,
        }),
    };
    Ok(vec![
        (CONFIG.into(), json(&config(job)?)?),
        (MODEL.into(), model(names, layout, values)?),
        (ORIGIN.into(), json(&origin)?),
    ])
}

/// The smallest configuration that PEFT 0.12 and 0.21 both read: 0.12 refuses unknown keys.
fn config(job: &JobRecord) -> Result<serde_json::Value, Explained> {
    let backbone = &job.backbone;
    let mut config = serde_json::json!({
        "peft_type": "PREFIX_TUNING",
        "task_type": "SEQ_CLS",
        "base_model_name_or_path": backbone.url.as_ref().unwrap_or(&backbone.directory),
        "inference_mode": true,
        "num_virtual_tokens": job.spec.method.prefix_length(),
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
    Ok(config)
}

fn model(names: &Names, layout: &Layout, values: &[f32]) -> Result<Vec<u8>, Explained> {
    let mut parts = Vec::new();
    for tensor in layout.all() {
        if let Some(name) = name_in(names, &tensor.name) {
            parts.push((name, tensor.shape.clone(), le_bytes(&values[tensor.range.clone()])));
        }
    }
    if let (Some(table), Some(name)) = (flattened(layout, values), name_in(names, PREFIX_TABLE)) {
        parts.push((name, table.shape.to_vec(), le_bytes(&table.values)));
    }
    let views = parts
        .iter()
        .map(|(name, shape, bytes)| {
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (*name, view))
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Explained::from_error(&error))?;
    let format = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(format)).map_err(|error| Explained::from_error(&error))
}

fn json(value: &impl Serialize) -> Result<Vec<u8>, Explained> {
    serde_json::to_vec_pretty(value).map_err(|error| Explained::from_error(&error))
}
