//! Torch's switches for the same bits each time, and what its allocator holds: the one place that talks to
//! `settings.cpp`.
#![expect(unsafe_code, reason = "torch has these switches in C++ only")]

use ptv2_common::error::Explained;
use std::ffi::{CStr, c_char, c_int};

/// Bytes of an error's text, with its end.
const TEXT: usize = 512;

/// Torch's switches; each is 0 or 1. `settings.cpp` has the same fields in the same order.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Settings {
    /// Operators that could give other bits the next time do not, or fail.
    pub deterministic: c_int,
    /// They warn instead.
    pub warn_only: c_int,
    /// New memory is filled, which costs time and finds only defects.
    pub fill_memory: c_int,
    /// cuBLAS may round fp32 to TF32.
    pub tf32_products: c_int,
    /// cuDNN may.
    pub tf32_cudnn: c_int,
    /// cuDNN measures which kernel is fastest, and takes it.
    pub cudnn_benchmark: c_int,
    /// cuDNN takes only kernels that give the same bits.
    pub cudnn_deterministic: c_int,
    /// Products in bf16 may be summed in bf16.
    pub bf16_sums: c_int,
    /// Products in fp16 may be summed in fp16.
    pub fp16_sums: c_int,
    /// The attention of torch may take its flash kernel.
    pub flash: c_int,
    /// It may take its memory-efficient kernel.
    pub memory_efficient: c_int,
    /// It may be computed by single operators.
    pub plain: c_int,
    /// It may take cuDNN's.
    pub cudnn_attention: c_int,
}

unsafe extern "C" {
    fn ptv2_write_settings(settings: *const Settings, error: *mut c_char, bytes: usize) -> c_int;
    fn ptv2_read_settings(settings: *mut Settings, error: *mut c_char, bytes: usize) -> c_int;
    fn ptv2_give_back(error: *mut c_char, bytes: usize) -> c_int;
    fn ptv2_unused(index: c_int, unused: *mut i64, error: *mut c_char, bytes: usize) -> c_int;
}

impl Settings {
    /// Those that a worker computes with on a GPU. Flash and memory-efficient attention sum in a fixed order
    /// where `deterministic` is on; cuDNN's does not always.
    pub const ON_CUDA: Self = Self {
        deterministic: 1,
        warn_only: 0,
        fill_memory: 0,
        tf32_products: 0,
        tf32_cudnn: 0,
        cudnn_benchmark: 0,
        cudnn_deterministic: 1,
        bf16_sums: 0,
        fp16_sums: 0,
        flash: 1,
        memory_efficient: 1,
        plain: 1,
        cudnn_attention: 0,
    };
}

/// Sets them for this process, and reads them back.
///
/// # Errors
/// When torch refuses, or holds something else afterwards: then bits cannot be promised.
pub fn apply(settings: &Settings) -> Result<(), Explained> {
    let mut text = [0_u8; TEXT];
    // SAFETY: `settings` has the fields that the other side reads; it writes a C string of at most `TEXT` bytes.
    let code = unsafe { ptv2_write_settings(settings, text.as_mut_ptr().cast(), TEXT) };
    done(code, &text)?;
    let found = read()?;
    if found == *settings {
        return Ok(());
    }
    Err(refused(format!("it has {found:?} instead of {settings:?}")))
}

/// Those that hold in this process.
///
/// # Errors
/// When torch cannot say.
pub fn read() -> Result<Settings, Explained> {
    let (mut found, mut text) = (Settings::default(), [0_u8; TEXT]);
    // SAFETY: `found` has the fields that the other side writes, and besides those a C string of at most `TEXT`
    // bytes.
    let code = unsafe { ptv2_read_settings(&raw mut found, text.as_mut_ptr().cast(), TEXT) };
    done(code, &text).map(|()| found)
}

/// Bytes of a GPU that torch holds in this process and uses for nothing, to give them out again.
///
/// # Errors
/// When torch cannot say.
pub(super) fn unused(index: u32) -> Result<u64, Explained> {
    let (mut unused, mut text) = (0, [0_u8; TEXT]);
    let index = c_int::try_from(index).unwrap_or(c_int::MAX);
    // SAFETY: it writes one number, and besides that a C string of at most `TEXT` bytes.
    let code = unsafe { ptv2_unused(index, &raw mut unused, text.as_mut_ptr().cast(), TEXT) };
    if code != 0 {
        let why = said(&text);
        return Err(Explained::new(format!("torch does not say what memory it holds: {why}")));
    }
    Ok(u64::try_from(unused).unwrap_or(0))
}

/// Gives what torch holds of GPUs' memory and uses for nothing back to the driver.
///
/// # Errors
/// When torch has no part for GPUs.
pub(super) fn give_back() -> Result<(), Explained> {
    let mut text = [0_u8; TEXT];
    // SAFETY: it writes a C string of at most `TEXT` bytes.
    let code = unsafe { ptv2_give_back(text.as_mut_ptr().cast(), TEXT) };
    if code == 0 {
        return Ok(());
    }
    Err(Explained::new(format!("torch gives no memory back: {}", said(&text))))
}

fn done(code: c_int, text: &[u8]) -> Result<(), Explained> {
    if code == 0 { Ok(()) } else { Err(refused(said(text))) }
}

fn said(text: &[u8]) -> String {
    let text = CStr::from_bytes_until_nul(text).unwrap_or_default();
    super::first_sentence(&text.to_string_lossy())
}

fn refused(why: String) -> Explained {
    Explained::new(format!("torch cannot be set to give the same bits each time: {why}"))
        .expected("libtorch 2.11, with the variables of its own settings unset")
        .hint("take --device cpu, and report this with the output of `ptv2d devices`")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In a process of its own: the settings are the process's, and other tests compute in this one.
    #[test]
    fn every_setting_is_read_back() {
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "cuda::settings::tests::each_is_written_and_read"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
    }

    #[test]
    #[ignore = "run by the test above"]
    fn each_is_written_and_read() {
        let off = Settings::default();
        apply(&off).unwrap();
        let one: [fn(&mut Settings) -> &mut c_int; 13] = [
            |all| &mut all.deterministic,
            |all| &mut all.warn_only,
            |all| &mut all.fill_memory,
            |all| &mut all.tf32_products,
            |all| &mut all.tf32_cudnn,
            |all| &mut all.cudnn_benchmark,
            |all| &mut all.cudnn_deterministic,
            |all| &mut all.bf16_sums,
            |all| &mut all.fp16_sums,
            |all| &mut all.flash,
            |all| &mut all.memory_efficient,
            |all| &mut all.plain,
            |all| &mut all.cudnn_attention,
        ];
        for field in one {
            let mut wanted = off;
            *field(&mut wanted) = 1;
            apply(&wanted).unwrap();
            assert_eq!(read().unwrap(), wanted);
        }
        apply(&Settings::ON_CUDA).unwrap();
        assert_eq!(read().unwrap(), Settings::ON_CUDA);
    }

    /// As its part for GPUs is not loaded here, it has no allocator for them.
    #[test]
    fn torch_without_an_allocator_says_so() {
        let error = unused(0).unwrap_err();
        assert!(error.what.contains("does not say what memory it holds: "), "{error:?}");
        assert!(give_back().unwrap_err().what.contains("gives no memory back: "));
    }

    #[test]
    fn what_torch_says_becomes_an_error() {
        let mut text = [0_u8; TEXT];
        text[..18].copy_from_slice(b"no such thing\nmore");
        let error = done(1, &text).unwrap_err();
        assert!(error.what.ends_with("each time: no such thing"), "{error:?}");
        assert!(error.hint.is_some() && error.expected.is_some());
    }
}
