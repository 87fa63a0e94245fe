//! `ptv2ctl report`.

use crate::cli::{Output, ReportArgs};
use crate::failure::{Failure, Outcome};
use crate::http::Api;
use crate::{render, report};
use std::path::Path;

/// Prints or writes a report of jobs.
pub(crate) async fn run(api: &Api, output: Output, args: &ReportArgs) -> Result<Outcome, Failure> {
    let report = report::of(api, &args.jobs).await?;
    match &args.to {
        None => match output {
            Output::Json => render::json(&report)?,
            Output::Table => render::data(&render::clean(report::markdown(&report).trim_end()))?,
        },
        Some(folder) => {
            write(folder, &report)?;
            render::data(&folder.display().to_string())?;
        }
    }
    Ok(Outcome::Done)
}

/// Writes `report.md` and `report.json` into a folder, which is made where there is none.
pub(super) fn write(folder: &Path, report: &report::Report) -> Result<(), Failure> {
    let json = serde_json::to_string_pretty(report).unwrap_or_default() + "\n";
    for (name, text) in [("report.md", report::markdown(report)), ("report.json", json)] {
        let file = folder.join(name);
        std::fs::create_dir_all(folder)
            .and_then(|()| std::fs::write(&file, text))
            .map_err(|error| Failure::local("the report cannot be written", &file, &error))?;
    }
    Ok(())
}
