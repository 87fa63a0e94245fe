//! What a worker's bits depend on besides the job.

use crate::device::Gpu;
use ptv2_common::session::Fingerprint;

/// The libtorch that `tch` 0.24 is made for.
const LIBTORCH: &str = "2.11.0";

/// What the program was built from, where whoever builds it says so: builds of one version that differ.
const REVISION: Option<&str> = option_env!("PTV2_REVISION");

/// Settings of the person's own that make the libraries choose other kernels.
const SETTINGS: [&str; 10] = [
    "ATEN_CPU_CAPABILITY",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "MKL_ENABLE_INSTRUCTIONS",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_LINEAR_FLATTEN_3D",
    "TORCH_MKLDNN_MATMUL_MIN_DIM",
    "TORCH_MKLDNN_MATMUL_MIN_SIZE",
];

/// The same on a GPU. `CUBLAS_WORKSPACE_CONFIG` is none of them: a worker sets it.
const GPU_SETTINGS: [&str; 15] = [
    "CUBLASLT_HEURISTICS_LUT_FILE",
    "CUBLASLT_WORKSPACE_SIZE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATION_STRATEGY",
    "CUDA_FORCE_PTX_JIT",
    "CUDNN_ERRATA_JSON_FILE",
    "DISABLE_ADDMM_CUDA_LT",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_TUNABLEOP_ENABLED",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_CUBLASLT_UNIFIED_WORKSPACE",
    "TORCH_CUDNN_USE_HEURISTIC_MODE_B",
    "TORCH_CUDNN_V8_API_DISABLED",
    "TORCH_LINEAR_FLATTEN_3D",
];

/// Host name and process id, for people.
pub(super) fn host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}:{}", name.trim(), std::process::id())
}

/// The fingerprint of what computes: the GPU, or else the processor.
#[expect(clippy::disallowed_methods, reason = "the libraries' own settings, not ours")]
pub(super) fn of(gpu: Option<&Gpu>) -> Fingerprint {
    let variable = |name: &str| std::env::var(name).ok();
    gpu.map_or_else(|| of_cpu(variable), |gpu| of_gpu(gpu, variable))
}

/// What is done on the host beside a GPU does not depend on the processor.
fn of_gpu(gpu: &Gpu, variable: impl Fn(&str) -> Option<String>) -> Fingerprint {
    let ((major, minor), processors) = (gpu.capability, gpu.processors);
    Fingerprint {
        device: gpu.name.clone(),
        instruction_set: format!("sm_{major}{minor}x{processors}"),
        libtorch: gpu.libtorch.clone(),
        ptv2: version(REVISION),
        settings: format!(
            "driver {}, {}, {}",
            gpu.driver,
            gpu.libraries,
            settings(&GPU_SETTINGS, variable)
        ),
    }
}

fn of_cpu(variable: impl Fn(&str) -> Option<String>) -> Fingerprint {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    Fingerprint {
        device: device(&text),
        instruction_set: instruction_set(&text),
        libtorch: LIBTORCH.into(),
        ptv2: version(REVISION),
        settings: settings(&SETTINGS, variable),
    }
}

fn version(revision: Option<&str>) -> String {
    let own = ptv2_common::VERSION;
    revision.map_or_else(|| own.into(), |revision| format!("{own}+{revision}"))
}

fn settings(names: &[&str], variable: impl Fn(&str) -> Option<String>) -> String {
    let set = names.iter().filter_map(|name| Some(format!("{name}={}", variable(name)?)));
    let set = set.collect::<Vec<_>>().join(" ");
    if set.is_empty() { "default".into() } else { set }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// Vendor, family and model: processors that compute alike.
fn device(text: &str) -> String {
    let part = |name| field(text, name).unwrap_or("unknown");
    format!("{}-{}-{}", part("vendor_id"), part("cpu family"), part("model"))
}

/// The level that libtorch's and oneDNN's kernels choose by.
fn instruction_set(text: &str) -> String {
    let flags: Vec<&str> = field(text, "flags").unwrap_or_default().split_whitespace().collect();
    let has = |all: &[&str]| all.iter().all(|flag| flags.contains(flag));
    let level = if has(&["avx512f", "avx512bw", "avx512vl", "avx512dq"]) {
        "AVX512"
    } else if has(&["avx2", "fma"]) {
        "AVX2"
    } else {
        "DEFAULT"
    };
    let more = ["avx512_vnni", "avx512_bf16", "amx_tile"];
    let more: Vec<&str> = more.into_iter().filter(|flag| has(&[flag])).collect();
    std::iter::once(level).chain(more).collect::<Vec<_>>().join("+")
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_processor_is_read() {
        let text = "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\n\
                    flags\t\t: fma avx2 avx512f avx512dq avx512bw avx512vl amx_tile\n";
        assert_eq!(super::device(text), "GenuineIntel-6-143");
        assert_eq!(super::instruction_set(text), "AVX512+amx_tile");
        assert_eq!(super::instruction_set(""), "DEFAULT");
    }

    #[test]
    fn settings_that_change_kernels_are_told() {
        let one = |name: &str| (name == "MKL_CBWR").then(|| "AVX2".to_owned());
        assert_eq!(super::settings(&super::SETTINGS, one), "MKL_CBWR=AVX2");
        assert_eq!(super::settings(&super::SETTINGS, |_| None), "default");
    }

    #[test]
    fn a_gpu_is_told_by_all_that_its_bits_depend_on() {
        let gpu = super::Gpu {
            name: "NVIDIA H100 80GB HBM3".into(),
            uuid: "GPU-1".into(),
            capability: (9, 0),
            processors: 132,
            driver: "580.65.06, CUDA 13.0".into(),
            libtorch: "2.11.0+cu130".into(),
            libraries: "cuBLAS 13.1.0, cuBLASLt 130100, cuDNN 91900".into(),
            ..super::Gpu::default()
        };
        let own = |name: &str| (name == "NVIDIA_TF32_OVERRIDE").then(|| "1".to_owned());
        let text = super::of_gpu(&gpu, own).to_string();
        let expected = format!(
            "NVIDIA H100 80GB HBM3/sm_90x132/libtorch-2.11.0+cu130/ptv2-{}/driver 580.65.06, CUDA 13.0, \
             cuBLAS 13.1.0, cuBLASLt 130100, cuDNN 91900, NVIDIA_TF32_OVERRIDE=1",
            super::version(super::REVISION)
        );
        assert_eq!(text, expected);
        // Two GPUs of one kind compute the same bits.
        let other = super::Gpu { uuid: "GPU-2".into(), bus: "1".into(), ..gpu.clone() };
        assert_eq!(super::of_gpu(&other, |_| None), super::of_gpu(&gpu, |_| None));
        // Another cuDNN may choose other kernels.
        let other = super::Gpu { libraries: "cuDNN 92000".into(), ..gpu.clone() };
        assert_ne!(super::of_gpu(&other, |_| None), super::of_gpu(&gpu, |_| None));
    }

    #[test]
    fn a_build_may_be_told_from_others_of_its_version() {
        let own = ptv2_common::VERSION;
        assert_eq!(super::version(None), own);
        assert_eq!(super::version(Some("51202ea")), format!("{own}+51202ea"));
    }
}
