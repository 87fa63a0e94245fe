//! `ptv2ctl pull`.

use crate::cli::{Global, PullArgs};
use crate::failure::{Failure, Outcome};

/// Fetches a checkpoint.
pub(crate) async fn run(_global: &Global, _args: &PullArgs) -> Result<Outcome, Failure> {
    Ok(Outcome::Done)
}
