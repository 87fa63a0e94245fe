//! NVIDIA's compiler as a library, which PyTorch brings along: the one place that calls it.
//!
//! cudarc's own loader panics where it finds none, and looks in other places. So its few functions are bound here.
#![expect(unsafe_code, reason = "calls of a C library, each with the fact that makes it sound")]

use super::library::{mapped, symbol};
use libloading::Library;
use ptv2_common::error::Explained;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr::{null, null_mut};

/// The library of CUDA 13.
const NAME: &str = "libnvrtc.so.13";
/// A library that torch's part for GPUs is linked to; PyTorch's packages put all of CUDA's beside it.
const NEIGHBOUR: &str = "libcublas.so.13";
/// What it loads itself, by name: nobody tells the linker where that lies, so it is loaded before.
const BUILTINS: &str = "libnvrtc-builtins.so.";
/// Letters of the compiler's log that an error quotes.
const QUOTED: usize = 500;

/// A program to be compiled; the library's own.
type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Fill = unsafe extern "C" fn(Program, *mut c_char) -> c_int;

type Numbers = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;

/// What `nvrtc.h` declares of what is used here.
pub(super) struct Nvrtc {
    create: Create,
    compile: Compile,
    log: (Size, Fill),
    image: (Size, Fill),
    destroy: unsafe extern "C" fn(*mut Program) -> c_int,
    words: unsafe extern "C" fn(c_int) -> *const c_char,
    version: (c_int, c_int),
}

impl Nvrtc {
    /// Finds the library beside those that torch has loaded, else by the system's ways.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    pub(super) fn find() -> Result<Self, Explained> {
        let mut beside = mapped(NEIGHBOUR).into_iter().map(|file| file.with_file_name(NAME));
        let found = beside.find(|file| file.is_file());
        if let Some(folder) = found.as_deref().and_then(Path::parent) {
            load_builtins(folder);
        }
        Self::open(found.as_deref().unwrap_or(Path::new(NAME)))
    }

    fn open(file: &Path) -> Result<Self, Explained> {
        let refused = |why: libloading::Error| {
            Explained::new(format!("NVIDIA's compiler cannot be loaded: {why}"))
                .at(file.display().to_string())
                .expected(format!("{NAME} of PyTorch 2.11"))
                .hint("install it by `pip install nvidia-cuda-nvrtc==13.0.88`")
        };
        // SAFETY: loading runs the library's initializers, which only set up memory of its own.
        let library = unsafe { Library::new(file) }.map_err(refused)?;
        let mut nvrtc = Self::of(&library).map_err(refused)?;
        let version: Numbers = symbol(&library, "nvrtcVersion").map_err(refused)?;
        let (major, minor) = (&raw mut nvrtc.version.0, &raw mut nvrtc.version.1);
        // SAFETY: it writes two numbers.
        let code = unsafe { version(major, minor) };
        nvrtc.check("nvrtcVersion", code)?;
        // Its functions are kept, so it is never unloaded.
        std::mem::forget(library);
        Ok(nvrtc)
    }

    fn of(library: &Library) -> Result<Self, libloading::Error> {
        Ok(Self {
            create: symbol(library, "nvrtcCreateProgram")?,
            compile: symbol(library, "nvrtcCompileProgram")?,
            log: (
                symbol(library, "nvrtcGetProgramLogSize")?,
                symbol(library, "nvrtcGetProgramLog")?,
            ),
            image: (symbol(library, "nvrtcGetCUBINSize")?, symbol(library, "nvrtcGetCUBIN")?),
            destroy: symbol(library, "nvrtcDestroyProgram")?,
            words: symbol(library, "nvrtcGetErrorString")?,
            version: (0, 0),
        })
    }

    /// Its version, as 13.0.
    pub(super) fn version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// Compiles a source for GPUs of a compute capability, to what the driver loads as it is.
    ///
    /// # Errors
    /// What the compiler says.
    pub(super) fn compile(
        &self,
        (name, source): (&CStr, &CStr),
        (major, minor): (i32, i32),
    ) -> Result<Vec<u8>, Explained> {
        let mut program = null_mut();
        let [source, name] = [source, name].map(CStr::as_ptr);
        // SAFETY: both are C strings that outlive the call, which has no headers and writes one handle.
        let code = unsafe { (self.create)(&raw mut program, source, name, 0, null(), null()) };
        self.check("nvrtcCreateProgram", code)?;
        let made = self.made(program, &format!("--gpu-architecture=sm_{major}{minor}"));
        // SAFETY: the program was made above, and is used no more.
        let code = unsafe { (self.destroy)(&raw mut program) };
        self.check("nvrtcDestroyProgram", code)?;
        made
    }

    fn made(&self, program: Program, option: &str) -> Result<Vec<u8>, Explained> {
        let text = CString::new(option).unwrap_or_default();
        let options = [text.as_ptr()];
        // SAFETY: the program is there; one option is given, a C string that outlives the call.
        let code = unsafe { (self.compile)(program, 1, options.as_ptr()) };
        self.check("nvrtcCompileProgram", code).map_err(|error| {
            let log = self.bytes("nvrtcGetProgramLog", self.log, program).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            let log: String = log.trim_end_matches(['\0', '\n']).chars().take(QUOTED).collect();
            Explained::new(format!("{error}: {log}")).at(option)
        })?;
        self.bytes("nvrtcGetCUBIN", self.image, program)
    }

    /// What a pair of functions gives: how long, and then what.
    fn bytes(
        &self,
        call: &str,
        (size, copy): (Size, Fill),
        program: Program,
    ) -> Result<Vec<u8>, Explained> {
        let mut length = 0;
        // SAFETY: the program is there; it writes one number.
        self.check(call, unsafe { size(program, &raw mut length) })?;
        let mut bytes = vec![0_u8; length];
        // SAFETY: the program is there; it writes as many bytes as it has just said.
        self.check(call, unsafe { copy(program, bytes.as_mut_ptr().cast()) })?;
        Ok(bytes)
    }

    fn check(&self, call: &str, code: c_int) -> Result<(), Explained> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: it takes any number.
        let words = unsafe { (self.words)(code) };
        // SAFETY: a C string of the library's own, also where it does not know the number.
        let words = unsafe { CStr::from_ptr(words) };
        let words = words.to_string_lossy();
        Err(Explained::new(format!("NVIDIA's compiler {} refuses {call}: {words}", self.version())))
    }
}

/// Without them the compiler says itself what it misses.
fn load_builtins(folder: &Path) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(BUILTINS) {
            // SAFETY: the library is data of the compiler's, and has no initializers of its own.
            if let Ok(library) = unsafe { Library::new(entry.path()) } {
                std::mem::forget(library);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cuda::masks::{NAME as KERNEL, source};
    use std::path::PathBuf;

    /// Where this machine has the compiler: what `PTV2_NVRTC` names, what `make libtorch CUDA=1` makes, and the
    /// packages of `make venv`.
    fn compiler() -> Option<PathBuf> {
        let named = std::env::var_os("PTV2_NVRTC").map(PathBuf::from);
        let made = std::env::var_os("LIBTORCH").map(|at| PathBuf::from(at).join("lib/cuda"));
        let venv =
            std::env::var_os("HOME").map(|at| PathBuf::from(at).join(".cache/ptv2/venv/lib"));
        let packages = venv.and_then(|lib| std::fs::read_dir(lib).ok()).into_iter().flatten();
        let packages =
            packages.flatten().map(|one| one.path().join("site-packages/nvidia/cu13/lib"));
        let mut all = named.into_iter().chain(made).chain(packages);
        all.find(|folder| folder.join(NAME).is_file())
    }

    /// With the real compiler, which needs no GPU.
    #[test]
    fn the_real_compiler_takes_the_source() {
        let Some(folder) = compiler() else {
            println!("skipped: no {NAME} (`make venv`, `make libtorch CUDA=1`, or PTV2_NVRTC)");
            return;
        };
        load_builtins(&folder);
        let nvrtc = Nvrtc::open(&folder.join(NAME)).unwrap();
        for capability in [(7, 5), (8, 0), (9, 0), (10, 0), (12, 0)] {
            let image = nvrtc.compile((c"masks.c", source()), capability).unwrap();
            let has = |text: &[u8]| image.windows(text.len()).any(|part| part == text);
            assert!(image.starts_with(b"\x7fELF") && has(KERNEL.to_bytes_with_nul()));
        }
        let error = nvrtc.compile((c"wrong.c", c"no program"), (9, 0)).unwrap_err();
        assert!(error.what.contains("refuses nvrtcCompileProgram: NVRTC_ERROR"), "{error:?}");
        assert!(error.what.contains("wrong.c(1): error"), "{error:?}");
    }
}
