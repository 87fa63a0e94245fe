//! Which device a worker takes, and how many threads: from what was asked for and the environment alone. Whether
//! it can be had is found out in [`settle`].
//!
//! Inside Slurm a GPU must be given: `CUDA_VISIBLE_DEVICES` that is not set leaves every GPU of the node
//! visible, also those of other people's jobs, so it never means "take one".

mod settle;

pub use settle::{Gpu, Settled, for_workers, of_this_build, of_this_machine};

use ptv2_common::error::Explained;
use ptv2_common::session::VisibleDevice;
use ptv2_common::slurm::Placement;
use std::fmt::Display;
use std::str::FromStr;

/// Compute threads of one worker at most.
pub const THREADS_MAX: u32 = 1024;

/// What was asked for by `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// The best there is.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU; a number counts the visible ones from 0.
    Cuda(Option<u32>),
}

impl FromStr for Wish {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("cuda:").map(str::parse)) {
            ("auto", _) => Ok(Self::Auto),
            ("cpu", _) => Ok(Self::Cpu),
            ("cuda", _) => Ok(Self::Cuda(None)),
            (_, Some(Ok(index))) => Ok(Self::Cuda(Some(index))),
            (_, Some(Err(_)) | None) => Err("expected auto, cpu, cuda or cuda:N".into()),
        }
    }
}

impl Display for Wish {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Auto => write!(f, "auto"),
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(None) => write!(f, "cuda"),
            Self::Cuda(Some(index)) => write!(f, "cuda:{index}"),
        }
    }
}

/// What was chosen, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// The GPU; none: the processor.
    pub gpu: Option<VisibleDevice>,
    /// Why, for people.
    pub why: String,
    /// Whether the environment gave it. Else it is one that may be taken, if there is one.
    pub is_given: bool,
}

impl Choice {
    fn cpu(why: impl Into<String>) -> Self {
        Self { gpu: None, why: why.into(), is_given: false }
    }
}

/// Chooses a device.
///
/// # Errors
/// When a GPU is asked for, and none is given, or not that one.
pub fn choose(wish: Wish, variable: impl Fn(&str) -> Option<String>) -> Result<Choice, Explained> {
    if wish == Wish::Cpu {
        return Ok(Choice::cpu("asked for"));
    }
    let slurm = Placement::of(&variable);
    match (variable("CUDA_VISIBLE_DEVICES"), slurm) {
        (Some(list), slurm) => match visible(&list).as_slice() {
            [] => no_gpu(wish, format!("CUDA_VISIBLE_DEVICES is `{list}`, which names no GPU")),
            names => among(wish, names, slurm.as_ref()),
        },
        (None, Some(slurm)) => {
            let step = variable("SLURM_STEP_GPUS").filter(|list| !list.is_empty());
            let step = step.map(|list| format!(", although SLURM_STEP_GPUS is {list}"));
            let job = slurm.job;
            no_gpu(
                wish,
                format!(
                    "in Slurm job {job} CUDA_VISIBLE_DEVICES is not set{}: it gave no GPU",
                    step.unwrap_or_default()
                ),
            )
        }
        (None, None) => {
            let index = if let Wish::Cuda(Some(index)) = wish { index } else { 0 };
            let gpu = VisibleDevice { index, name: index.to_string() };
            let why = "outside Slurm every GPU may be taken".into();
            Ok(Choice { gpu: Some(gpu), why, is_given: false })
        }
    }
}

/// The devices that a list names, up to the first that is none: so CUDA reads it, and so Slurm says that
/// there are none. Numbers, and UUIDs of GPUs and of their MIG parts, stay as they are.
fn visible(list: &str) -> Vec<&str> {
    let names_one = |name: &&str| !matches!(*name, "" | "NoDevFiles") && !name.starts_with('-');
    list.split(',').map(str::trim).take_while(names_one).collect()
}

/// Chooses one of the visible devices.
fn among(wish: Wish, names: &[&str], slurm: Option<&Placement>) -> Result<Choice, Explained> {
    let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
    let task = slurm.and_then(|slurm| slurm.task.as_ref());
    let (index, why) = match (wish, task) {
        (Wish::Cuda(Some(index)), _) if index < count => (index, "asked for".to_owned()),
        (Wish::Cuda(Some(index)), _) => {
            return Err(Explained::new(format!(
                "cuda:{index} is asked for, and {} visible",
                if count == 1 { "one GPU is".into() } else { format!("{count} GPUs are") }
            ))
            .at("--device")
            .expected(format!("cuda:0 to cuda:{}, the visible ones in order", count - 1))
            .hint("they are counted from 0, whatever CUDA_VISIBLE_DEVICES calls them"));
        }
        _ if count == 1 => (0, "it is the only one visible".into()),
        (_, Some(task)) if task.local_rank < count => {
            (task.local_rank, format!("local rank {} of {count} visible", task.local_rank))
        }
        (_, Some(task)) => {
            let rank = task.local_rank;
            (rank % count, format!("local rank {rank} shares it: only {count} are visible"))
        }
        (_, None) => (0, format!("the first of {count} visible; --device cuda:N takes another")),
    };
    let name = names.get(index as usize).copied().unwrap_or_default().to_owned();
    Ok(Choice { gpu: Some(VisibleDevice { index, name }), why, is_given: true })
}

/// Takes the processor, unless a GPU was asked for.
fn no_gpu(wish: Wish, why: String) -> Result<Choice, Explained> {
    match wish {
        Wish::Auto | Wish::Cpu => Ok(Choice::cpu(why)),
        Wish::Cuda(_) => Err(Explained::new(format!("{wish} is asked for, and {why}"))
            .at("--device")
            .expected("a GPU that this process was given")
            .hint("ask Slurm for one by --gres=gpu:N or --gpus-per-task=1, or take --device cpu")),
    }
}

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compute {
    /// The processor.
    Cpu,
    /// A GPU, by its index among the visible ones.
    Cuda(u32),
}

impl Compute {
    /// The device as torch names it.
    #[cfg(feature = "torch")]
    pub fn torch(self) -> tch::Device {
        match self {
            Self::Cpu => tch::Device::Cpu,
            Self::Cuda(index) => tch::Device::Cuda(index as usize),
        }
    }
}

impl Display for Compute {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => write!(f, "cpu"),
            Self::Cuda(index) => write!(f, "cuda:{index}"),
        }
    }
}

/// Compute threads unless told otherwise: the processors of the task that `srun` started, else one.
pub fn threads(variable: impl Fn(&str) -> Option<String>) -> u32 {
    let is_task = Placement::of(&variable).is_some_and(|slurm| slurm.task.is_some());
    let given = variable("SLURM_CPUS_PER_TASK").and_then(|count| count.parse().ok());
    given.filter(|count| is_task && (1..=THREADS_MAX).contains(count)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variables of a process, as `NAME=value` words.
    fn environment(words: &str) -> impl Fn(&str) -> Option<String> {
        let pairs: Vec<(String, String)> = words
            .split_whitespace()
            .map(|word| word.split_once('=').unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        move |name| pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
    }

    const STEP: &str = "SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_PROCID=3";

    /// Index and name of the GPU, or `cpu`, and a piece of the reason.
    fn check(wish: &str, words: &str, expected: &str, why: &str) {
        let choice = choose(wish.parse().unwrap(), environment(words)).unwrap();
        let found = choice.gpu.map_or("cpu".into(), |gpu| format!("{} {}", gpu.index, gpu.name));
        assert_eq!(found, expected, "{wish}, {words}");
        assert!(choice.why.contains(why), "{wish}, {words}: {}", choice.why);
    }

    fn refused(wish: &str, words: &str, what: &str) {
        let error = choose(wish.parse().unwrap(), environment(words)).unwrap_err();
        assert!(error.what.contains(what), "{wish}, {words}: {error:?}");
        assert!(error.hint.is_some());
    }

    #[test]
    fn tasks_that_see_all_gpus_of_the_job_take_one_each() {
        // --gres=gpu:2: each task sees both.
        for (rank, expected) in [("0", "0 0"), ("1", "1 1")] {
            let words = format!("{STEP} CUDA_VISIBLE_DEVICES=0,1 SLURM_LOCALID={rank}");
            check("auto", &words, expected, "of 2 visible");
            check("cuda", &words, expected, "of 2 visible");
        }
        let third = format!("{STEP} CUDA_VISIBLE_DEVICES=0,1 SLURM_LOCALID=2");
        check("cuda", &third, "0 0", "shares it");
        check("cuda:1", &third, "1 1", "asked for");
        refused("cuda:2", &third, "2 GPUs are visible");
    }

    #[test]
    fn the_only_visible_gpu_is_the_first() {
        // --gpus-per-task=1, or two steps of one GPU each.
        let words = format!("{STEP} CUDA_VISIBLE_DEVICES=1 SLURM_LOCALID=1");
        check("auto", &words, "0 1", "only one");
        check("cuda:0", &words, "0 1", "asked for");
        refused("cuda:1", &words, "one GPU is visible");
        let step = "SLURM_JOB_ID=7 SLURM_STEP_ID=1 SLURM_LOCALID=0 CUDA_VISIBLE_DEVICES=3";
        check("auto", step, "0 3", "only one");
    }

    #[test]
    fn without_gres_no_gpu_is_taken_inside_slurm() {
        for words in [STEP, "SLURM_JOB_ID=7"] {
            check("auto", words, "cpu", "gave no GPU");
            check("cpu", words, "cpu", "asked for");
            refused("cuda", words, "CUDA_VISIBLE_DEVICES is not set");
            refused("cuda:0", words, "CUDA_VISIBLE_DEVICES is not set");
        }
        let lost = format!("{STEP} SLURM_STEP_GPUS=2,3");
        refused("cuda", &lost, "although SLURM_STEP_GPUS is 2,3");
        for list in ["", "NoDevFiles", "-1", "-1,0"] {
            let words = format!("{STEP} CUDA_VISIBLE_DEVICES={list}");
            check("auto", &words, "cpu", "names no GPU");
            refused("cuda", &words, "names no GPU");
        }
    }

    #[test]
    fn names_stay_as_they_are() {
        let words = format!("{STEP} CUDA_VISIBLE_DEVICES=GPU-8a,MIG-b2/1/0 SLURM_LOCALID=1");
        check("auto", &words, "1 MIG-b2/1/0", "local rank 1");
        let words = format!("{STEP} CUDA_VISIBLE_DEVICES=2,3,-1,4 SLURM_LOCALID=2");
        check("auto", &words, "0 2", "only 2 are visible");
    }

    #[test]
    fn a_batch_script_has_no_local_rank() {
        let words = "SLURM_JOB_ID=7 SLURM_PROCID=0 SLURM_LOCALID=0 CUDA_VISIBLE_DEVICES=0,1";
        check("cuda", words, "0 0", "takes another");
        assert_eq!(threads(environment(&format!("{words} SLURM_CPUS_PER_TASK=4"))), 1);
    }

    #[test]
    fn outside_slurm_what_is_asked_for_is_taken() {
        check("auto", "", "0 0", "outside Slurm");
        check("cuda", "", "0 0", "outside Slurm");
        check("cuda:3", "", "3 3", "outside Slurm");
        check("auto", "CUDA_VISIBLE_DEVICES=5", "0 5", "only one");
        check("auto", "CUDA_VISIBLE_DEVICES=", "cpu", "names no GPU");
    }

    #[test]
    fn a_wish_is_read_and_written() {
        for wish in ["auto", "cpu", "cuda", "cuda:3"] {
            assert_eq!(wish.parse::<Wish>().unwrap().to_string(), wish);
        }
        for text in ["", "gpu", "cuda:", "cuda:-1", "cuda:x"] {
            assert!(text.parse::<Wish>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_task_has_as_many_threads_as_processors() {
        assert_eq!(threads(environment(&format!("{STEP} SLURM_CPUS_PER_TASK=4"))), 4);
        for words in [STEP.to_owned(), format!("{STEP} SLURM_CPUS_PER_TASK=0")] {
            assert_eq!(threads(environment(&words)), 1);
        }
        assert_eq!(threads(environment("SLURM_CPUS_PER_TASK=4")), 1);
    }
}
