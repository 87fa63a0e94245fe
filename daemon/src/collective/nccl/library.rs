//! NCCL's library: finds it, and asks it what belongs to no communicator. This file and `communicator.rs` alone call
//! it, and are all of the transport that is not safe by the compiler's word.
//!
//! cudarc's own loader asks for `libnccl.so`, a name that neither PyTorch nor most systems have, panics where it
//! finds none, and takes a code that it does not know for one that it does. So the few functions are bound here,
//! with cudarc's types, and every code is a number until it has been looked at.

#![expect(unsafe_code, reason = "calls of a C library, each with the fact that makes it sound")]

use super::error::{NcclError, Version};
use super::functions::{Code, Functions};
use cudarc::nccl::sys::ncclUniqueId;
use ptv2_common::error::Explained;
use std::ffi::{CStr, c_char};
use std::path::Path;
use std::sync::Arc;

pub(super) const SUCCESS: Code = 0;
pub(super) const IN_PROGRESS: Code = 7;
/// The oldest that is used. Communicators that do not block are there since 2.14; but up to 2.17 a thread writes through
/// the pointer to the handle when the call that was given it may have returned. 2.19 writes within the call.
const OLDEST: Version = Version(21_900);

/// What names a communicator: one rank makes it, all ranks give it.
pub type UniqueId = [u8; 128];

/// A library that was found.
#[derive(Debug, Clone)]
pub struct Library {
    pub(super) functions: Arc<Functions>,
    place: String,
    version: Version,
}

impl Library {
    /// Finds the library: where it was said to be; else the one that PyTorch's CUDA libraries have brought into
    /// this process; else the system's.
    ///
    /// # Errors
    /// What was tried and why it was none, and what to do.
    pub fn find(wanted: Option<&Path>) -> Result<Self, Explained> {
        // A name without a folder gives what is loaded already, and only then what the system has.
        let names = match wanted {
            Some(path) => vec![path.display().to_string()],
            None => vec!["libnccl.so.2".into(), "libnccl.so".into()],
        };
        let mut why = Vec::new();
        for name in names {
            match Self::open(&name) {
                Ok(library) => return Ok(library),
                Err(error) => why.push(error),
            }
        }
        Err(Explained::new(format!("NCCL was not found: {}", why.join("; "))).hint(
            "install it (pip install nvidia-nccl-cu13, or the system's libnccl2), or name the file libnccl.so.2 \
             in PTV2_NCCL",
        ))
    }

    fn open(name: &str) -> Result<Self, String> {
        // SAFETY: loading runs the library's initializers; NCCL's only set up memory of its own, and whoever names
        // another file in the configuration may run any program here anyway.
        let library = unsafe { libloading::Library::new(name) }.map_err(|e| explained(&e))?;
        let functions =
            Functions::of(&library).map_err(|e| format!("{name}: {}", explained(&e)))?;
        // Threads of communicators may run in it until the process ends, so it is never unloaded.
        std::mem::forget(library);
        let mut version = 0;
        // SAFETY: it writes one int, for which there is room.
        let code = unsafe { (functions.get_version)(&raw mut version) };
        Self::check_version(code, Version(version)).map_err(|why| format!("{name} {why}"))?;
        Ok(Self { functions: functions.into(), place: name.into(), version: Version(version) })
    }

    fn check_version(code: Code, found: Version) -> Result<(), String> {
        if code == SUCCESS && found >= OLDEST {
            return Ok(());
        }
        Err(format!("is {found} (code {code}), expected {OLDEST} or later"))
    }

    /// Its version.
    pub fn version(&self) -> Version {
        self.version
    }

    /// The file or name by which it was found.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Makes the id of a communicator. This process listens for the other ranks from now on.
    ///
    /// # Errors
    /// For example where no interface of the network is to be used.
    pub fn unique_id(&self) -> Result<UniqueId, NcclError> {
        let mut id = ncclUniqueId { internal: [0; 128] };
        // SAFETY: it writes one id, for which there is room.
        let code = unsafe { (self.functions.get_unique_id)(&raw mut id) };
        self.check("ncclGetUniqueId", 0, code)?;
        Ok(id.internal.map(c_char::cast_unsigned))
    }

    fn text(pointer: *const c_char) -> String {
        if pointer.is_null() {
            return "nothing".into();
        }
        // SAFETY: both functions give strings that end in a zero and live as long as the library, which is for ever.
        let text = unsafe { CStr::from_ptr(pointer) };
        text.to_string_lossy().trim().to_owned()
    }

    /// A non-blocking call that goes on beside has not failed.
    pub(super) fn check(
        &self,
        operation: &'static str,
        rank: u32,
        code: Code,
    ) -> Result<(), NcclError> {
        if code == SUCCESS || code == IN_PROGRESS {
            return Ok(());
        }
        // SAFETY: it takes any number, and gives a text for those that it does not know, too.
        let text = unsafe { (self.functions.error_string)(code) };
        // SAFETY: without a communicator it gives the last error of the library.
        let last = unsafe { (self.functions.last_error)(std::ptr::null_mut()) };
        let (text, last) = (Self::text(text), Self::text(last));
        Err(NcclError::Failed { operation, rank, code, text, last })
    }
}

/// What the loader says, with its causes.
fn explained(error: &libloading::Error) -> String {
    Explained::from_error(error).what
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_writes_to_where_the_handle_was_is_refused() {
        for (code, version, is_used) in [
            (0, 22_809, true),
            (0, 21_900, true),
            (0, 21_805, false),
            (0, 21_403, false),
            (5, 22_809, false),
        ] {
            let found = Library::check_version(code, Version(version));
            assert_eq!(found.is_ok(), is_used, "{version}: {found:?}");
        }
        let why = Library::check_version(0, Version(21_701)).unwrap_err();
        assert_eq!(why, "is 2.17.1 (code 0), expected 2.19.0 or later");
    }
}
