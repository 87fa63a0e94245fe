//! `ptv2ctl metrics`.

use crate::cli::{JobArgs, Output};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{render, tables};
use ptv2_common::api::MetricsRow;

/// Prints what a job's steps and evaluations measured.
pub(crate) async fn run(api: &Api, output: Output, args: &JobArgs) -> Result<Outcome, Failure> {
    let rows: Vec<MetricsRow> = api.get(&["jobs", &args.job, "metrics"]).await?;
    render::either(output, rows.as_slice(), tables::metrics)?;
    Ok(Outcome::Done)
}
