//! `ptv2ctl checkpoints`.

use crate::cli::{JobArgs, Output};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{render, tables};
use ptv2_common::api::Checkpoint;

/// Lists a job's checkpoints.
pub(crate) async fn run(api: &Api, output: Output, args: &JobArgs) -> Result<Outcome, Failure> {
    let list: Vec<Checkpoint> = api.get(&["jobs", &args.job, "checkpoints"]).await?;
    render::either(output, list.as_slice(), tables::checkpoints)?;
    Ok(Outcome::Done)
}
