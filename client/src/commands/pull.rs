//! `ptv2ctl pull`.

mod choice;
mod folder;
pub(super) mod source;

use crate::cli::{Format, Global, PullArgs};
use crate::failure::{Failure, Kind, Outcome};
use crate::http::Api;
use crate::render;
use ptv2_common::api::{Checkpoint, CheckpointFiles, JobStatus};
use ptv2_common::error::Explained;
use ptv2_common::ids::JobId;
use ptv2_common::manifest::{FileEntry, Which};
use ptv2_common::storage::{Store, StoreAddress};
use serde::Serialize;
use source::Source;
use std::path::{Path, PathBuf};

/// Files below this folder make the PEFT adapter.
const PEFT_FOLDER: &str = "peft/";

/// What is to be fetched, and from where.
struct Found {
    source: Source,
    job_name: String,
    checkpoint: Checkpoint,
    files: Vec<FileEntry>,
}

/// What `pull --output json` prints.
#[derive(Serialize)]
struct Pulled {
    folder: String,
    checkpoint: Checkpoint,
    files: Vec<String>,
}

/// Fetches a checkpoint into a folder, whole or not at all.
pub(crate) async fn run(global: &Global, args: &PullArgs) -> Result<Outcome, Failure> {
    let work = async {
        let found = find(global, args).await?;
        let files = chosen(&found.files, args.format, &found.checkpoint)?;
        let target = target(args, &found.job_name)?;
        folder::check_free(&target, args.force)?;
        let staged = folder::Staged::beside(&target)?;
        for (file, _) in &files {
            found.source.fetch(file, &staged.part(file)).await?;
        }
        staged.assemble(&files)?;
        staged.publish(&target, args.force)?;
        let files = files.iter().map(|(_, name)| name.display().to_string()).collect();
        Ok::<_, Failure>(Pulled {
            folder: target.display().to_string(),
            checkpoint: found.checkpoint,
            files,
        })
    };
    // Ctrl-C drops the work; what has come by then stays for the next pull.
    let pulled = tokio::select! {
        pulled = work => pulled?,
        _ = tokio::signal::ctrl_c() => {
            let error = Explained::new("interrupted: nothing was pulled")
                .hint("what has come by now is kept: the same command goes on from there");
            return Err(Failure::new(Kind::Interrupted, error));
        }
    };
    render::either(global.output, &pulled, |pulled| pulled.folder.clone())?;
    Ok(Outcome::Done)
}

async fn find(global: &Global, args: &PullArgs) -> Result<Found, Failure> {
    if let Some(location) = &args.store {
        let job = full_id(&args.job)?;
        return find_in_store(
            source::open(&location.as_str().into())?,
            job,
            (args.checkpoint, args.seed),
        )
        .await;
    }
    let api = Api::new(global)?;
    let job: JobStatus = api.get(&["jobs", &args.job]).await?;
    let which = args.checkpoint.to_string();
    let seed = args.seed.map(|seed| ("seed", seed.to_string()));
    let path = ["jobs", &job.id, "checkpoints", &which];
    let answer: CheckpointFiles = api.get_with(&path, seed.as_slice()).await?;
    let source = if args.direct {
        let address = StoreAddress { url: answer.store, settings: answer.storage };
        Source::Store { store: source::open(&address)?, job: full_id(&job.id)? }
    } else {
        Source::Coordinator { api, job: job.id }
    };
    Ok(Found { source, job_name: job.name, checkpoint: answer.checkpoint, files: answer.files })
}

async fn find_in_store(
    store: Store,
    job: JobId,
    (which, seed): (Which, Option<u64>),
) -> Result<Found, Failure> {
    let listing = source::list(&store, &job).await?;
    let chosen = choice::choose(listing, which, seed).ok_or_else(|| no_such(&job, which))?;
    let (key, manifest) = &chosen;
    let checkpoint = Checkpoint::of(key, manifest);
    Ok(Found {
        job_name: manifest.job.name.clone(),
        files: manifest.files.clone(),
        checkpoint,
        source: Source::Store { store, job },
    })
}

fn no_such(job: &JobId, which: Which) -> Failure {
    let error = Explained::new(format!("job {job} has no checkpoint `{which}` in this store"))
        .hint("--checkpoint last takes the newest; a job that was not evaluated yet has no best");
    Failure::new(Kind::NotFound, error)
}

fn full_id(text: &str) -> Result<JobId, Failure> {
    let is_id = text.strip_prefix('j').is_some_and(|digits| {
        digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
    });
    if is_id {
        return Ok(JobId(text.to_owned()));
    }
    let error = Explained::new(format!("`{text}` is no full job id"))
        .expected("`j` and ten hexadecimal digits")
        .hint("a store knows no names; `ptv2ctl status` lists ids");
    Err(Failure::refused(error))
}

/// The files of a format, each with the name that it gets in the folder.
fn chosen(
    files: &[FileEntry],
    format: Format,
    checkpoint: &Checkpoint,
) -> Result<Vec<(FileEntry, PathBuf)>, Failure> {
    let mut chosen = Vec::new();
    for file in files {
        let name = match (format, file.name.strip_prefix(PEFT_FOLDER)) {
            (Format::Peft, Some(name)) => name,
            (Format::Native, None) => &file.name,
            (Format::Peft, None) | (Format::Native, Some(_)) => continue,
        };
        chosen.push((file.clone(), folder::checked_name(name)?));
    }
    if !chosen.is_empty() {
        return Ok(chosen);
    }
    let step = checkpoint.step;
    Err(Failure::refused(match format {
        Format::Peft => {
            Explained::new(format!("the checkpoint of step {step} has no PEFT adapter"))
                .expected("a prefix on a BERT or a RoBERTa: PEFT has no form for anything else")
                .hint("use --format native")
        }
        Format::Native => Explained::new(format!("the checkpoint of step {step} has no files")),
    }))
}

fn target(args: &PullArgs, job_name: &str) -> Result<PathBuf, Failure> {
    let target = match &args.to {
        Some(folder) => folder.clone(),
        None => {
            let seed = args.seed.map_or_else(String::new, |seed| format!("-{seed}"));
            folder::checked_name(&format!("{job_name}-{}{seed}", args.checkpoint))?
        }
    };
    std::path::absolute(&target)
        .map_err(|error| Failure::local("the folder cannot be named", Path::new(&target), &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str) -> FileEntry {
        FileEntry { name: name.into(), bytes: 1, sha256: "0".repeat(64) }
    }

    fn names(files: &[&str], format: Format) -> Result<Vec<String>, Failure> {
        let files: Vec<FileEntry> = files.iter().map(|name| entry(name)).collect();
        let checkpoint = Checkpoint {
            key: String::new(),
            step: 20,
            generation: 1,
            is_best: true,
            metric: None,
            run: 0,
            seed: None,
            ends_run: false,
            ends_job: false,
            bytes: 1,
            tuned_sha256: String::new(),
        };
        let chosen = chosen(&files, format, &checkpoint)?;
        Ok(chosen.into_iter().map(|(_, name)| name.display().to_string()).collect())
    }

    #[test]
    fn a_format_takes_its_files() {
        let all = ["state.safetensors", "job.json", "peft/adapter_config.json"];
        assert_eq!(names(&all, Format::Peft).unwrap(), ["adapter_config.json"]);
        assert_eq!(names(&all, Format::Native).unwrap(), ["state.safetensors", "job.json"]);
    }

    #[test]
    fn a_checkpoint_without_adapter_is_refused_with_a_hint() {
        let failure = names(&["job.json"], Format::Peft).unwrap_err();
        assert_eq!(failure.kind.exit_code(), 2);
        assert!(failure.message().contains("--format native"));
    }

    #[test]
    fn a_name_that_leaves_the_folder_is_refused() {
        for name in ["peft/../x", "peft//etc/passwd", "peft/"] {
            assert!(names(&[name], Format::Peft).is_err(), "{name}");
        }
    }

    #[test]
    fn a_store_wants_the_full_id() {
        assert!(full_id("j0123456789").is_ok());
        for text in ["j01234", "rte", "w0123456789", "j012345678x"] {
            assert_eq!(full_id(text).unwrap_err().kind.exit_code(), 2, "{text}");
        }
    }
}
