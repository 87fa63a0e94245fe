//! The process that fetches, as its parent sees it.

use super::{Line, Progress, Snapshot};
use crate::config::HubConfig;
use ptv2_common::error::Explained;
use ptv2_common::hub::HubId;
use std::process::Stdio;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

/// A process that fetches a backbone. It ends when this is dropped.
struct Fetching {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Fetching {
    fn start(config: &HubConfig, id: &HubId) -> Result<Self, Explained> {
        let failed = |error: std::io::Error| {
            Explained::new(format!("no process can be started that fetches {id}: {error}"))
        };
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .args(["fetch", "--for-parent", "--max-bytes", &config.bytes_max.to_string()])
            .args(config.options())
            .arg(id.to_string())
            // It ends when this pipe does, however this process ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(failed)?;
        let stdout = child.stdout.take();
        let stdout = stdout.ok_or_else(|| Explained::new("a process has no standard output"))?;
        Ok(Self { child, lines: BufReader::new(stdout).lines() })
    }

    async fn end(&mut self, said: &mut impl FnMut(Progress)) -> Result<Snapshot, Explained> {
        let unreadable = |error: &dyn std::error::Error| {
            Explained::new(format!("the process that fetches cannot be understood: {error}"))
        };
        while let Some(line) = self.lines.next_line().await.map_err(|error| unreadable(&error))? {
            match serde_json::from_str(&line).map_err(|error| unreadable(&error))? {
                Line::Progress(progress) => said(progress),
                Line::Fetched(snapshot) => return Ok(snapshot),
                Line::Failed(error) => return Err(error),
            }
        }
        let status = self.child.wait().await.map_err(|error| unreadable(&error))?;
        Err(Explained::new(format!("the process that fetches ended without a word: {status}"))
            .hint("its reason stands in this process's log; submit again"))
    }
}

/// Has a backbone fetched, and waits for its end. `said` hears how far it is. When the future is
/// dropped, the process ends.
///
/// # Errors
/// Those of [`super::fetch`]; and when it takes longer than the configuration allows.
pub async fn fetched(
    config: &HubConfig,
    id: &HubId,
    mut said: impl FnMut(Progress),
) -> Result<Snapshot, Explained> {
    let mut fetching = Fetching::start(config, id)?;
    let end = tokio::time::timeout(config.timeout, fetching.end(&mut said)).await;
    end.unwrap_or_else(|_| {
        let timeout = humantime::format_duration(config.timeout);
        Err(Explained::new(format!("{id} was not fetched within {timeout}"))
            .at("hub.timeout")
            .expected("all of its files")
            .hint(
                "what has come stays: submit again and the next fetch goes on; or raise the bound",
            ))
    })
}
