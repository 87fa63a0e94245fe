//! What operations read and write, checked before NCCL sees it: it looks at none of this, and would crash, hang or
//! give wrong numbers.

use super::error::NcclError;
use std::ffi::c_void;
use std::ops::Range;
use tch::{Device, Kind, Tensor};

/// Elements of a tensor that NCCL reads or writes.
#[derive(Debug)]
pub struct Piece<'a> {
    /// The tensor.
    pub tensor: &'a Tensor,
    /// Which of its elements.
    pub elements: Range<usize>,
}

impl<'a> Piece<'a> {
    /// A whole tensor.
    pub fn all(tensor: &'a Tensor) -> Self {
        Self { tensor, elements: 0..tensor.numel() }
    }
}

/// What goes to a rank, or comes from it.
#[derive(Debug)]
pub struct Transfer<'a> {
    /// The other rank, or this one.
    pub peer: u32,
    /// The elements.
    pub piece: Piece<'a>,
}

/// A piece that was checked: fp32, contiguous, on the communicator's device, inside its tensor, somewhere in memory.
#[derive(Debug)]
pub(super) struct Operand {
    data: *mut c_void,
    count: usize,
    tensor: Tensor,
}

impl Operand {
    /// Checks a piece that an operation of a rank is to use.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn new(
        (operation, rank): (&'static str, u32),
        device: Device,
        piece: &Piece<'_>,
    ) -> Result<Self, NcclError> {
        let Piece { tensor, elements } = piece;
        let wrong = |what: String| Err(NcclError::Argument { operation, rank, what });
        if !tensor.defined() {
            return wrong("a tensor is undefined".into());
        }
        let kind = tensor.f_kind();
        if !matches!(kind, Ok(Kind::Float)) {
            return wrong(format!("a tensor is {kind:?}, expected fp32"));
        }
        if tensor.device() != device {
            return wrong(format!("a tensor lies on {:?}, expected {device:?}", tensor.device()));
        }
        if !tensor.is_contiguous() {
            return wrong(format!("a tensor of shape {:?} is not contiguous", tensor.size()));
        }
        let all = tensor.numel();
        if elements.start > elements.end || elements.end > all {
            return wrong(format!("elements {elements:?} of a tensor of {all}"));
        }
        let base = tensor.data_ptr();
        if base.is_null() {
            return wrong("a tensor has no memory".into());
        }
        // Within the tensor, as was just seen.
        let data = base.wrapping_byte_add(elements.start * size_of::<f32>());
        Ok(Self { data, count: elements.len(), tensor: tensor.shallow_clone() })
    }

    /// Where it begins.
    pub(super) fn data(&self) -> *mut c_void {
        self.data
    }

    /// Number of its elements.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What keeps its memory.
    pub(super) fn into_tensor(self) -> Tensor {
        self.tensor
    }
}
