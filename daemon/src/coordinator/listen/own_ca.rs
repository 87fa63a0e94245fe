//! An authority of the coordinator's own, made once in the state folder, and the certificates that it signs.

use super::files::{self, refuse_readable_by_others};
use crate::clock;
use ptv2_common::error::Explained;
use ptv2_common::tls::{CA_FILE, CA_FINGERPRINT_FILE, Fingerprint};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

const KEY_FILE: &str = "ca-key.pem";
const DAY: Duration = Duration::from_secs(24 * 3600);
/// A certificate is good from this long before it was made, for machines whose clocks are behind.
const BEFORE: Duration = DAY.saturating_mul(7);
/// A certificate is good for this long after it was made.
const AFTER: Duration = DAY.saturating_mul(90);

/// The authority. Its key never leaves the state folder; a certificate's key never leaves memory.
pub(super) struct OwnCa {
    certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
    names: Vec<String>,
}

impl OwnCa {
    /// Reads the authority of a state folder, or makes it. What it signs is for these names.
    ///
    /// # Errors
    /// When its files cannot be read or made, or do not belong together.
    pub(super) fn open(state: &Path, names: Vec<String>) -> Result<Self, Explained> {
        let (file, key_file) = (state.join(CA_FILE), state.join(KEY_FILE));
        let refused = |why: String| {
            Explained::new(format!("the coordinator's own authority cannot be used: {why}"))
                .at(file.display().to_string())
                .expected(format!("{CA_FILE} and {KEY_FILE} as they were made together"))
                .hint(
                    "restore both from a copy; or remove both: the next start makes a new authority, and \
                     clients and workers have to be given its fingerprint",
                )
        };
        let key = match (key_file.exists(), file.exists()) {
            (true, _) => {
                refuse_readable_by_others(&key_file)?;
                KeyPair::from_pem(&files::read(&key_file)?)
                    .map_err(|error| refused(error.to_string()))?
            }
            (false, false) => {
                let key = KeyPair::generate().map_err(|error| refused(error.to_string()))?;
                write(&key_file, &key.serialize_pem(), 0o600)?;
                key
            }
            (false, true) => return Err(refused(format!("{KEY_FILE} is missing"))),
        };
        if !file.exists() {
            let made = authority(&key).map_err(|error| refused(error.to_string()))?;
            write(&file, &made, 0o644)?;
        }
        let certificate =
            CertificateDer::from_pem_file(&file).map_err(|error| refused(error.to_string()))?;
        belong_together(&certificate, &key).map_err(|error| refused(error.to_string()))?;
        let fingerprint = Fingerprint::of(&certificate);
        write(&state.join(CA_FINGERPRINT_FILE), &format!("{fingerprint}\n"), 0o644)?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| refused(error.to_string()))?;
        Ok(Self { certificate, issuer, names })
    }

    pub(super) fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// A new certificate with a new key, good from now on, and the authority's behind it.
    ///
    /// # Errors
    /// When it cannot be signed.
    pub(super) fn sign(&self, now_unix_ms: u64) -> Result<CertifiedKey, Explained> {
        let made = || -> Result<CertifiedKey, Box<dyn std::error::Error>> {
            let mut params = CertificateParams::new(self.names.clone())?;
            let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(now_unix_ms);
            params.not_before = now - BEFORE;
            params.not_after = now + AFTER;
            params.distinguished_name.push(DnType::CommonName, "ptv2 coordinator");
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate()?;
            let leaf = params.signed_by(&key, &self.issuer)?.der().clone();
            let key = PrivateKeyDer::try_from(key.serialize_der())?;
            let provider = rustls::crypto::ring::default_provider();
            Ok(CertifiedKey::from_der(vec![leaf, self.certificate.clone()], key, &provider)?)
        };
        made().map_err(|error| {
            Explained::new(format!("the coordinator's certificate cannot be made: {error}"))
                .at("tls.names")
        })
    }
}

/// The certificate of a new authority. It ends in 4096: whoever pins it decides how long it is good for.
fn authority(key: &KeyPair) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // Two authorities of two coordinators have two names, so that nobody takes one for the other.
    let name = format!("ptv2 coordinator's authority {:x}", clock::unix_ms());
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params.self_signed(key)?.pem())
}

fn belong_together(
    certificate: &CertificateDer<'static>,
    key: &KeyPair,
) -> Result<(), Box<dyn std::error::Error>> {
    let key = PrivateKeyDer::try_from(key.serialize_der())?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(vec![certificate.clone()], key, &provider)?;
    Ok(())
}

/// Writes a file as a whole or not at all.
fn write(file: &Path, text: &str, mode: u32) -> Result<(), Explained> {
    use std::os::unix::fs::PermissionsExt;
    let folder = file.parent().unwrap_or(Path::new("."));
    let write = || -> std::io::Result<()> {
        let mut new = tempfile::NamedTempFile::new_in(folder)?;
        new.write_all(text.as_bytes())?;
        new.as_file().set_permissions(std::fs::Permissions::from_mode(mode))?;
        new.as_file().sync_all()?;
        new.persist(file)?;
        Ok(())
    };
    write().map_err(|error| {
        Explained::new(format!("it cannot be written: {error}"))
            .at(file.display().to_string())
            .hint("see that the state folder is this user's own, and that its disk has room")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn open(state: &Path) -> Result<OwnCa, Explained> {
        OwnCa::open(state, vec!["localhost".into(), "10.0.0.7".into()])
    }

    #[test]
    fn an_authority_is_made_once_and_its_key_is_its_owners() {
        let state = tempfile::tempdir().unwrap();
        let first = open(state.path()).unwrap().fingerprint();
        assert_eq!(open(state.path()).unwrap().fingerprint(), first);
        let written = std::fs::read_to_string(state.path().join(CA_FINGERPRINT_FILE)).unwrap();
        assert_eq!(written.parse::<Fingerprint>(), Ok(first));
        let mode = state.path().join(KEY_FILE).metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn what_it_signs_is_trusted_by_its_file_and_by_its_fingerprint() {
        let state = tempfile::tempdir().unwrap();
        let ca = open(state.path()).unwrap();
        let signed = ca.sign(clock::unix_ms()).unwrap();
        assert_eq!(signed.cert.len(), 2);
        assert_eq!(Fingerprint::of(&signed.cert[1]), ca.fingerprint());
        let other = ca.sign(clock::unix_ms()).unwrap();
        assert_ne!(signed.cert[0], other.cert[0], "a new key each time");
    }

    #[test]
    fn halves_and_strangers_are_refused_with_what_to_do() {
        let refused = |spoil: &dyn Fn(&Path), said: &str| {
            let state = tempfile::tempdir().unwrap();
            open(state.path()).unwrap();
            spoil(state.path());
            let error = open(state.path()).err().unwrap();
            let all = format!("{error:?}");
            assert!(all.contains(said), "{said}: {all}");
        };
        refused(&|state| std::fs::remove_file(state.join(KEY_FILE)).unwrap(), "remove both");
        refused(&|state| std::fs::write(state.join(KEY_FILE), "").unwrap(), "restore both");
        refused(&|state| std::fs::write(state.join(CA_FILE), "").unwrap(), "restore both");
        refused(
            &|state| {
                let elsewhere = tempfile::tempdir().unwrap();
                open(elsewhere.path()).unwrap();
                std::fs::copy(elsewhere.path().join(CA_FILE), state.join(CA_FILE)).unwrap();
            },
            "restore both",
        );
        let readable = std::fs::Permissions::from_mode(0o644);
        refused(
            &|state| std::fs::set_permissions(state.join(KEY_FILE), readable.clone()).unwrap(),
            "chmod 600",
        );
    }
}
