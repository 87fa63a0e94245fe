//! Whether frozen weights are still, bit for bit, what was loaded. Memory that fails flips bits without
//! a sign, and every gradient computed with such weights is wrong on all ranks alike.

use super::Result;
use super::backbones::Backbone;
use tch::Tensor;

/// The hashes of a backbone's tensors, and how far they have been looked at.
#[derive(Debug)]
pub struct Audit {
    hashes: Vec<u64>,
    next: usize,
}

impl Audit {
    /// Hashes all tensors of a backbone that was just loaded.
    ///
    /// # Errors
    /// Those of torch.
    pub fn of(bert: &Backbone) -> Result<Self> {
        let hashes = bert.tensors().into_iter().map(hash).collect::<Result<Vec<u64>>>()?;
        let next = hashes.len();
        Ok(Self { hashes, next })
    }

    /// Looks at one more tensor. If it has changed, says which.
    ///
    /// # Errors
    /// Those of torch.
    pub fn next(&mut self, bert: &Backbone) -> Result<Option<String>> {
        if self.is_complete() {
            self.next = 0;
        }
        let tensors = bert.tensors();
        let (Some(tensor), Some(expected)) = (tensors.get(self.next), self.hashes.get(self.next))
        else {
            return Ok(None);
        };
        let found = hash(tensor)?;
        let (number, shape) = (self.next, tensor.size());
        self.next += 1;
        Ok((found != *expected).then(|| {
            format!(
                "tensor {number} of shape {shape:?} hashes to {found:016x}, not {expected:016x}"
            )
        }))
    }

    /// Whether all tensors have been looked at.
    pub fn is_complete(&self) -> bool {
        self.next >= self.hashes.len()
    }

    /// All are to be looked at again.
    pub fn again(&mut self) {
        self.next = 0;
    }
}

/// A 64-bit hash of a tensor's bytes. Each word's mixing is a bijection of its lane, so any single
/// change shows. Four lanes, because one would wait for each product.
fn hash(tensor: &Tensor) -> Result<u64> {
    let count = tensor.numel();
    let mut bytes = vec![0; count * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut bytes, count)?;
    let mut lanes = [1_u64, 2, 3, 4];
    let (blocks, rest) = bytes.as_chunks::<32>();
    for block in blocks {
        let (words, _) = block.as_chunks::<8>();
        for (lane, word) in lanes.iter_mut().zip(words) {
            *lane = mix(*lane, u64::from_le_bytes(*word));
        }
    }
    let rest = rest.iter().fold(0, |hash, byte| mix(hash, u64::from(*byte)));
    Ok(lanes.into_iter().fold(rest, mix))
}

fn mix(hash: u64, word: u64) -> u64 {
    (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::spec::Precision;
    use std::path::Path;

    #[test]
    fn a_flipped_bit_is_found_in_either_precision() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = root.join("../tests/goldens/bert-tiny/backbone");
        for precision in [Precision::Fp32, Precision::Bf16] {
            let bert = Backbone::load(&folder, precision).unwrap();
            let mut audit = Audit::of(&bert).unwrap();
            let whole_pass = |audit: &mut Audit| -> Vec<String> {
                audit.again();
                let mut found = Vec::new();
                while !audit.is_complete() {
                    found.extend(audit.next(&bert).unwrap());
                }
                found
            };
            assert_eq!(whole_pass(&mut audit), [""; 0]);
            let mut weight = bert.tensors()[5].get(3).get(7);
            let before = weight.double_value(&[]);
            // The smallest change that this number can have.
            let mut step = f32::EPSILON;
            while weight.double_value(&[]) == before {
                drop(weight.fill_(before * f64::from(1.0 + step)));
                step *= 2.0;
            }
            let found = whole_pass(&mut audit);
            assert_eq!(found.len(), 1, "{found:?}");
            assert!(found[0].starts_with("tensor 5 of shape"), "{found:?}");
            drop(weight.fill_(before));
            assert_eq!(whole_pass(&mut audit), [""; 0]);
        }
    }
}
