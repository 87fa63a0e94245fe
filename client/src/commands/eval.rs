//! `ptv2ctl eval`.

use super::{follow, score};
use crate::cli::{EvalArgs, Output};
use crate::failure::{Failure, Kind, Outcome};
use crate::http::Api;
use crate::render;
use ptv2_common::api::{EvaluationMetrics, JobState, JobStatus, MetricsRow};
use ptv2_common::error::Explained;
use serde::Serialize;
use std::collections::BTreeMap;

/// What `eval --wait --output json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Evaluated {
    id: String,
    task: String,
    split: String,
    of: String,
    rows: u64,
    majority_class: Option<f64>,
    #[serde(flatten)]
    values: BTreeMap<String, f64>,
}

/// Evaluates trained values on a split.
pub(crate) async fn run(api: &Api, output: Output, args: &EvalArgs) -> Result<Outcome, Failure> {
    let submitted = score::submit(api, &args.trained, &args.split, true).await?;
    if !args.wait {
        render::either(output, &submitted, |job| render::clean(&job.id))?;
        return Ok(Outcome::Done);
    }
    let jobs = follow::finals(api, std::slice::from_ref(&submitted.id), args.timeout).await?;
    for job in jobs.iter().filter(|job| job.state == JobState::Succeeded) {
        render::either(output, &evaluated(api, job).await?, table)?;
    }
    Ok(follow::worst(&jobs))
}

/// What an evaluation measured.
pub(super) async fn evaluated(api: &Api, job: &JobStatus) -> Result<Evaluated, Failure> {
    let rows: Vec<MetricsRow> = api.get(&["jobs", &job.id, "metrics"]).await?;
    let found = rows.into_iter().rev().find_map(|row| match row {
        MetricsRow::Evaluation(row) => Some(row),
        MetricsRow::Step(_) => None,
    });
    let Some(EvaluationMetrics { split, values, .. }) = found else {
        let error = Explained::new(format!("job {} has no evaluation", job.id));
        return Err(Failure::new(Kind::BadAnswer, error));
    };
    Ok(Evaluated {
        id: job.id.clone(),
        task: job.task.clone(),
        split,
        of: job.score.as_ref().map(|score| score.of.clone()).unwrap_or_default(),
        rows: job.plan.val_rows,
        majority_class: job.majority_class,
        values,
    })
}

fn table(found: &Evaluated) -> String {
    let mut rows = vec![
        ("job", Some(found.id.clone())),
        ("task", Some(found.task.clone())),
        ("split", Some(found.split.clone())),
        ("values of", Some(found.of.clone())),
        ("rows", Some(found.rows.to_string())),
        ("majority class", found.majority_class.map(|share| format!("{share:.4}"))),
    ];
    rows.extend(
        found.values.iter().map(|(name, value)| (name.as_str(), Some(format!("{value:.4}")))),
    );
    render::pairs(rows)
}
