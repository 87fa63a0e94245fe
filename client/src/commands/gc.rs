//! `ptv2ctl gc`.

use crate::cli::{GcArgs, Output};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{render, tables};
use ptv2_common::upkeep::{GcReport, GcRequest};

/// Has the store collected, and prints what nobody needed. A large store takes several answers.
pub(crate) async fn run(api: &Api, output: Output, args: &GcArgs) -> Result<Outcome, Failure> {
    let mut whole = GcReport { dry_run: args.dry_run, ..GcReport::default() };
    let mut request = GcRequest { dry_run: args.dry_run, after: None };
    loop {
        let part: GcReport = api.post_job(&["gc"], &request).await?;
        whole.join(part);
        request.after = whole.next.take();
        let Some(after) = &request.after else { break };
        render::note(&format!("{} objects so far; on from {after}", whole.objects));
    }
    for line in &whole.left {
        render::note(&format!("left alone: {line}"));
    }
    render::either(output, &whole, tables::orphans)?;
    Ok(Outcome::Done)
}
