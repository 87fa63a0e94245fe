//! Tokenized rows: in memory, as chunk files of the artifact store, and the manifest over them.
//!
//! `features/<hash>/<split>-<number>.safetensors` hold at most [`ROWS_OF_A_CHUNK`] rows each;
//! `features/<hash>/manifest.json` is put last, so features exist if and only if it does. The hash
//! covers all that the rows depend on.

use crate::tasks::rows::VAL;
use ptv2_common::error::Explained;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The version of chunks and manifest that this build writes; a part of the hash.
pub const FORMAT: u32 = 1;

/// Rows of a chunk file at most.
pub const ROWS_OF_A_CHUNK: usize = 4096;

/// Tokenized rows of a split.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rows {
    ids: Vec<u32>,
    types: Vec<u8>,
    /// Where each sequence begins in `ids` and `types`; one more entry ends the last.
    sequence_offsets: Vec<u32>,
    /// Where each row's sequences begin in `sequence_offsets`; one more entry ends the last.
    row_offsets: Vec<u32>,
    labels: Vec<i32>,
    idx: Vec<u32>,
    /// What each row is about, as JSON; nothing where its number says it.
    about: Vec<u8>,
    /// Where each row's begins in `about`; one more entry ends the last.
    about_offsets: Vec<u32>,
}

/// One tokenized sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sequence<'a> {
    /// Token ids, special tokens included.
    pub ids: &'a [u32],
    /// Token types.
    pub types: &'a [u8],
}

/// All features of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The task.
    pub task: String,
    /// Chunks by split (`train`, `val`), in the order of rows.
    pub splits: BTreeMap<String, Vec<Chunk>>,
    /// The split whose rows are scored; the other is trained on.
    #[serde(default = "val", skip_serializing_if = "is_val")]
    pub scored: String,
    /// Rows that lost tokens to `max_seq_length`, by split. Features of former builds do not say.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub truncated: BTreeMap<String, u64>,
}

impl Manifest {
    /// Rows of a split; 0 where it is not there.
    pub fn rows(&self, split: &str) -> u64 {
        self.splits.get(split).into_iter().flatten().map(|chunk| chunk.rows).sum()
    }
}

/// A chunk file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chunk {
    /// Its object's key.
    pub key: String,
    /// SHA-256 of its bytes.
    pub sha256: String,
    /// Rows in it.
    pub rows: u64,
}

fn val() -> String {
    VAL.into()
}

fn is_val(split: &str) -> bool {
    split == VAL
}

/// Folder of the features of a hash.
pub fn folder(hash: &str) -> String {
    format!("features/{hash}")
}

/// Key of the manifest of a hash.
pub fn manifest_key(hash: &str) -> String {
    format!("{}/manifest.json", folder(hash))
}

/// Key of a chunk.
pub fn chunk_key(hash: &str, split: &str, number: usize) -> String {
    format!("{}/{split}-{number:05}.safetensors", folder(hash))
}

impl Default for Rows {
    fn default() -> Self {
        Self {
            ids: Vec::new(),
            types: Vec::new(),
            sequence_offsets: vec![0],
            row_offsets: vec![0],
            labels: Vec::new(),
            idx: Vec::new(),
            about: Vec::new(),
            about_offsets: vec![0],
        }
    }
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Adds a row: its sequences (one, or one a choice), its label's index (-1: unknown) and the
    /// number that the data gives it.
    pub fn push(&mut self, sequences: &[Sequence<'_>], label: i32, idx: u32) {
        self.put(sequences, (label, idx), &[]);
    }

    /// As [`Rows::push`], with what a prediction of the row is for.
    pub fn push_about(&mut self, sequences: &[Sequence<'_>], label: i32, idx: u32, about: &Value) {
        let about = if about.is_null() { String::new() } else { about.to_string() };
        self.put(sequences, (label, idx), about.as_bytes());
    }

    fn put(&mut self, sequences: &[Sequence<'_>], (label, idx): (i32, u32), about: &[u8]) {
        for sequence in sequences {
            self.ids.extend_from_slice(sequence.ids);
            self.types.extend_from_slice(sequence.types);
            self.sequence_offsets.push(small(self.ids.len()));
        }
        self.row_offsets.push(small(self.sequence_offsets.len() - 1));
        self.labels.push(label);
        self.idx.push(idx);
        self.about.extend_from_slice(about);
        self.about_offsets.push(small(self.about.len()));
    }

    /// Adds all rows of another.
    pub fn append(&mut self, other: &Self) {
        for row in 0..other.len() {
            let numbers = (other.labels[row], other.idx[row]);
            self.put(&other.sequences(row), numbers, other.about_bytes(row));
        }
    }

    /// A row's sequences.
    pub fn sequences(&self, row: usize) -> Vec<Sequence<'_>> {
        (self.row_offsets[row]..self.row_offsets[row + 1])
            .map(|number| {
                let number = number as usize;
                let range = self.sequence_offsets[number] as usize
                    ..self.sequence_offsets[number + 1] as usize;
                Sequence { ids: &self.ids[range.clone()], types: &self.types[range] }
            })
            .collect()
    }

    /// Tokens of a row's longest sequence.
    pub fn length(&self, row: usize) -> u32 {
        let (first, end) = (self.row_offsets[row] as usize, self.row_offsets[row + 1] as usize);
        self.sequence_offsets[first..=end]
            .windows(2)
            .map(|ends| ends[1] - ends[0])
            .max()
            .unwrap_or(0)
    }

    /// Labels' indices, by row.
    pub fn labels(&self) -> &[i32] {
        &self.labels
    }

    /// The numbers that the data gives its rows.
    pub fn idx(&self) -> &[u32] {
        &self.idx
    }

    /// What a row is about; null where its number says it, or the row is trained on.
    ///
    /// # Errors
    /// When it is no JSON, which means damage.
    pub fn about(&self, row: usize) -> Result<Value, Explained> {
        match self.about_bytes(row) {
            [] => Ok(Value::Null),
            bytes => serde_json::from_slice(bytes).map_err(|error| {
                Explained::new(format!("what row {row} is about cannot be read: {error}"))
            }),
        }
    }

    fn about_bytes(&self, row: usize) -> &[u8] {
        &self.about[self.about_offsets[row] as usize..self.about_offsets[row + 1] as usize]
    }

    /// The rows as a safetensors file.
    ///
    /// # Errors
    /// When the file cannot be assembled, which means a defect.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Explained> {
        let words = |values: &[u32]| -> Vec<u8> {
            values.iter().flat_map(|value| value.to_le_bytes()).collect()
        };
        let labels: Vec<u8> = self.labels.iter().flat_map(|label| label.to_le_bytes()).collect();
        let mut parts = vec![
            ("ids", Dtype::U32, words(&self.ids)),
            ("types", Dtype::U8, self.types.clone()),
            ("sequence_offsets", Dtype::U32, words(&self.sequence_offsets)),
            ("row_offsets", Dtype::U32, words(&self.row_offsets)),
            ("labels", Dtype::I32, labels),
            ("idx", Dtype::U32, words(&self.idx)),
        ];
        // Most rows are about nothing but their number.
        if !self.about.is_empty() {
            parts.push(("about", Dtype::U8, self.about.clone()));
            parts.push(("about_offsets", Dtype::U32, words(&self.about_offsets)));
        }
        let views = parts
            .iter()
            .map(|(name, dtype, bytes)| {
                let size = if *dtype == Dtype::U8 { 1 } else { 4 };
                TensorView::new(*dtype, vec![bytes.len() / size], bytes).map(|view| (*name, view))
            })
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| Explained::from_error(&error))?;
        safetensors::serialize(views, None).map_err(|error| Explained::from_error(&error))
    }

    /// Reads what [`Rows::to_bytes`] wrote.
    ///
    /// # Errors
    /// When a tensor is missing or the offsets do not fit the rows.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Explained> {
        let file =
            SafeTensors::deserialize(bytes).map_err(|error| Explained::from_error(&error))?;
        let data = |name: &str, dtype: Dtype| -> Result<Vec<u8>, Explained> {
            match file.tensor(name) {
                Ok(view) if view.dtype() == dtype => Ok(view.data().to_vec()),
                Ok(_) | Err(_) => Err(Explained::new(format!("features lack the tensor `{name}`"))
                    .expected(format!("{dtype:?}, one dimension"))),
            }
        };
        let words = |name: &str| -> Result<Vec<u32>, Explained> {
            let bytes = data(name, Dtype::U32)?;
            Ok(bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect())
        };
        let labels = data("labels", Dtype::I32)?;
        let (about, about_offsets) = if file.names().contains(&"about") {
            (data("about", Dtype::U8)?, words("about_offsets")?)
        } else {
            (Vec::new(), vec![0; labels.len() / 4 + 1])
        };
        let rows = Self {
            ids: words("ids")?,
            types: data("types", Dtype::U8)?,
            sequence_offsets: words("sequence_offsets")?,
            row_offsets: words("row_offsets")?,
            labels: labels
                .as_chunks::<4>()
                .0
                .iter()
                .map(|word| i32::from_le_bytes(*word))
                .collect(),
            idx: words("idx")?,
            about,
            about_offsets,
        };
        rows.check()
            .then_some(rows)
            .ok_or_else(|| Explained::new("the features' offsets do not fit their rows"))
    }

    fn check(&self) -> bool {
        let tiles = |offsets: &[u32], end: usize| {
            offsets.first() == Some(&0)
                && offsets.is_sorted()
                && offsets.last() == Some(&small(end))
        };
        self.types.len() == self.ids.len()
            && tiles(&self.sequence_offsets, self.ids.len())
            && tiles(&self.row_offsets, self.sequence_offsets.len() - 1)
            && self.row_offsets.len() == self.labels.len() + 1
            && self.idx.len() == self.labels.len()
            && tiles(&self.about_offsets, self.about.len())
            && self.about_offsets.len() == self.labels.len() + 1
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_survive_their_file() {
        let mut rows = Rows::default();
        let one = Sequence { ids: &[1, 2, 3], types: &[0, 0, 1] };
        let two = Sequence { ids: &[4, 5], types: &[0, 1] };
        rows.push(&[one, two], 1, 7);
        let plain = rows.to_bytes().unwrap();
        assert_eq!(Rows::from_bytes(&plain).unwrap(), rows);
        let about = serde_json::json!({"entity": "Zoé"});
        rows.push_about(&[two, two], -1, 9, &about);
        let bytes = rows.to_bytes().unwrap();
        let mut read = Rows::from_bytes(&bytes).unwrap();
        assert_eq!(read, rows);
        assert_eq!(read.sequences(0), [one, two]);
        assert_eq!((read.length(0), read.length(1)), (3, 2));
        assert_eq!((read.about(0).unwrap(), read.about(1).unwrap()), (Value::Null, about));
        read.append(&rows);
        assert_eq!((read.len(), read.sequences(3)), (4, vec![two, two]));
        assert!(Rows::from_bytes(&bytes[..bytes.len() - 1]).is_err());
        assert_eq!(Rows::from_bytes(&Rows::default().to_bytes().unwrap()).unwrap().len(), 0);
    }
}
