//! The leaderboard's zip: one file a task, at its top.

use crate::failure::Failure;
use ptv2_common::error::Explained;
use std::io::Write;
use std::path::Path;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

/// Writes `submission.zip` into a folder, whole or not at all. Equal files give equal bytes.
pub(super) fn write(folder: &Path, files: &[(String, Vec<u8>)]) -> Result<(), Failure> {
    let place = folder.join("submission.zip");
    let failed = |error: &dyn std::error::Error| {
        Failure::refused(
            Explained::new(format!("the submission cannot be written: {error}"))
                .at(place.display().to_string()),
        )
    };
    std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
    let mut out = tempfile::NamedTempFile::new_in(folder).map_err(|error| failed(&error))?;
    let mut zip = ZipWriter::new(&mut out);
    for (name, bytes) in files {
        zip.start_file(name, SimpleFileOptions::default()).map_err(|error| failed(&error))?;
        zip.write_all(bytes).map_err(|error| failed(&error))?;
    }
    zip.finish().map_err(|error| failed(&error))?;
    out.as_file().sync_all().map_err(|error| failed(&error))?;
    out.persist(&place).map_err(|error| failed(&error))?;
    Ok(())
}
