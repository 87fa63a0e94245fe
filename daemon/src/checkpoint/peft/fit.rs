//! Whether an adapter is meant for a job's backbone and method, by what it says of itself.

use super::{CONFIG, ORIGIN, values_file};
use crate::backbone::Config;
use crate::checkpoint::{JOB_FILE, STATE_FILE};
use crate::inputs::Folder;
use ptv2_common::error::Explained;
use ptv2_common::job::PinnedBackbone;
use ptv2_common::spec::{JobSpec, MethodKind};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::fmt::{Display, Formatter};

/// Bytes of a description at most; a job's record has some thousand.
const BYTES_MAX: u64 = 4 << 20;

/// What PEFT says of an adapter; its versions write more keys, each its own.
#[derive(Deserialize)]
struct Adapter {
    peft_type: String,
    task_type: Option<String>,
    base_model_name_or_path: Option<String>,
    #[serde(default)]
    num_virtual_tokens: u32,
    #[serde(default)]
    token_dim: u32,
    #[serde(default)]
    num_attention_heads: u32,
    #[serde(default)]
    num_layers: u32,
}

/// A pulled folder's `ptv2.json` or `job.json`, as far as it is needed here.
#[derive(Deserialize)]
struct Known {
    backbone: PinnedBackbone,
}

/// A backbone's name and sizes.
struct Model<'a> {
    name: &'a str,
    layers: u32,
    hidden: u32,
    heads: u32,
}

impl Display for Model<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        let Self { name, layers, hidden, heads } = self;
        write!(f, "`{name}`, {layers} layers of {hidden} with {heads} heads")
    }
}

/// Checks that an adapter is of the job's method and of a backbone with the job's sizes.
///
/// # Errors
/// Names what the adapter is and what the job wants: the backbones with their sizes, the prefixes with
/// their lengths.
pub fn check_fit(folder: &Folder, spec: &JobSpec, config: &Config) -> Result<(), Explained> {
    let wanted = Model {
        name: &spec.backbone.path,
        layers: config.num_hidden_layers,
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
    };
    if values_file(folder) == STATE_FILE {
        let Some((_, known)) = known(folder)? else { return Ok(()) };
        return check_sizes(folder, &of_pinned(&known.backbone), &wanted);
    }
    let at = |error: Explained| error.at(folder.place(CONFIG));
    let adapter: Adapter = read(folder, CONFIG)?;
    check_kind(&adapter).map_err(at)?;
    let made = Model {
        name: adapter.base_model_name_or_path.as_deref().unwrap_or("a model without a name"),
        layers: adapter.num_layers,
        hidden: adapter.token_dim,
        heads: adapter.num_attention_heads,
    };
    check_sizes(folder, &made, &wanted)?;
    check_method(&adapter, spec).map_err(at)
}

fn check_kind(adapter: &Adapter) -> Result<(), Explained> {
    let task = adapter.task_type.as_deref().unwrap_or("no task");
    if adapter.peft_type == "PREFIX_TUNING" && task == "SEQ_CLS" {
        return Ok(());
    }
    Err(Explained::new(format!("the adapter is {} for {task}", adapter.peft_type))
        .expected("PREFIX_TUNING for SEQ_CLS")
        .hint("adapters of other kinds have no form here"))
}

fn check_sizes(folder: &Folder, made: &Model<'_>, wanted: &Model<'_>) -> Result<(), Explained> {
    let sizes = |model: &Model<'_>| (model.layers, model.hidden, model.heads);
    if sizes(made) == sizes(wanted) {
        return Ok(());
    }
    Err(Explained::new(format!("the adapter is for another backbone: {made}"))
        .at(folder.place(""))
        .expected(format!("one for {wanted}"))
        .hint("take an adapter that was trained on the job's backbone"))
}

fn check_method(adapter: &Adapter, spec: &JobSpec) -> Result<(), Explained> {
    let method = &spec.method;
    if method.kind != MethodKind::Prefix || method.prefix_projection {
        return Err(Explained::new(
            "the adapter is a prefix's table, which the job does not train",
        )
        .expected("`method.kind` of prefix, without `method.prefix_projection`")
        .hint("other methods, and the network of a projection, go on from a native checkpoint"));
    }
    let (found, wanted) = (adapter.num_virtual_tokens, method.pre_seq_len);
    if found == wanted {
        return Ok(());
    }
    Err(Explained::new(format!("the adapter's prefix has {found} positions"))
        .expected(format!("{wanted}, as `method.pre_seq_len` says"))
        .hint(format!("set `method.pre_seq_len` to {found}")))
}

/// Checks that an adapter that knows its backbone's hash was trained on this very one.
///
/// # Errors
/// Names both backbones with their hashes.
pub fn check_backbone(folder: &Folder, backbone: &PinnedBackbone) -> Result<(), Explained> {
    let Some((name, known)) = known(folder)? else { return Ok(()) };
    let made = known.backbone;
    if made.weights_sha256 == backbone.weights_sha256 {
        return Ok(());
    }
    let say = |one: &PinnedBackbone| {
        format!("`{}`, whose weights have SHA-256 {}", one.directory, one.weights_sha256)
    };
    Err(Explained::new(format!("the adapter is for another backbone: {}", say(&made)))
        .at(folder.place(name))
        .expected(format!("one for {}", say(backbone)))
        .hint(
            "take the backbone that it was trained on; where both hold the same numbers in other files, \
             remove the file that names it",
        ))
}

fn of_pinned(backbone: &PinnedBackbone) -> Model<'_> {
    Model {
        name: &backbone.directory,
        layers: backbone.layers,
        hidden: backbone.hidden_size,
        heads: backbone.heads,
    }
}

/// The files that are read of an adapter's folder: its values, and what it says of itself.
pub fn files(folder: &Folder) -> Vec<&'static str> {
    let values = values_file(folder);
    let config = (values != STATE_FILE).then_some(CONFIG);
    let origin = Some(origin(folder)).filter(|name| folder.has(name));
    [Some(values), config, origin].into_iter().flatten().collect()
}

/// All files that an adapter's folder may have.
pub fn all_files() -> [&'static str; 5] {
    [super::MODEL, CONFIG, ORIGIN, STATE_FILE, JOB_FILE]
}

/// The file that names the backbone, where there is one.
fn origin(folder: &Folder) -> &'static str {
    if values_file(folder) == STATE_FILE { JOB_FILE } else { ORIGIN }
}

/// What a pulled folder knows of its backbone, and which file says so.
fn known(folder: &Folder) -> Result<Option<(&'static str, Known)>, Explained> {
    let name = origin(folder);
    if !folder.has(name) {
        return Ok(None);
    }
    Ok(Some((name, read(folder, name)?)))
}

/// Reads one of an adapter's descriptions.
///
/// # Errors
/// Names the file that cannot be read.
pub fn read<T: DeserializeOwned>(folder: &Folder, name: &str) -> Result<T, Explained> {
    let refused = |why: String| {
        Explained::new(format!("what the adapter says of itself cannot be read: {why}"))
            .at(folder.place(name))
            .expected("the folder as it was pulled, or as PEFT saved it")
    };
    let bytes = folder.read(name, BYTES_MAX).map_err(|error| refused(error.to_string()))?;
    serde_json::from_slice(&bytes).map_err(|error| refused(error.to_string()))
}
