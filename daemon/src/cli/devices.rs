//! `ptv2d devices`, and the option that says where torch's libraries for GPUs are.

use clap::Args;
use ptv2_common::error::Explained;
use std::io::Write;
use std::path::{Path, PathBuf};

#[derive(Debug, Args)]
pub(super) struct CudaArgs {
    /// PyTorch 2.11, or its folder of libraries, that computes on GPUs [default: beside libtorch; else that
    /// of VIRTUAL_ENV, CONDA_PREFIX, PYTHONPATH or python3]
    #[arg(long, env = "PTV2_LIBTORCH_CUDA", value_name = "PATH")]
    pub(super) libtorch_cuda: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct DevicesArgs {
    #[command(flatten)]
    cuda: CudaArgs,
}

impl DevicesArgs {
    /// Shows what there is, each with its reason where it is not.
    pub(super) fn show(self) -> Result<(), Explained> {
        let mut lines = Vec::new();
        report(self.cuda.libtorch_cuda.as_deref(), &mut lines);
        let text = lines.join("\n");
        writeln!(std::io::stdout().lock(), "{text}").map_err(|error| Explained::from_error(&error))
    }
}

#[cfg(not(feature = "torch"))]
fn report(_: Option<&Path>, lines: &mut Vec<String>) {
    lines.push("this build does not compute".into());
}

/// The driver and its GPUs; the PyTorch; what torch says once that is loaded.
#[cfg(feature = "torch")]
fn report(named: Option<&Path>, lines: &mut Vec<String>) {
    use crate::cuda;
    let because = |error: Explained| match error.hint {
        Some(ref hint) => format!("{error}; {hint}"),
        None => error.to_string(),
    };
    match cuda::count() {
        Ok(count) => lines.extend((0..count).map(|index| match cuda::look(index) {
            Ok(gpu) => format!("cuda:{index}   {gpu}"),
            Err(error) => format!("cuda:{index}   of no use: {}", because(error)),
        })),
        Err(error) => lines.push(format!("GPUs     none: {}", because(error))),
    }
    let found = cuda::find(named, &super::variable);
    let loaded = found.and_then(|pytorch| cuda::load(&pytorch).map(|()| pytorch));
    match loaded {
        Ok(pytorch) => {
            let own = if pytorch.is_own { "" } else { ", of another revision" };
            let at = pytorch.folder.display();
            lines.push(format!("PyTorch  {}{own}, loaded from {at}", pytorch.version));
        }
        Err(error) => lines.push(format!("PyTorch  none: {}", because(error))),
    }
    let torch = cuda::torch(0);
    let with = torch.cuda.map_or("without CUDA".into(), |cuda| format!("with CUDA {cuda}"));
    let trouble = torch.trouble.map(|trouble| format!(": {trouble}")).unwrap_or_default();
    let count = torch.count;
    lines.push(format!("torch    {with}; GPUs that it can compute on: {count}{trouble}"));
    lines.push(format!("CUDA     {}", cuda::libraries()));
}
