//! Loads torch's libraries for GPUs: the one place that calls the dynamic linker.
#![expect(unsafe_code, reason = "the dynamic linker has no safe form")]

use super::PyTorch;
use ptv2_common::error::Explained;
use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// Torch's part for processors, which this program is linked to.
pub(super) const CPU: &str = "libtorch_cpu.so";
/// Libraries of which a process may hold one copy: torch's state lies in them.
const ONCE: [&str; 2] = [CPU, "libc10.so"];

/// Looks one function up.
///
/// # Errors
/// That the library has none of that name.
pub(crate) fn symbol<F: Copy>(
    library: &libloading::Library,
    name: &str,
) -> Result<F, libloading::Error> {
    // SAFETY: only the tables of NCCL and of NVIDIA's compiler are filled here, with names of `nccl.h` and `nvrtc.h`
    // and the types that these have there. Both keep them for as long as the libraries' names stay.
    unsafe { library.get::<F>(name) }.map(|found| *found)
}

/// Loads the libraries of a PyTorch, for good. What they share with this program's libtorch is found loaded, by
/// its name; the rest lies where they look for it themselves.
///
/// # Errors
/// When a library is missing, or does not fit this program.
pub(super) fn load(pytorch: &PyTorch) -> Result<(), Explained> {
    let file = pytorch.library();
    open(&file).map_err(|why| {
        Explained::new(format!("torch's libraries for GPUs cannot be loaded: {why}"))
            .at(file.display().to_string())
            .expected(format!("those of PyTorch 2.11, whole; this is {}", pytorch.version))
            .hint("install it anew with all it needs, by `pip install torch==2.11.0`")
    })?;
    for name in ONCE {
        let copies = mapped(name);
        if copies.len() > 1 {
            let copies: Vec<String> = copies.iter().map(|at| at.display().to_string()).collect();
            return Err(Explained::new(format!("two copies of {name} are loaded"))
                .at(copies.join(" and "))
                .expected("one, which both parts of torch use")
                .hint("unset LD_PRELOAD and LD_LIBRARY_PATH"));
        }
    }
    if !pytorch.is_own {
        let version = &pytorch.version;
        tracing::warn!("PyTorch {version} is of another revision than this program's libtorch");
    }
    Ok(())
}

/// Files of this name that this process has mapped.
pub fn mapped(name: &str) -> Vec<PathBuf> {
    let text = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let mut found: Vec<PathBuf> = files(&text, name).collect();
    found.sort();
    found.dedup();
    found
}

/// The files of this name in a table of mappings. A path may have blanks, and begins with a slash.
fn files<'a>(maps: &'a str, name: &'a str) -> impl Iterator<Item = PathBuf> + 'a {
    let paths = maps.lines().filter_map(|line| Some(PathBuf::from(&line[line.find('/')?..])));
    paths.filter(move |path| path.file_name().is_some_and(|found| found == name))
}

fn open(file: &std::path::Path) -> Result<(), String> {
    let path = CString::new(file.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: `path` is a C string that outlives the call. What runs in it are the initializers of PyTorch's
    // libraries, made to be loaded so; the handle is never closed, so nothing of them is unloaded.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_GLOBAL) };
    if !handle.is_null() {
        return Ok(());
    }
    // SAFETY: takes no argument; what it returns is this thread's own text.
    let text = unsafe { libc::dlerror() };
    if text.is_null() {
        return Err("the dynamic linker does not say why".into());
    }
    // SAFETY: not null, so a C string, valid until this thread's next call of the dynamic linker.
    let text = unsafe { CStr::from_ptr(text) };
    Err(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_found_in_a_table_of_mappings() {
        let maps = "7f00-7f01 r--p 00000000 fe:00 12  /a b/libc10.so\n\
                    7f01-7f02 r-xp 00001000 fe:00 12  /a b/libc10.so\n\
                    7f02-7f03 rw-p 00000000 00:00 0\n\
                    7f03-7f04 r-xp 00000000 fe:00 13  /c/libc10.so.1\n";
        let found: Vec<_> = files(maps, "libc10.so").collect();
        assert_eq!(found, vec![PathBuf::from("/a b/libc10.so"); 2]);
        assert_eq!(mapped(CPU).len(), 1);
    }

    #[test]
    fn a_library_that_cannot_be_loaded_is_explained() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("libtorch_cuda.so"), "no library").unwrap();
        let pytorch = PyTorch {
            folder: temp.path().into(),
            version: "2.11.0+cu130".into(),
            cuda: "13.0".into(),
            is_own: true,
        };
        let error = load(&pytorch).unwrap_err();
        assert!(error.what.contains("cannot be loaded"), "{error:?}");
        assert!(error.place.unwrap().ends_with("libtorch_cuda.so"));
        assert!(error.hint.is_some() && error.expected.unwrap().contains("2.11.0+cu130"));
    }
}
