//! `ptv2ctl workers`.

use crate::cli::Output;
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{render, tables};
use ptv2_common::api::WorkerStatus;

/// Lists registered workers.
pub(crate) async fn run(api: &Api, output: Output) -> Result<Outcome, Failure> {
    let workers: Vec<WorkerStatus> = api.get(&["workers"]).await?;
    render::either(output, workers.as_slice(), tables::workers)?;
    Ok(Outcome::Done)
}
