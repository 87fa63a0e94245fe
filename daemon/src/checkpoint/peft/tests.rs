use super::*;
use crate::backbone::Config;
use crate::checkpoint::{JOB_FILE, STATE_FILE};
use crate::coordinator::run::tests::record;
use crate::inputs::Folder;
use crate::numerics::state::{Layout, TunedState};
use ptv2_common::error::Explained;
use ptv2_common::job::JobRecord;
use ptv2_common::spec::{MethodKind, PoolerKind};
use safetensors::SafeTensors;
use std::path::Path;
use tempfile::TempDir;

/// One layer of four, one head, two labels; a prefix of three.
fn job(architecture: &str) -> JobRecord {
    let mut job = record("j0", "1");
    job.spec.method.pre_seq_len = 3;
    job.backbone.architecture = architecture.into();
    job
}

fn config(job: &JobRecord) -> Config {
    let backbone = &job.backbone;
    let config = serde_json::json!({
        "model_type": backbone.architecture, "hidden_size": backbone.hidden_size,
        "num_hidden_layers": backbone.layers, "num_attention_heads": backbone.heads,
        "intermediate_size": 8, "vocab_size": 9, "max_position_embeddings": 20,
        // Of a DeBERTa.
        "relative_attention": true, "share_att_key": true, "pos_att_type": "p2c|c2p",
    });
    Config::parse(config.to_string().as_bytes()).unwrap()
}

fn layout(job: &JobRecord) -> Layout {
    Layout::of(&job.spec.method, &config(job), 2).unwrap()
}

fn values(layout: &Layout) -> Vec<f32> {
    (0..u16::try_from(layout.len()).unwrap()).map(|at| f32::from(at) / 64.0).collect()
}

/// A job's adapter in a folder, and the values in it.
fn exported(job: &JobRecord) -> (TempDir, Vec<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let values = values(&layout(job));
    for (name, bytes) in export(job, &layout(job), &values).unwrap() {
        std::fs::write(folder.path().join(name), bytes).unwrap();
    }
    (folder, values)
}

/// What a job says of an adapter that it is to start from.
fn check(folder: &Path, job: &JobRecord) -> Result<Vec<f32>, Explained> {
    let folder = Folder::at(folder);
    check_fit(&folder, &job.spec, &config(job))?;
    check_backbone(&folder, &job.backbone)?;
    import(&folder, &layout(job), None)
}

fn names(folder: &Path) -> Vec<String> {
    let bytes = std::fs::read(folder.join(MODEL)).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut names: Vec<String> = file.names().into_iter().map(ToString::to_string).collect();
    names.sort();
    names
}

#[test]
fn an_adapter_survives_its_directory() {
    let bert = job("bert");
    let mut trained = bert.clone();
    trained.spec.method.pooler = Some(PoolerKind::Trained);
    for job in [bert, trained, job("roberta")] {
        let (folder, values) = exported(&job);
        assert_eq!(check(folder.path(), &job).unwrap(), values);
        let error = import(&Folder::at(folder.path()), &layout(&job), Some("0")).unwrap_err();
        assert!(error.what.contains("SHA-256"), "{error:?}");
        let error =
            import(&Folder::at(&folder.path().join("none")), &layout(&job), None).unwrap_err();
        assert!(error.expected.unwrap().contains("adapter_model.safetensors"));
    }
}

#[test]
fn a_head_has_the_names_of_its_architecture() {
    let (bert, _) = exported(&job("bert"));
    let of_bert = ["base_model.classifier.bias", "base_model.classifier.weight"];
    assert_eq!(names(bert.path())[..2], of_bert);
    let (roberta, _) = exported(&job("roberta"));
    let expected = [
        "base_model.classifier.dense.bias",
        "base_model.classifier.dense.weight",
        "base_model.classifier.out_proj.bias",
        "base_model.classifier.out_proj.weight",
        "prompt_embeddings",
    ];
    assert_eq!(names(roberta.path()), expected);
}

#[test]
fn a_projection_is_exported_as_its_table() {
    let mut projected = job("bert");
    projected.spec.method.prefix_projection = true;
    projected.spec.method.prefix_hidden_size = 2;
    let (folder, _) = exported(&projected);
    assert_eq!(check(folder.path(), &job("bert")).unwrap().len(), layout(&job("bert")).len());
    // The network does not come back out of its table.
    let error = check(folder.path(), &projected).unwrap_err();
    assert!(error.what.contains("a prefix's table"), "{error:?}");
    let error = import(&Folder::at(folder.path()), &layout(&projected), None).unwrap_err();
    assert!(error.what.contains("`prefix.embedding`"), "{error:?}");
}

#[test]
fn what_peft_has_no_form_for_is_not_exported() {
    let mut prompt = job("bert");
    prompt.spec.method.kind = MethodKind::Prompt;
    let mut head = job("bert");
    head.spec.method.kind = MethodKind::Head;
    for job in [prompt, head, job("mpnet"), job("deberta-v2")] {
        assert!(export(&job, &layout(&job), &values(&layout(&job))).unwrap().is_empty());
    }
}

/// Both backbones are named, with what tells them apart.
#[test]
fn an_adapter_for_another_backbone_is_refused() {
    let (folder, _) = exported(&job("bert"));
    let mut other = job("bert");
    other.spec.backbone.path = "/other".into();
    other.backbone.layers = 2;
    let error = check(folder.path(), &other).unwrap_err();
    assert_eq!(error.what, "the adapter is for another backbone: `/m`, 1 layers of 4 with 1 heads");
    assert_eq!(error.expected.unwrap(), "one for `/other`, 2 layers of 4 with 1 heads");

    let mut other = job("bert");
    other.backbone.directory = "/other".into();
    other.backbone.weights_sha256 = "ab".into();
    let error = check(folder.path(), &other).unwrap_err();
    assert!(error.what.contains("`/m`, whose weights have SHA-256"), "{error:?}");
    assert_eq!(error.expected.unwrap(), "one for `/other`, whose weights have SHA-256 ab");
    assert!(error.place.unwrap().ends_with(ORIGIN));
    std::fs::remove_file(folder.path().join(ORIGIN)).unwrap();
    assert!(check(folder.path(), &other).is_ok(), "PEFT's own adapters know no hash");

    let error = check(folder.path(), &job("roberta")).unwrap_err();
    assert!(error.what.contains("`base_model.bert.pooler.dense.bias` is missing"), "{error:?}");
    let (roberta, _) = exported(&job("roberta"));
    let error = check(roberta.path(), &job("bert")).unwrap_err();
    assert!(error.what.contains("`base_model.classifier.dense.bias` has no place"), "{error:?}");
}

/// A native folder says by its `job.json` what it was trained on.
#[test]
fn a_native_checkpoint_of_another_backbone_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut made = job("roberta");
    let layout = layout(&made);
    let state = TunedState::new(values(&layout)).to_bytes(&layout).unwrap();
    std::fs::write(folder.path().join(STATE_FILE), state).unwrap();
    std::fs::write(folder.path().join(JOB_FILE), serde_json::to_vec(&made).unwrap()).unwrap();
    assert_eq!(check(folder.path(), &made).unwrap(), values(&layout));
    // The pooler's values serve whether they are tuned or not.
    made.spec.method.pooler = Some(PoolerKind::Trained);
    assert!(check(folder.path(), &made).is_ok());
    made.backbone.weights_sha256 = "ab".into();
    let error = check(folder.path(), &made).unwrap_err();
    assert!(error.place.unwrap().ends_with(JOB_FILE));
    made.backbone.heads = 2;
    let error = check(folder.path(), &made).unwrap_err();
    assert!(error.expected.unwrap().ends_with("with 2 heads"));
}

#[test]
fn an_adapter_of_another_kind_or_length_is_refused() {
    let refused = |from: &str, to: &str, what: &str| {
        let (folder, _) = exported(&job("bert"));
        let path = folder.path().join(CONFIG);
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(&path, text.replace(from, to)).unwrap();
        let error = check(folder.path(), &job("bert")).unwrap_err();
        assert!(error.what.contains(what), "{error:?}");
        error
    };
    refused("PREFIX_TUNING", "LORA", "the adapter is LORA for SEQ_CLS");
    refused("SEQ_CLS", "TOKEN_CLS", "the adapter is PREFIX_TUNING for TOKEN_CLS");
    let tokens = "\"num_virtual_tokens\": ";
    let error = refused(&format!("{tokens}3"), &format!("{tokens}4"), "has 4 positions");
    assert_eq!(error.hint.unwrap(), "set `method.pre_seq_len` to 4");
    refused("{", "[", "cannot be read");
    let mut prompt = job("bert");
    prompt.spec.method.kind = MethodKind::Prompt;
    let (folder, _) = exported(&job("bert"));
    let error = check(folder.path(), &prompt).unwrap_err();
    assert!(error.expected.unwrap().contains("`method.kind` of prefix"));
}

/// A trained pooler is not left behind, nor made up.
#[test]
fn a_pooler_is_neither_lost_nor_made_up() {
    let plain = job("bert");
    let mut trained = job("bert");
    trained.spec.method.pooler = Some(PoolerKind::Trained);
    let (folder, _) = exported(&trained);
    let error = check(folder.path(), &plain).unwrap_err();
    assert!(error.what.contains("`base_model.bert.pooler.dense.bias` has no place"), "{error:?}");
    assert!(error.hint.unwrap().contains("`method.pooler`"));
    let (folder, _) = exported(&plain);
    assert!(check(folder.path(), &trained).unwrap_err().what.contains("is missing"));
}
