//! The two tokens that lie in the state folder, readable by its owner only.

use ptv2_common::error::Explained;
use ptv2_common::secret::Secret;
use std::io::Write;
use std::path::{Path, PathBuf};

/// What is shorter was not made here, and could be found by trying.
const SHORTEST: usize = 32;

/// The token in a file; none where there is no file.
///
/// # Errors
/// When it cannot be read, or holds something else.
pub(super) fn read(path: &Path) -> Result<Option<Secret>, Explained> {
    if let Some(warning) = ptv2_common::secret::exposed(path) {
        tracing::warn!("{warning}");
    }
    match std::fs::read_to_string(path) {
        Ok(text) if text.trim().len() >= SHORTEST => Ok(Some(Secret::new(text.trim()))),
        Ok(_) => Err(Explained::new(format!("the token is shorter than {SHORTEST} characters"))
            .at(path.display().to_string())
            .hint("remove the file; a new token is made at the next start")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, &error)),
    }
}

/// Puts a token into a file, whole or not at all, on disk when this returns.
///
/// # Errors
/// When it cannot be written.
pub(super) async fn write(path: PathBuf, token: Secret) -> Result<(), Explained> {
    let write = move || {
        let folder = path.parent().unwrap_or(Path::new("."));
        let written = || -> std::io::Result<()> {
            // Made with the mode 0600.
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            writeln!(file, "{}", token.expose())?;
            file.as_file().sync_all()?;
            file.persist(&path).map_err(|error| error.error)?;
            std::fs::File::open(folder)?.sync_all()
        };
        written().map_err(|error| at(&path, &error))
    };
    let written = tokio::task::spawn_blocking(write).await;
    written.map_err(|error| Explained::from_error(&error))?
}

fn at(path: &Path, error: &std::io::Error) -> Explained {
    Explained::from_error(error)
        .at(path.display().to_string())
        .hint("see that the state folder is this user's own, and has room")
}
