//! First values from an adapter directory.

use super::{BERT, MODEL, ROBERTA, name_in};
use crate::checkpoint::STATE_FILE;
use crate::inputs::Folder;
use crate::numerics::state::{HEAD_WEIGHT, Layout, fp32, values_of};
use ptv2_common::error::Explained;
use ptv2_common::storage::sha256;
use safetensors::SafeTensors;

/// Bytes of a value at most: itself and two moments, in fp32, or fp64 in an adapter of others.
const BYTES_A_VALUE: u64 = 16;
/// Bytes of what describes the values, at most.
const HEADER_BYTES_MAX: u64 = 1 << 20;

/// The file of an adapter directory that holds its values: of a PEFT adapter, or of a checkpoint that
/// was pulled in native form.
pub fn values_file(folder: &Folder) -> &'static str {
    if folder.has(STATE_FILE) && !folder.has(MODEL) { STATE_FILE } else { MODEL }
}

/// First values for a layout from an adapter directory. `pinned` is the SHA-256 that the file had at
/// submit. Whether the adapter is meant for this backbone, [`super::check_fit`] says.
///
/// # Errors
/// Names the directory and the tensor, with the expected and the found shape.
pub fn import(
    folder: &Folder,
    layout: &Layout,
    pinned: Option<&str>,
) -> Result<Vec<f32>, Explained> {
    let name = values_file(folder);
    let at = |error: Explained| {
        let error = error.at(folder.place(name));
        if error.hint.is_some() {
            return error;
        }
        error.hint("`init.adapter` must be of the same backbone, method, prefix length and task")
    };
    // A state holds its values thrice, with the moments; the header is small.
    let most = layout.len() as u64 * BYTES_A_VALUE + HEADER_BYTES_MAX;
    let bytes = folder.read(name, most).map_err(|refused| {
        at(Explained::new(format!("no adapter can be read there: {refused}"))
            .expected(format!("a directory with {MODEL} or {STATE_FILE}")))
    })?;
    if let Some(pinned) = pinned
        && let found = sha256(&bytes)
        && found != pinned
    {
        return Err(at(Explained::new(format!("the adapter has SHA-256 {found}")))
            .expected(format!("{pinned}, as it was when the job was submitted")));
    }
    if name == STATE_FILE {
        return values_of(&bytes, layout).map_err(at);
    }
    of_peft(&bytes, layout).map_err(at)
}

/// The values of a PEFT adapter. Each tensor of either must be one of the other.
fn of_peft(bytes: &[u8], layout: &Layout) -> Result<Vec<f32>, Explained> {
    let file = SafeTensors::deserialize(bytes).map_err(|error| Explained::from_error(&error))?;
    let is_roberta = name_in(&ROBERTA, HEAD_WEIGHT).is_some_and(|name| file.tensor(name).is_ok());
    let names = if is_roberta { &ROBERTA } else { &BERT };
    let mut values = Vec::with_capacity(layout.len());
    let mut taken = Vec::new();
    for tensor in layout.all() {
        let Some(name) = name_in(names, &tensor.name) else {
            return Err(Explained::new(format!("PEFT has no name for `{}`", tensor.name))
                .expected("a checkpoint in native form for this method"));
        };
        values.extend(fp32(&file, name, &tensor.shape)?);
        taken.push(name);
    }
    let mut all = file.names();
    all.sort_unstable();
    if let Some(left) = all.into_iter().find(|name| !taken.contains(name)) {
        return Err(Explained::new(format!(
            "the adapter's tensor `{left}` has no place in the job"
        ))
        .expected(taken.join(", "))
        .hint("a BERT's trained pooler wants `method.pooler` of trained"));
    }
    Ok(values)
}
