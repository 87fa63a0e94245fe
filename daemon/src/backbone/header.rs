//! The header of a safetensors file: names, shapes and numbers of its tensors, without their values.

use crate::inputs::{Folder, Opened};
use ptv2_common::error::Explained;
use ptv2_common::text::commas_and_brackets;
use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};
use std::io::Read;

/// What weights may be stored as.
const NUMBERS: [Dtype; 3] = [Dtype::F32, Dtype::F16, Dtype::BF16];
/// Bytes before the header, which hold its length, little-endian.
const LENGTH_BYTES: u64 = 8;
/// Bytes of a header at most. The format allows 100 million, which would take many times as much memory; a
/// tensor takes a hundred, and the largest encoders have a thousand tensors.
const HEADER_BYTES_MAX: u64 = 4 << 20;
/// Commas and opening brackets of a header at most: a value takes dozens of bytes while it is parsed. A tensor has
/// some eight.
const HEADER_VALUES_MAX: usize = 100_000;
/// What transformers puts before the names of an encoder that is part of a larger model.
const PREFIXES: [&str; 4] = ["bert.", "roberta.", "mpnet.", "deberta."];

/// What a weight file says of its tensors.
pub struct Header {
    /// Where the file is, for people.
    place: String,
    /// The file itself: what was checked is what is read. None of a header alone.
    file: Option<Opened>,
    tensors: Metadata,
    /// Where the values begin.
    data: u64,
    /// What stands before each name.
    prefix: &'static str,
}

/// A tensor that is as it should be.
pub struct Found<'a> {
    /// Its name in the file.
    pub name: String,
    /// Its numbers and place.
    pub info: &'a TensorInfo,
}

impl Header {
    /// Reads the header of a file, and that the file is as long as it says.
    ///
    /// # Errors
    /// When it cannot be read, is no safetensors file, or is cut off: with both lengths.
    pub fn read(folder: &Folder, name: &str) -> Result<Self, Explained> {
        let place = folder.place(name);
        let file = folder.open(name).map_err(|refused| {
            Explained::new(format!("the weights cannot be read: {refused}")).at(&place)
        })?;
        let header = Self::parse(&place, file.reader(), file.bytes())?;
        Ok(Self { file: Some(file), ..header })
    }

    /// The same of a reader that gives so many bytes.
    ///
    /// # Errors
    /// As [`Header::read`].
    pub fn parse(place: &str, mut file: impl Read, bytes: u64) -> Result<Self, Explained> {
        let refused = |what: String| {
            Explained::new(what)
                .at(place)
                .expected("a whole safetensors file")
                .hint("download the backbone again, or convert it by `save_pretrained`")
        };
        let mut length = 0_u64.to_le_bytes();
        let mut read = |buffer: &mut [u8]| {
            file.read_exact(buffer)
                .map_err(|error| refused(format!("the weights' header cannot be read: {error}")))
        };
        read(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > HEADER_BYTES_MAX {
            let what = format!("the weights' header would have {length} bytes");
            return Err(refused(what).expected(format!(
                "a safetensors file, whose header has {HEADER_BYTES_MAX} bytes at most"
            )));
        }
        let cut_off = |whole: u64| {
            refused(format!("the weights are cut off: the file has {bytes} bytes"))
                .expected(format!("{whole} bytes, as its header says"))
        };
        if LENGTH_BYTES + length > bytes {
            return Err(cut_off(LENGTH_BYTES + length).expected(format!(
                "more than {} bytes, which its header alone takes",
                LENGTH_BYTES + length
            )));
        }
        let mut header = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
        read(&mut header)?;
        let values = commas_and_brackets(&header);
        if values > HEADER_VALUES_MAX {
            return Err(refused("the weights' header holds too many values".into())
                .expected(format!("{HEADER_VALUES_MAX} commas and opening brackets at most")));
        }
        let tensors: Metadata = serde_json::from_slice(&header)
            .map_err(|error| refused(format!("the weights' header cannot be read: {error}")))?;
        let whole = (LENGTH_BYTES + length).saturating_add(tensors.data_len() as u64);
        if whole != bytes {
            return Err(cut_off(whole));
        }
        let names = tensors.tensors();
        let named = |prefix: &&str| names.keys().any(|name| name.starts_with(prefix));
        let prefix = PREFIXES.into_iter().find(named).unwrap_or_default();
        let data = LENGTH_BYTES + length;
        Ok(Self { place: place.to_owned(), file: None, prefix, data, tensors })
    }

    /// Whether the file has a tensor of this very name.
    pub(super) fn has(&self, name_in_file: &str) -> bool {
        self.tensors.info(name_in_file).is_some()
    }

    /// The bytes of a tensor, read from the file: no more of it is ever in memory. It is not mapped,
    /// as a mapped file that is truncated kills the process.
    ///
    /// # Errors
    /// When the file cannot be read, or is shorter than it was.
    pub fn bytes(&self, found: &Found<'_>) -> Result<Vec<u8>, Explained> {
        let failed = |error: std::io::Error| {
            Explained::new(format!("tensor `{}` cannot be read: {error}", found.name))
                .at(&self.place)
        };
        let (start, end) = found.info.data_offsets;
        let file = self.file.as_ref().ok_or(std::io::ErrorKind::NotFound);
        let file = file.map_err(|kind| failed(kind.into()))?;
        // Within the file's size: the header was held against it.
        let mut bytes = vec![0; end - start];
        file.read_exact_at(&mut bytes, self.data + start as u64).map_err(failed)?;
        Ok(bytes)
    }

    /// Whether the file has a tensor, named without the architecture.
    pub fn holds(&self, name: &str) -> bool {
        self.tensors.info(&self.name_in_file(name)).is_some()
    }

    /// One tensor, named without the architecture, of the shape that the configuration implies.
    ///
    /// # Errors
    /// Names the tensor, with the expected and the found shape.
    pub fn find(&self, name: &str, shape: &[usize]) -> Result<Found<'_>, Explained> {
        let name = self.name_in_file(name);
        let refused = |what: String| {
            Explained::new(what)
                .at(&self.place)
                .expected(format!("shape {shape:?}, which config.json implies"))
                .hint("config.json and model.safetensors must belong to one model")
        };
        let Some(info) = self.tensors.info(&name) else {
            return Err(refused(format!("tensor `{name}` is missing")));
        };
        if info.shape != shape {
            return Err(refused(format!("tensor `{name}` has shape {:?}", info.shape)));
        }
        if !NUMBERS.contains(&info.dtype) {
            return Err(refused(format!("tensor `{name}` holds {:?} numbers", info.dtype))
                .expected("F32, F16 or BF16")
                .hint("save the model in one of these"));
        }
        Ok(Found { name, info })
    }

    /// Old conversions from TensorFlow name the norms' tensors `gamma` and `beta`.
    pub(super) fn name_in_file(&self, name: &str) -> String {
        let full = format!("{}{name}", self.prefix);
        let legacy = full
            .replace("LayerNorm.weight", "LayerNorm.gamma")
            .replace("LayerNorm.bias", "LayerNorm.beta");
        let is_legacy = self.tensors.info(&full).is_none() && self.tensors.info(&legacy).is_some();
        if is_legacy { legacy } else { full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backbone::tensors::optional_shapes;
    use crate::backbone::{Config, Shapes, WeightFiles, shapes};
    use serde_json::json;
    use std::path::Path;

    fn file(header: &serde_json::Value, data: usize) -> Vec<u8> {
        let header = header.to_string().into_bytes();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(vec![0; data]);
        bytes
    }

    fn parse(bytes: &[u8]) -> Result<Header, Explained> {
        Header::parse("w", bytes, bytes.len() as u64)
    }

    #[test]
    fn goldens_have_every_tensor_however_they_are_named() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens/bert-tiny");
        for name in ["backbone", "backbone-bare", "backbone-legacy"] {
            let folder = goldens.join(name);
            let shapes = shapes(&Config::read(&folder).unwrap());
            // Three tables and a norm; sixteen tensors a layer; the pooler.
            assert_eq!(shapes.len(), 5 + 2 * 16 + 2);
            WeightFiles::open(&folder).unwrap().check(&shapes).unwrap();
        }
    }

    #[test]
    fn a_header_of_a_million_values_is_refused_before_it_is_parsed() {
        let shape = vec![1; 1_000_000];
        let header = json!({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 4]}});
        let error = parse(&file(&header, 4)).err().unwrap();
        assert_eq!(error.what, "the weights' header holds too many values");
        assert!(error.hint.is_some());
    }

    #[test]
    fn each_architecture_has_its_own_tensors() {
        let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/goldens");
        for (name, outside, optional) in [
            // Three tables and a norm.
            ("roberta-tiny/backbone", 5, 2),
            // Two tables, a norm, the bias.
            ("mpnet-tiny/backbone", 5, 2),
            // The words, a norm, the table of distances and its norm.
            ("deberta-tiny/backbone", 6, 0),
            // Three tables, a norm, the distances, the convolution and its norm.
            ("deberta-tiny/backbone-v2", 10, 0),
        ] {
            let folder = goldens.join(name);
            let config = Config::read(&folder).unwrap();
            let (needed, held) = (shapes(&config), optional_shapes(&config));
            assert_eq!((needed.len(), held.len()), (outside + 2 * 16, optional), "{name}");
            let files = WeightFiles::open(&folder).unwrap();
            files.check(&needed).unwrap();
            files.check_held(&held).unwrap();
            assert_eq!(files.holds("pooler.dense.weight"), optional > 0, "{name}");
            let wrong = Shapes::from([("pooler.dense.bias".into(), vec![7])]);
            assert_eq!(files.check_held(&wrong).is_err(), optional > 0, "{name}");
        }
    }

    #[test]
    fn a_file_that_is_cut_off_says_both_lengths() {
        let whole = file(&json!({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}), 8);
        assert!(parse(&whole).unwrap().find("a", &[2]).is_ok());
        for cut in [0, 7, 8, 20, whole.len() - 1] {
            let error = parse(&whole[..cut]).err().unwrap();
            assert!(error.expected.is_some() && error.hint.is_some(), "{cut}: {error:?}");
        }
        let error = parse(&whole[..whole.len() - 1]).err().unwrap();
        assert!(error.what.contains(&format!("{} bytes", whole.len() - 1)), "{error}");
        assert!(error.expected.unwrap().contains(&format!("{} bytes", whole.len())));
        let giant =
            json!({"a": {"dtype": "U8", "shape": [u64::MAX], "data_offsets": [0, u64::MAX]}});
        assert!(parse(&file(&giant, 0)).is_err());
        let mut huge = whole;
        huge[7] = 1;
        assert!(parse(&huge).err().unwrap().what.contains("would have"));
    }

    #[test]
    fn claims_beyond_the_file_are_refused_before_anything_is_allocated() {
        let claim = |shape: serde_json::Value, end: u64| {
            let info = json!({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, end]}});
            parse(&file(&info, 8)).err().unwrap()
        };
        let error = claim(json!([1_000_000_000_u64]), 4_000_000_000);
        assert!(error.what.contains("cut off") && error.expected.unwrap().contains("4000000"));
        // Elements and bytes that do not agree, and products that overflow.
        claim(json!([1_000_000_000_u64]), 8);
        claim(json!([1_u64 << 32, 1_u64 << 32]), 8);
        claim(json!([u64::MAX, 2]), 8);
        claim(json!([3]), u64::MAX);
        let mut long = 100_000_001_u64.to_le_bytes().to_vec();
        long.push(b'{');
        assert!(parse(&long).err().unwrap().what.contains("would have 100000001 bytes"));
        // Deep nesting is refused, not followed.
        let mut deep = vec![b'['; 100_000];
        deep.splice(0..0, 100_000_u64.to_le_bytes());
        assert!(parse(&deep).is_err());
    }

    #[test]
    fn a_tensor_that_does_not_fit_is_named() {
        let info = |dtype: &str| json!({"dtype": dtype, "shape": [2], "data_offsets": [0, 8]});
        let header = parse(&file(&json!({"bert.a": info("F32")}), 8)).unwrap();
        let error = header.find("a", &[3]).err().unwrap();
        assert_eq!(error.what, "tensor `bert.a` has shape [2]");
        assert_eq!(error.expected.unwrap(), "shape [3], which config.json implies");
        assert_eq!(header.find("b", &[3]).err().unwrap().what, "tensor `bert.b` is missing");
        let header = parse(&file(&json!({"a": info("I32")}), 8)).unwrap();
        assert!(header.find("a", &[2]).err().unwrap().what.contains("I32"));
    }
}
