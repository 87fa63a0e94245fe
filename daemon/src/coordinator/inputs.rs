//! What jobs that were accepted need of the cache: it stays while they have not ended, and is fetched again
//! where it was lost.

use crate::inputs::{Cache, Mirror, StoreUrl};
use ptv2_common::error::Explained;
use ptv2_common::job::{JobRecord, MirroredFiles};
use std::collections::BTreeSet;
use std::path::PathBuf;

use super::accept::wanted::{BACKBONE, DATA};

/// The views of the cache that a job uses.
pub fn needed_by(record: &JobRecord) -> impl Iterator<Item = String> {
    record.mirrored.values().map(|mirrored| Cache::view_name(&mirrored.files))
}

/// A job as it is staged from here: the places in stores that it names are folders of the cache, each with
/// the very files that it was accepted with.
///
/// # Errors
/// Those of [`Mirror::fetch_pinned`].
pub async fn localized(
    mirror: &Mirror,
    record: &JobRecord,
    needed: &BTreeSet<String>,
) -> Result<JobRecord, Explained> {
    let mut local = record.clone();
    if let Some(data) = record.mirrored.get(DATA) {
        local.spec.data.root = text(&folder(mirror, data, needed).await?);
    }
    if let Some(backbone) = record.mirrored.get(BACKBONE) {
        local.backbone.directory = text(&folder(mirror, backbone, needed).await?);
    }
    Ok(local)
}

async fn folder(
    mirror: &Mirror,
    mirrored: &MirroredFiles,
    needed: &BTreeSet<String>,
) -> Result<PathBuf, Explained> {
    let url = StoreUrl::parse(&mirrored.url)?;
    mirror.fetch_pinned(&url, &mirrored.files, needed).await
}

fn text(folder: &std::path::Path) -> String {
    folder.display().to_string()
}
