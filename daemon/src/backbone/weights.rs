//! The weight files of a backbone: `model.safetensors`, or the shards that an index names.

use super::header::Header;
use super::{Found, INDEX, Shapes, WEIGHTS};
use crate::inputs::Folder;
use ptv2_common::error::Explained;
use ptv2_common::names;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Bytes of an index at most; those of the largest models have a few megabytes.
pub const INDEX_BYTES_MAX: u64 = 1 << 25;
/// Shards at most.
const SHARDS_MAX: usize = 1000;

/// Which files hold a backbone's weights.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WeightNames {
    /// `model.safetensors` holds all.
    Whole,
    /// Each tensor, by its name in the files, lies in the shard that the index names.
    Sharded(BTreeMap<String, String>),
}

impl WeightNames {
    /// Finds out of a Hugging Face directory. Where it has both, the whole file counts, as in
    /// transformers.
    ///
    /// # Errors
    /// Those of [`WeightNames::parse`], with the index named.
    pub fn read(directory: &Path) -> Result<Self, Explained> {
        Self::of(&Folder::at(directory))
    }

    /// The same of a folder.
    ///
    /// # Errors
    /// As [`WeightNames::read`].
    pub fn of(folder: &Folder) -> Result<Self, Explained> {
        if folder.has(WEIGHTS) || !folder.has(INDEX) {
            return Ok(Self::Whole);
        }
        let at = |error: Explained| error.at(folder.place(INDEX));
        let bytes = folder.read(INDEX, INDEX_BYTES_MAX).map_err(|refused| {
            at(Explained::new(format!("the index of the weights cannot be read: {refused}")))
                .expected(format!("a file of at most {INDEX_BYTES_MAX} bytes"))
                .hint("download the backbone again")
        })?;
        Self::parse(&bytes).map_err(at)
    }

    /// Reads the bytes of a `model.safetensors.index.json`.
    ///
    /// # Errors
    /// When it is no index, or names a file that would not lie beside it. The place is the caller's.
    pub fn parse(bytes: &[u8]) -> Result<Self, Explained> {
        #[derive(Deserialize)]
        struct Index {
            weight_map: BTreeMap<String, String>,
        }
        let whole = "an index as `save_pretrained` of transformers writes it";
        let index: Index = serde_json::from_slice(bytes).map_err(|error| {
            Explained::new(format!("the index of the weights cannot be read: {error}"))
                .expected(whole)
                .hint("download the backbone again")
        })?;
        let shards: BTreeSet<&String> = index.weight_map.values().collect();
        if shards.is_empty() || shards.len() > SHARDS_MAX {
            let what = format!("the index of the weights names {} files", shards.len());
            return Err(Explained::new(what)
                .expected(format!("1 to {SHARDS_MAX}"))
                .hint("download the backbone again"));
        }
        if let Some(shard) = shards.into_iter().find(|shard| !is_shard(shard)) {
            return Err(Explained::new(format!(
                "the index of the weights names the file {shard:?}"
            ))
            .expected("names of .safetensors files that lie beside the index")
            .hint("a backbone reads nothing outside its folder, and no pickles: save it anew"));
        }
        Ok(Self::Sharded(index.weight_map))
    }

    /// The names of all files, the index first where there is one.
    pub fn files(&self) -> Vec<String> {
        match self {
            Self::Whole => vec![WEIGHTS.to_owned()],
            Self::Sharded(_) => [INDEX.to_owned()].into_iter().chain(self.shards()).collect(),
        }
    }

    /// The names of the files that hold tensors, sorted.
    fn shards(&self) -> BTreeSet<String> {
        match self {
            Self::Whole => [WEIGHTS.to_owned()].into(),
            Self::Sharded(map) => map.values().cloned().collect(),
        }
    }
}

/// Whether a name is that of a safetensors file beside the index.
fn is_shard(name: &str) -> bool {
    name.ends_with(".safetensors") && names::is_file_name(name)
}

/// The weights of a directory: what its files say of their tensors, and where the values lie.
pub struct WeightFiles {
    folder: Folder,
    names: WeightNames,
    /// By file name.
    headers: BTreeMap<String, Header>,
}

impl WeightFiles {
    /// Reads the headers of all weight files of a directory, and that each file holds what the index
    /// says of it.
    ///
    /// # Errors
    /// Names the file that is missing, cut off or no safetensors file, and the tensor that is not
    /// where the index says.
    pub fn open(directory: &Path) -> Result<Self, Explained> {
        Self::of(&Folder::at(directory))
    }

    /// The same of a folder.
    ///
    /// # Errors
    /// As [`WeightFiles::open`].
    pub fn of(folder: &Folder) -> Result<Self, Explained> {
        let names = WeightNames::of(folder)?;
        let headers: BTreeMap<String, Header> = names
            .shards()
            .into_iter()
            .map(|file| Ok((file.clone(), Header::read(folder, &file)?)))
            .collect::<Result<_, Explained>>()
            .map_err(|error| match names {
                WeightNames::Whole => error,
                WeightNames::Sharded(_) => named_by_index(error),
            })?;
        let files = Self { folder: folder.clone(), names, headers };
        files.check_index()?;
        Ok(files)
    }

    fn check_index(&self) -> Result<(), Explained> {
        let WeightNames::Sharded(map) = &self.names else { return Ok(()) };
        let astray = map
            .iter()
            .find(|(name, file)| self.headers.get(*file).is_none_or(|shard| !shard.has(name)));
        let Some((name, file)) = astray else { return Ok(()) };
        Err(Explained::new(format!("tensor `{name}` is not in {file}"))
            .at(self.folder.place(INDEX))
            .expected("each tensor in the file that the index names")
            .hint("the index and its files must belong to one model: download them again"))
    }

    /// Checks every tensor of a list.
    ///
    /// # Errors
    /// Those of [`WeightFiles::find`].
    pub fn check(&self, shapes: &Shapes) -> Result<(), Explained> {
        shapes.iter().try_for_each(|(name, shape)| self.find(name, shape).map(drop))
    }

    /// Checks those tensors of a list that the files have.
    ///
    /// # Errors
    /// Those of [`WeightFiles::find`].
    pub fn check_held(&self, shapes: &Shapes) -> Result<(), Explained> {
        let mut held = shapes.iter().filter(|(name, _)| self.holds(name));
        held.try_for_each(|(name, shape)| self.find(name, shape).map(drop))
    }

    /// Whether a tensor is there, named without the architecture.
    pub fn holds(&self, name: &str) -> bool {
        self.headers.values().any(|header| header.holds(name))
    }

    /// One tensor, named without the architecture's prefix, of the shape that the configuration
    /// implies; and the file that holds it.
    ///
    /// # Errors
    /// Names the tensor, with the expected and the found shape.
    pub fn find(&self, name: &str, shape: &[usize]) -> Result<(&Header, Found<'_>), Explained> {
        let holder = match &self.names {
            WeightNames::Whole => self.headers.values().next(),
            WeightNames::Sharded(map) => self
                .headers
                .iter()
                .find(|(file, header)| map.get(&header.name_in_file(name)) == Some(*file))
                .map(|(_, header)| header),
        };
        let Some(header) = holder else {
            return Err(Explained::new(format!("tensor `{name}` is missing"))
                .at(self.folder.place(INDEX))
                .expected(format!("a file with it, of shape {shape:?}, which config.json implies"))
                .hint("config.json and the index must belong to one model"));
        };
        header.find(name, shape).map(|found| (header, found))
    }
}

/// What went wrong with a file that is there because an index names it.
fn named_by_index(error: Explained) -> Explained {
    let expected =
        error.expected.clone().unwrap_or_else(|| format!("each file that {INDEX} names"));
    let hint = "download the backbone again, with all of its files";
    let hint = error.hint.clone().unwrap_or_else(|| hint.to_owned());
    error.expected(expected).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::{Config, shapes};
    use serde_json::{Value, json};
    use std::fs;
    use std::path::PathBuf;

    const LAST: &str = "model-00003-of-00003.safetensors";
    const QUERY: &str = "bert.encoder.layer.0.attention.self.query.weight";

    fn goldens() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/bert-tiny")
    }

    /// A copy of the golden shards.
    fn copied() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(goldens().join("backbone-sharded")).unwrap() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), folder.path().join(entry.file_name())).unwrap();
        }
        folder
    }

    fn check(folder: &Path) -> Result<(), Explained> {
        WeightFiles::open(folder)?.check(&shapes(&Config::read(folder)?))
    }

    /// Changes the index of a copy.
    fn index(folder: &Path, change: impl FnOnce(&mut Value)) {
        let mut index: Value =
            serde_json::from_slice(&fs::read(folder.join(INDEX)).unwrap()).unwrap();
        change(&mut index);
        fs::write(folder.join(INDEX), index.to_string()).unwrap();
    }

    /// Takes `bert.` from the names in a safetensors file.
    fn strip(path: &Path) {
        let bytes = fs::read(path).unwrap();
        let length = usize::try_from(u64::from_le_bytes(*bytes.first_chunk().unwrap())).unwrap();
        let (header, data) = bytes[8..].split_at(length);
        let header = String::from_utf8(header.to_vec()).unwrap().replace("\"bert.", "\"");
        let length = (header.len() as u64).to_le_bytes();
        fs::write(path, [&length, header.as_bytes(), data].concat()).unwrap();
    }

    #[test]
    fn shards_are_as_good_as_one_file_with_and_without_prefix() {
        let folder = copied();
        check(folder.path()).unwrap();
        let files = WeightNames::read(folder.path()).unwrap().files();
        assert_eq!((files.len(), &*files[0], &*files[3]), (4, INDEX, LAST));
        let text = fs::read_to_string(folder.path().join(INDEX)).unwrap();
        fs::write(folder.path().join(INDEX), text.replace("\"bert.", "\"")).unwrap();
        files[1..].iter().for_each(|file| strip(&folder.path().join(file)));
        check(folder.path()).unwrap();
    }

    #[test]
    fn a_tensor_is_read_from_its_shard() {
        let folder = copied();
        let files = WeightFiles::open(folder.path()).unwrap();
        let whole = WeightFiles::open(&goldens().join("backbone")).unwrap();
        for (name, shape) in shapes(&Config::read(folder.path()).unwrap()) {
            let bytes = |files: &WeightFiles| {
                let (header, found) = files.find(&name, &shape).unwrap();
                header.bytes(&found).unwrap()
            };
            assert_eq!(bytes(&files), bytes(&whole), "{name}");
        }
    }

    fn refused(spoil: impl FnOnce(&Path), what: &str, place: &str) -> Explained {
        let folder = copied();
        spoil(folder.path());
        let error = check(folder.path()).unwrap_err();
        assert!(error.what.contains(what), "{error:?} does not say {what:?}");
        assert!(error.place.as_deref().is_some_and(|at| at.ends_with(place)), "{error:?}");
        assert!(error.expected.is_some() && error.hint.is_some(), "{error:?}");
        error
    }

    #[test]
    fn an_index_that_does_not_fit_its_files_is_refused() {
        refused(|folder| fs::remove_file(folder.join(LAST)).unwrap(), "cannot be read", LAST);
        let elsewhere = |name: &'static str| {
            move |folder: &Path| index(folder, |index| index["weight_map"][QUERY] = name.into())
        };
        for name in ["../model.safetensors", "/etc/model.safetensors", "a/b.safetensors", "x.bin"] {
            let error = refused(elsewhere(name), &format!("names the file {name:?}"), INDEX);
            assert!(error.expected.unwrap().contains("beside the index"));
        }
        refused(elsewhere(LAST), &format!("`{QUERY}` is not in {LAST}"), INDEX);
        let forgotten = |folder: &Path| {
            index(folder, |index| {
                index["weight_map"].as_object_mut().unwrap().remove(QUERY).unwrap();
            });
        };
        refused(forgotten, "`encoder.layer.0.attention.self.query.weight` is missing", INDEX);
        let empty = |folder: &Path| index(folder, |index| index["weight_map"] = json!({}));
        refused(empty, "names 0 files", INDEX);
        refused(|folder| fs::write(folder.join(INDEX), "{").unwrap(), "cannot be read", INDEX);
        let cut = |folder: &Path| {
            let bytes = fs::read(folder.join(LAST)).unwrap();
            fs::write(folder.join(LAST), &bytes[..bytes.len() - 1]).unwrap();
        };
        refused(cut, "cut off", LAST);
    }
}
