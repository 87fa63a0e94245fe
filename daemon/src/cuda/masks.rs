//! The one kernel of our own: dropout's factors, which by torch's operators cost a GPU more than a step.
//!
//! Its source is `masks.c`. It is compiled when it is first wanted, by the compiler that PyTorch brings along
//! ([`super::nvrtc`]), and loaded by the driver ([`super::driver`]).
#![expect(unsafe_code, reason = "a kernel writes where it is told to")]

use super::driver::{self, Function};
use super::nvrtc::Nvrtc;
use crate::numerics::generator::Stream;
use crate::numerics::masks::{GROUP, LANES, Levels};
use half::bf16;
use ptv2_common::error::Explained;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::sync::{Arc, Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// With the end that C wants.
const SOURCE: &str = concat!(include_str!("masks.c"), "\0");
pub(super) const NAME: &CStr = c"ptv2_masks";

pub(super) fn source() -> &'static CStr {
    CStr::from_bytes_until_nul(SOURCE.as_bytes()).unwrap_or_default()
}

/// What all threads of a kernel know. `masks.c` has the same fields in the same order.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Parameters {
    key: [u32; 2],
    place: [u32; 3],
    blocks: u32,
    kept_from: u32,
    low_to: u32,
    low: u32,
    high: u32,
    bytes: u32,
}

impl Parameters {
    /// For so many factors of a kind, and what is behind them in the last group; none: they are too many, or of
    /// another kind.
    fn new(stream: &Stream, rate: f64, kind: Kind, count: usize) -> Option<Self> {
        let blocks = u32::try_from(count.div_ceil(GROUP) * LANES).ok()?;
        let (kept_from, low_to, low, high, bytes) = if kind == Kind::BFloat16 {
            let Levels { kept_from, low_to, low, high } = Levels::<bf16>::new(rate);
            (kept_from, low_to, low.to_bits().into(), high.to_bits().into(), 2)
        } else if kind == Kind::Float {
            let Levels { kept_from, low_to, low, high } = Levels::<f32>::new(rate);
            (kept_from, low_to, low.to_bits(), high.to_bits(), 4)
        } else {
            return None;
        };
        let [_, place @ ..] = stream.counter(0);
        let (kept_from, low_to) = (kept_from.into(), low_to.into());
        Some(Self { key: stream.key(), place, blocks, kept_from, low_to, low, high, bytes })
    }

    /// Factors that it writes.
    fn numbers(&self) -> usize {
        self.blocks as usize / LANES * GROUP
    }
}

/// The kernel, loaded on a GPU.
#[derive(Debug)]
pub struct Kernel {
    function: Function,
    device: Device,
}

impl Kernel {
    /// That of a device, compiled and loaded once in a process; none on a processor, and where that fails, which
    /// is told once.
    pub fn of(device: Device) -> Option<Arc<Self>> {
        static LOADED: Mutex<BTreeMap<usize, Option<Arc<Kernel>>>> = Mutex::new(BTreeMap::new());
        let Device::Cuda(index) = device else { return None };
        let load = || match Self::load(index, device) {
            Ok(kernel) => Some(Arc::new(kernel)),
            Err(error) => {
                tracing::warn!(
                    "dropout's masks are computed by torch's operators, to the same bits but slower: {error}"
                );
                None
            }
        };
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.entry(index).or_insert_with(load).clone()
    }

    /// On the GPU of this index, which torch calls so.
    pub(crate) fn load(index: usize, device: Device) -> Result<Self, Explained> {
        let nvrtc = Nvrtc::find()?;
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let capability = driver::open()?.gpu(index)?.capability;
        let image = nvrtc.compile((c"masks.c", source()), capability)?;
        let function = Function::load(index, &image, NAME)?;
        let version = nvrtc.version();
        tracing::info!(version, "dropout's masks are computed by a kernel of this program");
        Ok(Self { function, device })
    }

    /// Factors of a stream, flat, of this kind.
    ///
    /// # Errors
    /// When the arguments are wrong, torch has no memory, or the driver does not start the kernel.
    pub fn factors(
        &self,
        stream: &Stream,
        rate: f64,
        kind: Kind,
        count: usize,
    ) -> Result<Tensor, Explained> {
        let wrong = |what: String| Explained::new(what).at("dropout's masks on a GPU");
        let torchs = |error: tch::TchError| wrong(error.to_string());
        let mut of = Parameters::new(stream, rate, kind, count)
            .ok_or_else(|| wrong(format!("{count} factors of {kind:?}: expected fp32 or bf16")))?;
        let numbers = i64::try_from(of.numbers()).unwrap_or(i64::MAX);
        let whole = Tensor::f_empty([numbers], (kind, self.device)).map_err(torchs)?;
        let (device, bytes) = (whole.device(), of.bytes as usize * of.numbers());
        let has = whole.numel() * whole.kind().elt_size_in_bytes();
        if device != self.device || has != bytes || !whole.is_contiguous() {
            let shape = whole.size();
            return Err(wrong(format!("torch gave {shape:?} of {has} bytes on {device:?}"))
                .expected(format!("{bytes} bytes on {:?}, one behind the other", self.device)));
        }
        let (threads, mut out) = (of.blocks, whole.data_ptr());
        let mut arguments = [(&raw mut of).cast::<c_void>(), (&raw mut out).cast::<c_void>()];
        // SAFETY: the arguments are those of the kernel. Its threads write `numbers` factors from `out` on, which is
        // the whole of a tensor on this GPU, as was just looked at. Whoever is given that memory next uses it on
        // the same stream, after the kernel.
        unsafe { self.function.launch(threads, &mut arguments)? };
        whole.f_narrow(0, 0, i64::try_from(count).unwrap_or(i64::MAX)).map_err(torchs)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::numerics::generator::Purpose;
    use std::path::Path;
    use std::process::Command;

    unsafe extern "C" {
        /// What a thread does on a GPU.
        fn ptv2_masks_thread(of: *const Parameters, out: *mut c_void, thread: u64);
    }

    /// Has this test program run an ignored test where the stand-in is driver and compiler; what it said.
    pub(crate) fn with_stand_in(test: &str, fault: &str) -> String {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/cuda-stand-in.sh");
        let built = Command::new(script).output().unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        let run = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", test])
            .env("LD_LIBRARY_PATH", String::from_utf8(built.stdout).unwrap().trim())
            .env("PTV2_STAND_IN", fault)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
        said
    }

    /// All threads' factors, and those of a few more that must do nothing.
    fn made(of: &Parameters) -> Vec<u8> {
        let mut out = vec![0xA5_u8; of.bytes as usize * of.numbers() + 64];
        for thread in 0..u64::from(of.blocks) + 20 {
            // SAFETY: there is room for what all blocks' threads write; others write nothing.
            unsafe { ptv2_masks_thread(of, out.as_mut_ptr().cast(), thread) };
        }
        assert!(out.split_off(out.len() - 64).iter().all(|byte| *byte == 0xA5));
        out
    }

    #[test]
    fn the_source_gives_the_hosts_factors() {
        let places = [(0, 0, 0, 0), (0xD00D_FEED_1234_5678, (5 << 32) + 77, 0xBEEF, 0x8001)];
        for (seed, step, slice, site) in places {
            let stream = Stream::new(seed, Purpose::Dropout, step, slice, site);
            for count in [1, 3, 127, 128, 129, 1001, 50_001] {
                for rate in [0.001, 0.1, 0.3, 0.5, 0.999] {
                    let of = Parameters::new(&stream, rate, Kind::Float, count).unwrap();
                    let mut wide = vec![0.0_f32; of.numbers()];
                    stream.dropout_factors(rate, &mut wide);
                    assert!(made(&of) == bytemuck::cast_slice::<_, u8>(&wide), "{count} {rate}");
                    let of = Parameters::new(&stream, rate, Kind::BFloat16, count).unwrap();
                    let mut narrow = vec![bf16::ZERO; of.numbers()];
                    stream.dropout_factors(rate, &mut narrow);
                    assert!(made(&of) == bytemuck::cast_slice::<_, u8>(&narrow), "{count} {rate}");
                }
            }
        }
    }

    /// Where 32 bits are too few to say where a factor lies.
    #[test]
    fn the_last_blocks_lie_where_they_should() {
        let stream = Stream::new(7, Purpose::Dropout, 5, 3, 2);
        let mut of = Parameters::new(&stream, 0.5, Kind::BFloat16, 1 << 20).unwrap();
        of.blocks = u32::MAX;
        // So a factor of 1 is a number whose first bit is set.
        (of.low, of.high) = (1, 1);
        for block in [1_u32 << 29, (1 << 31) + 5, u32::MAX - 1] {
            let (group, lane) = (block as usize / LANES, block as usize % LANES);
            let mut out = vec![9_u16; GROUP];
            let base = out.as_mut_ptr().wrapping_byte_sub(group * GROUP * 2);
            // SAFETY: `base` is so far before `out` that the block's group is the whole of it.
            unsafe { ptv2_masks_thread(&raw const of, base.cast(), block.into()) };
            for (word, number) in stream.block(block).into_iter().enumerate() {
                let at = word * 2 * LANES + 2 * lane;
                let halves = [number & 0xFFFF, number >> 16].map(|half| u16::from(half >= 0x8000));
                assert_eq!(out[at..at + 2], halves, "block {block}, word {word}");
                out[at..at + 2].fill(9);
            }
            assert!(out.iter().all(|other| *other == 9));
        }
    }

    #[test]
    fn what_it_cannot_make_is_refused() {
        let stream = Stream::new(7, Purpose::Dropout, 5, 3, 2);
        assert!(Parameters::new(&stream, 0.1, Kind::Half, 8).is_none());
        assert!(Parameters::new(&stream, 0.1, Kind::Float, 1 << 35).is_none());
    }

    #[test]
    fn what_fails_is_said_in_cudas_words() {
        let refused = [
            ("nvrtcCompileProgram", "NVRTC_STAND_IN: the stand-in's log"),
            ("cuModuleLoadData", "CUDA_STAND_IN (an error of the stand-in)"),
            ("cuModuleGetFunction", "CUDA_STAND_IN"),
            ("cuLaunchKernel", "CUDA_STAND_IN"),
        ];
        for (call, words) in refused {
            let said = with_stand_in("cuda::masks::tests::it_is_loaded_and_started", call);
            assert!(said.contains(&format!("refuses {call}: {words}")), "{said}");
            // What only does not start is no reason to load nothing.
            let left = call != "cuLaunchKernel";
            assert!(said.contains(&format!("left to operators: {left}")), "{said}");
        }
    }

    /// A process that has asked for one GPU's may ask for another's.
    #[test]
    fn each_device_has_its_own() {
        let said = with_stand_in("cuda::masks::tests::two_devices_are_asked_for", "");
        assert!(said.contains("missing, there, once"), "{said}");
    }

    #[test]
    #[ignore = "run by the test above"]
    fn two_devices_are_asked_for() {
        // The stand-in has one GPU.
        let has = |index| Kernel::of(Device::Cuda(index));
        let missing = if has(1).is_none() { "missing" } else { "there" };
        let (first, again) = (has(0), has(0));
        let found = if first.is_some() { "there" } else { "missing" };
        let is_same = first.zip(again).is_some_and(|(first, again)| Arc::ptr_eq(&first, &again));
        println!("{missing}, {found}, {}", if is_same { "once" } else { "twice" });
    }

    #[test]
    #[ignore = "run by the test above"]
    fn it_is_loaded_and_started() {
        let stream = Stream::new(7, Purpose::Dropout, 5, 3, 2);
        let made = Kernel::load(0, Device::Cpu)
            .and_then(|kernel| kernel.factors(&stream, 0.1, Kind::Float, 100));
        println!("{}", made.unwrap_err());
        println!("left to operators: {}", Kernel::of(Device::Cuda(0)).is_none());
    }
}
