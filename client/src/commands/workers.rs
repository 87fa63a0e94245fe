//! `ptv2ctl workers`.

use crate::cli::Output;
use crate::failure::{Failure, Kind, Outcome};
use crate::http::Api;
use crate::{render, tables};
use ptv2_common::api::WorkerStatus;
use ptv2_common::launch::LauncherStatus;

/// Lists registered workers; for a person also those that the coordinator has started and that are to come.
pub(crate) async fn run(api: &Api, output: Output) -> Result<Outcome, Failure> {
    let workers: Vec<WorkerStatus> = api.get(&["workers"]).await?;
    render::either(output, workers.as_slice(), tables::workers)?;
    if output == Output::Table
        && let Some(launcher) = launcher(api).await?
        && let Some(text) = tables::launches(&launcher)
    {
        render::data(&format!("\n{text}"))?;
    }
    Ok(Outcome::Done)
}

/// What the coordinator starts. Not every token may see it, and an older coordinator does not know it.
async fn launcher(api: &Api) -> Result<Option<LauncherStatus>, Failure> {
    match api.get(&["launcher"]).await {
        Ok(launcher) => Ok(Some(launcher)),
        Err(failure) if matches!(failure.kind, Kind::NotPermitted | Kind::NotFound) => Ok(None),
        Err(failure) => Err(failure),
    }
}
