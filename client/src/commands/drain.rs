//! `ptv2ctl drain`.

use crate::cli::{DrainArgs, Output};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::render;

/// Tells a worker to leave.
pub(crate) async fn run(api: &Api, output: Output, args: &DrainArgs) -> Result<Outcome, Failure> {
    api.post(&["workers", &args.worker, "drain"]).await?;
    let answer = serde_json::json!({ "worker": args.worker, "draining": true });
    render::either(output, &answer, |_| format!("{} draining", args.worker))?;
    Ok(Outcome::Done)
}
