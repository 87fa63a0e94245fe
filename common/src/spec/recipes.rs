//! A commented job file for each task, with the values of the recipes in configs/superglue.

use super::read::one_of;
use super::{JobSpec, commented};
use crate::error::Explained;

/// Each task, and its recipe: of those in the folder the one for BERT-large.
const RECIPES: [(&str, &str); 8] = [
    ("superglue/boolq", include_str!("../../../configs/superglue/boolq-bert-large.toml")),
    ("superglue/cb", include_str!("../../../configs/superglue/cb-bert-large.toml")),
    ("superglue/copa", include_str!("../../../configs/superglue/copa-bert-large.toml")),
    ("superglue/multirc", include_str!("../../../configs/superglue/multirc-bert-large.toml")),
    ("superglue/record", include_str!("../../../configs/superglue/record-bert-large.toml")),
    ("superglue/rte", include_str!("../../../configs/superglue/rte-bert-large.toml")),
    ("superglue/wic", include_str!("../../../configs/superglue/wic-bert-large.toml")),
    ("superglue/wsc", include_str!("../../../configs/superglue/wsc-bert-large.toml")),
];

const WHAT_TO_DO: &str = "Replace the two paths that begin with /path/to; then `ptv2ctl plan FILE` \
     says what the job costs, and `ptv2ctl submit FILE --follow` runs it. All keys but the required \
     ones, and epochs or max_steps, may be left out.";

/// The tasks that a job file can be begun for.
pub fn known_tasks() -> impl Iterator<Item = &'static str> {
    RECIPES.iter().map(|(task, _)| *task)
}

/// The recipe of a task, as a job with two paths to be replaced.
///
/// # Errors
/// Names the known tasks for one that is none of them.
pub fn recipe(task: &str) -> Result<JobSpec, Explained> {
    JobSpec::from_toml(text(task)?)
}

fn text(task: &str) -> Result<&'static str, Explained> {
    let is_asked = |known: &str| known == task || known.rsplit('/').next() == Some(task);
    let found = RECIPES.iter().find(|(known, _)| is_asked(known));
    found.map(|(_, recipe)| *recipe).ok_or_else(|| {
        Explained::new(format!("no task is named `{task}`"))
            .expected(one_of(known_tasks()))
            .hint("the name of a task may be given without what stands before its slash")
    })
}

/// A commented job file for a task, `superglue/rte` or `rte`: the recipe's values, and paths to be
/// replaced.
///
/// # Errors
/// Names the known tasks for one that is none of them.
pub fn job_file(task: &str) -> Result<String, Explained> {
    let recipe = text(task)?;
    let mut spec = JobSpec::from_toml(recipe)?;
    for path in [&mut spec.backbone.path, &mut spec.data.root] {
        let name = path.rsplit('/').next().unwrap_or_default();
        *path = format!("/path/to/{name}");
    }
    // What a recipe says of itself stands on its top.
    let about: Vec<&str> = recipe.lines().map_while(|line| line.strip_prefix("# ")).collect();
    commented(&spec, &[&about.join(" "), "", WHAT_TO_DO])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Precision;

    #[test]
    fn the_file_of_each_task_is_a_job_with_the_recipe_s_values() {
        for (task, recipe) in RECIPES {
            let text = job_file(task).unwrap();
            let spec = JobSpec::from_toml(&text).unwrap();
            assert_eq!(spec.task, task);
            let mut expected = JobSpec::from_toml(recipe).unwrap();
            expected.backbone.path = "/path/to/bert-large-cased".into();
            expected.data.root = "/path/to/superglue".into();
            assert_eq!(spec, expected);
        }
    }

    #[test]
    fn each_recipe_is_a_job_of_the_task_and_the_backbone_that_its_file_is_named_for() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/superglue");
        let mut count = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            let spec = JobSpec::from_toml(&std::fs::read_to_string(&file).unwrap()).unwrap();
            let task = spec.task.strip_prefix("superglue/").unwrap();
            let backbone = spec.backbone.path.strip_prefix("models/").unwrap();
            let backbone = backbone.strip_suffix("-cased").unwrap_or(backbone);
            assert_eq!(file.file_stem().unwrap().to_str().unwrap(), format!("{task}-{backbone}"));
            count += 1;
        }
        // Ten that were published, and one for each task without.
        assert_eq!(count, 13);
    }

    /// A GPU wants bf16 and as few slices as there are GPUs; else it is the same job.
    #[test]
    fn the_recipe_for_a_gpu_is_that_of_its_task() {
        let text = include_str!("../../../configs/gpu/rte-bert-large.toml");
        let mut spec = JobSpec::from_toml(text).unwrap();
        assert_eq!(
            (spec.training.slices.take(), spec.backbone.precision),
            (Some(1), Precision::Bf16)
        );
        spec.backbone.precision = Precision::Fp32;
        let known = RECIPES.iter().find(|(task, _)| *task == spec.task).unwrap();
        assert_eq!(spec, JobSpec::from_toml(known.1).unwrap());
    }

    #[test]
    fn a_value_that_is_not_the_default_has_the_default_beside_it() {
        let text = job_file("boolq").unwrap();
        assert!(text.contains(" Default: 20.\npre_seq_len = 40\n"), "{text}");
        assert!(text.starts_with("# BoolQ with BERT-large-cased"), "{text}");
    }

    #[test]
    fn an_unknown_task_is_answered_with_the_known_ones() {
        let error = job_file("ner").unwrap_err();
        assert!(error.expected.unwrap().contains("`superglue/copa`"));
    }
}
