//! The configuration of `ptv2ctl superglue`.

use crate::failure::Failure;
use crate::jobfile::{self, Draft};
use ptv2_common::error::Explained;
use ptv2_common::manifest::Which;
use ptv2_common::spec;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What is trained, and what of it goes into the submission.
#[derive(Debug)]
pub(super) struct Config {
    /// The folder of submission and report.
    pub(super) to: PathBuf,
    /// Which checkpoint predicts.
    pub(super) checkpoint: Which,
    place: String,
    folder: PathBuf,
    file: File,
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    /// Names the jobs: `<name>-<task>`.
    name: String,
    /// The folder of submission and report, relative to the file.
    to: PathBuf,
    /// best or last.
    #[serde(default = "best")]
    checkpoint: String,
    /// Tasks, without `superglue/`; all eight where they are not named.
    tasks: Option<Vec<String>>,
    /// Keys of a job file, for every task.
    #[serde(default)]
    job: toml::Table,
    /// The same, for one task.
    #[serde(default)]
    task: BTreeMap<String, toml::Table>,
}

fn best() -> String {
    "best".into()
}

/// A job that is to be submitted.
#[derive(Debug)]
pub(super) struct Planned {
    /// Its task.
    pub(super) task: String,
    /// The job.
    pub(super) draft: Draft,
}

impl Config {
    /// Reads a configuration.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::local("the configuration cannot be read", path, &error))?;
        let absolute = std::path::absolute(path)
            .map_err(|error| Failure::local("the configuration has no folder", path, &error))?;
        let folder = absolute.parent().unwrap_or(Path::new("/")).to_owned();
        Self::parse(&text, path.display().to_string(), folder)
    }

    fn parse(text: &str, place: String, folder: PathBuf) -> Result<Self, Failure> {
        let refused = |error: Explained| Failure::refused(error.hint(SEE));
        let file: File = toml::from_str(text).map_err(|error: toml::de::Error| {
            let line = error.span().map(|span| 1 + text[..span.start].matches('\n').count());
            let at = line.map_or_else(|| place.clone(), |line| format!("{place}, line {line}"));
            refused(
                Explained::new(format!("the configuration is refused: {}", error.message())).at(at),
            )
        })?;
        let checkpoint = file.checkpoint.parse();
        let checkpoint =
            checkpoint.map_err(|error: String| refused(Explained::new(error).at(&place)))?;
        Ok(Self { to: folder.join(&file.to), checkpoint, place, folder, file })
    }

    /// Its jobs: each task's recipe under the keys that are given for all, and for it.
    pub(super) fn jobs(&self) -> Result<Vec<Planned>, Failure> {
        let all = || spec::known_tasks().map(|task| short(task).to_owned()).collect();
        let tasks: Vec<String> = self.file.tasks.clone().unwrap_or_else(all);
        if let Some(stray) = self.file.task.keys().find(|task| !tasks.contains(task)) {
            let error = Explained::new(format!("`task.{stray}` is no task that is to be trained"))
                .at(&self.place)
                .expected(tasks.join(", "));
            return Err(Failure::refused(error.hint(SEE)));
        }
        tasks.iter().map(|task| self.job(task)).collect()
    }

    fn job(&self, task: &str) -> Result<Planned, Failure> {
        let recipe = spec::recipe(task).map_err(|error| Failure::refused(error.at(&self.place)))?;
        let full = recipe.task.clone();
        let mut job = serde_json::to_value(recipe).unwrap_or_default();
        job["name"] = json!(format!("{}-{task}", self.file.name));
        let own = self.file.task.get(task).cloned().unwrap_or_default();
        let given =
            [self.file.job.clone(), own].map(|table| jobfile::json(toml::Value::Table(table)));
        for key in ["/backbone/path", "/data/root"] {
            if given.iter().all(|keys| keys.pointer(key).is_none()) {
                let name = key.trim_start_matches('/').replace('/', ".");
                let error = Explained::new(format!("`job.{name}` is missing")).at(&self.place);
                return Err(Failure::refused(error.expected("a path").hint(SEE)));
            }
        }
        for keys in &given {
            // One of the two says how long: what is given takes the recipe's place.
            if keys.pointer("/training/max_steps").is_some() {
                without(&mut job, "epochs");
            }
            if keys.pointer("/training/epochs").is_some() {
                without(&mut job, "max_steps");
            }
            spec::merge(&mut job, keys);
        }
        let draft = jobfile::of_value(job, &self.place, &self.folder);
        draft.check()?;
        Ok(Planned { task: full, draft })
    }
}

const SEE: &str = "each key stands in configs/superglue.toml";

fn without(job: &mut Value, key: &str) {
    if let Some(training) = job.get_mut("training").and_then(Value::as_object_mut) {
        training.remove(key);
    }
}

fn short(task: &str) -> &str {
    task.rsplit('/').next().unwrap_or(task)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "name = \"a\"\nto = \"out\"\ntasks = [\"boolq\", \"rte\"]\n";
    const PATHS: &str = "[job]\nbackbone.path = \"m\"\ndata.root = \"/d\"\n";

    fn parsed(text: &str) -> Result<Vec<Planned>, Failure> {
        Config::parse(text, "a.toml".into(), "/here".into())?.jobs()
    }

    fn refusal(text: &str) -> String {
        parsed(text).unwrap_err().message()
    }

    #[test]
    fn a_task_s_keys_lie_over_those_of_all_and_its_recipe() {
        let text = format!(
            "{HEAD}{PATHS}training.epochs = 3\n[task.boolq]\nmethod.pre_seq_len = 7\n\
             training.max_steps = 9\n"
        );
        let jobs = parsed(&text).unwrap();
        let (boolq, rte) = (&jobs[0].draft.spec, &jobs[1].draft.spec);
        assert_eq!(
            (boolq["task"].as_str(), boolq["name"].as_str()),
            (Some("superglue/boolq"), Some("a-boolq"))
        );
        assert_eq!(boolq["backbone"]["path"], "/here/m");
        assert_eq!(
            (&boolq["method"]["pre_seq_len"], &boolq["training"]["max_steps"]),
            (&json!(7), &json!(9))
        );
        assert_eq!(boolq["training"].get("epochs"), None);
        assert_eq!(
            (&rte["training"]["epochs"], &rte["method"]["pre_seq_len"]),
            (&json!(3), &json!(20))
        );
    }

    #[test]
    fn the_example_trains_all_tasks() {
        let text = include_str!("../../../../configs/superglue.toml");
        let jobs = parsed(text).unwrap();
        assert_eq!(jobs.len(), 8);
        let boolq = &jobs[0].draft.spec;
        assert_eq!(boolq["backbone"]["path"], "/here/models/all-MiniLM-L6-v2");
        assert_eq!(boolq["training"]["epochs"], 20);
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(refusal("name = 1").contains("a.toml, line 1"));
        assert!(refusal(&format!("{HEAD}{PATHS}[task.wic]\n")).contains("`task.wic`"));
        assert!(refusal(HEAD).contains("`job.backbone.path` is missing"));
        let unknown = format!("{HEAD}{PATHS}training.epoch = 3\n");
        assert!(refusal(&unknown).contains("unknown key `training.epoch`"));
        let stray = format!("{}{PATHS}", HEAD.replace("rte", "what"));
        assert!(refusal(&stray).contains("no task is named `what`"));
    }
}
