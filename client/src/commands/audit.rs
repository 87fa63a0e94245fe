//! `ptv2ctl audit`.

use crate::cli::{AuditArgs, Output};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{render, tables};
use ptv2_common::access::AuditEvent;

/// Lists who did what, and who was refused.
pub(crate) async fn run(api: &Api, output: Output, args: &AuditArgs) -> Result<Outcome, Failure> {
    let query: Vec<_> = args.limit.iter().map(|limit| ("limit", limit.to_string())).collect();
    let events: Vec<AuditEvent> = api.get_with(&["audit"], &query).await?;
    render::either(output, events.as_slice(), tables::audit)?;
    Ok(Outcome::Done)
}
