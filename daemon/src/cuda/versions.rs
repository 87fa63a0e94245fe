//! Which of CUDA's libraries torch computes with: the one place that asks them for their versions.
#![expect(unsafe_code, reason = "calls of C libraries, each with the fact that makes it sound")]

use super::library::mapped;
use libloading::Library;
use std::ffi::c_int;

type Property = unsafe extern "C" fn(c_int, *mut c_int) -> c_int;
type Version = unsafe extern "C" fn() -> usize;

/// The versions of the libraries that choose torch's kernels, of those that this process has loaded: as
/// `cuBLAS 13.1.0, cuBLASLt 130100, cuDNN 91900`.
pub fn libraries() -> String {
    let cublas = loaded("libcublas.so.13").and_then(|library| cublas(&library));
    let number = |file: &str, function: &str| {
        loaded(file).and_then(|library| number(&library, function)).map(|found| found.to_string())
    };
    let lt = number("libcublasLt.so.13", "cublasLtGetVersion");
    let cudnn = number("libcudnn.so.9", "cudnnGetVersion");
    told(&[("cuBLAS", cublas), ("cuBLASLt", lt), ("cuDNN", cudnn)])
}

fn told(all: &[(&str, Option<String>)]) -> String {
    let one = |(name, version): &(&str, Option<String>)| {
        format!("{name} {}", version.as_deref().unwrap_or("unknown"))
    };
    all.iter().map(one).collect::<Vec<_>>().join(", ")
}

/// A library of this name that the process has loaded already.
fn loaded(name: &str) -> Option<Library> {
    let file = mapped(name).into_iter().next()?;
    // SAFETY: the library is loaded, and stays so: nothing of it runs at another opening or its end.
    unsafe { Library::new(file) }.ok()
}

/// Its three numbers, which it gives without a handle.
fn cublas(library: &Library) -> Option<String> {
    // SAFETY: `cublas_v2.h` declares it so.
    let property = unsafe { library.get::<Property>("cublasGetProperty") }.ok()?;
    let mut numbers = [0; 3];
    for (which, number) in (0..).zip(&mut numbers) {
        // SAFETY: it writes one number.
        if unsafe { property(which, number) } != 0 {
            return None;
        }
    }
    Some(numbers.map(|number| number.to_string()).join("."))
}

fn number(library: &Library, function: &str) -> Option<usize> {
    // SAFETY: `cublasLt.h` and `cudnn.h` declare these functions so.
    let version = unsafe { library.get::<Version>(function) }.ok()?;
    // SAFETY: it takes nothing, and gives a number that was compiled in.
    Some(unsafe { version() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The real ones are asked by the tests that load a PyTorch.
    #[test]
    fn what_is_not_loaded_has_no_version() {
        assert_eq!(libraries(), "cuBLAS unknown, cuBLASLt unknown, cuDNN unknown");
        let two = [("cuBLAS", Some("13.1.0".into())), ("cuDNN", None)];
        assert_eq!(told(&two), "cuBLAS 13.1.0, cuDNN unknown");
    }

    #[test]
    fn a_library_without_the_function_has_no_version() {
        let library = loaded("libc.so.6").unwrap();
        assert_eq!((cublas(&library), number(&library, "cudnnGetVersion")), (None, None));
    }
}
