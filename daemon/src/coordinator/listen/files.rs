//! A certificate and its key from files.

use ptv2_common::error::Explained;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The two files.
#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) certificate: PathBuf,
    pub(super) key: PathBuf,
}

/// What tells that a file has changed.
pub(super) type Seen = [Option<(SystemTime, u64)>; 2];

impl Files {
    /// Reads both.
    ///
    /// # Errors
    /// When one cannot be read, the key is readable by others, or they do not belong together.
    pub(super) fn read(&self) -> Result<CertifiedKey, Explained> {
        let refused = |file: &Path, why: String| {
            Explained::new(format!("it cannot be used: {why}")).at(file.display().to_string())
        };
        let of_certificate = |why: String| {
            refused(&self.certificate, why)
                .expected("the certificate as PEM, and after it those that vouch for it")
                .hint("see `certificate` in `[tls]`")
        };
        let all = CertificateDer::pem_file_iter(&self.certificate)
            .and_then(|all| all.collect::<Result<Vec<_>, _>>())
            .map_err(|error| of_certificate(error.to_string()))?;
        if all.is_empty() {
            return Err(of_certificate("it holds no certificate".into()));
        }
        let of_key = |why: String| {
            refused(&self.key, why)
                .expected(
                    "the key of the certificate as PEM: PKCS#8, PKCS#1 or SEC1, without a password",
                )
                .hint("see `key` in `[tls]`")
        };
        refuse_readable_by_others(&self.key)?;
        let key =
            PrivateKeyDer::from_pem_file(&self.key).map_err(|error| of_key(error.to_string()))?;
        let provider = rustls::crypto::ring::default_provider();
        CertifiedKey::from_der(all, key, &provider).map_err(|error| of_key(error.to_string()))
    }

    /// How the files are now.
    pub(super) fn look(&self) -> Seen {
        [&self.certificate, &self.key].map(|file| {
            let metadata = file.metadata().ok()?;
            Some((metadata.modified().ok()?, metadata.len()))
        })
    }
}

/// Reads a text file.
pub(super) fn read(file: &Path) -> Result<String, Explained> {
    std::fs::read_to_string(file).map_err(|error| {
        Explained::new(format!("it cannot be read: {error}")).at(file.display().to_string())
    })
}

/// Refuses a key that others may read.
pub(super) fn refuse_readable_by_others(key: &Path) -> Result<(), Explained> {
    let at = |error: Explained| error.at(key.display().to_string());
    let metadata = key
        .metadata()
        .map_err(|error| at(Explained::new(format!("the key cannot be read: {error}"))))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    Err(at(Explained::new(format!("others than its owner may use the key: its mode is {mode:o}")))
        .expected("a key that only its owner may read")
        .hint(format!("chmod 600 {}; if others could read it, make a new one", key.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(folder: &Path) -> Files {
        let made = rcgen::generate_simple_self_signed(["there".to_owned()]).unwrap();
        let files = Files { certificate: folder.join("c.pem"), key: folder.join("k.pem") };
        std::fs::write(&files.certificate, made.cert.pem()).unwrap();
        std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();
        set_mode(&files.key, 0o600);
        files
    }

    fn set_mode(file: &Path, mode: u32) {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn check(spoil: impl Fn(&Files), said: &str) {
        let folder = tempfile::tempdir().unwrap();
        let files = made(folder.path());
        files.read().unwrap();
        spoil(&files);
        let all = format!("{:?}", files.read().unwrap_err());
        assert!(all.contains(said), "{said}: {all}");
    }

    #[test]
    fn wrong_files_are_refused_with_what_to_do() {
        check(|files| set_mode(&files.key, 0o640), "chmod 600");
        check(|files| std::fs::remove_file(&files.key).unwrap(), "k.pem");
        check(|files| std::fs::remove_file(&files.certificate).unwrap(), "c.pem");
        check(|files| std::fs::write(&files.certificate, "").unwrap(), "no certificate");
        check(|files| std::fs::write(&files.key, "text").unwrap(), "PKCS#8");
        let other = tempfile::tempdir().unwrap();
        let key = made(other.path()).key;
        check(|files| assert!(std::fs::copy(&key, &files.key).is_ok()), "k.pem");
    }

    #[test]
    fn a_change_is_seen() {
        let folder = tempfile::tempdir().unwrap();
        let files = made(folder.path());
        let before = files.look();
        assert_eq!(files.look(), before);
        std::fs::write(&files.certificate, "other").unwrap();
        assert_ne!(files.look(), before);
    }
}
