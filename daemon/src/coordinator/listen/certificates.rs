//! The certificate that is shown to whoever connects, renewed while the coordinator runs.

use super::files::{Files, Seen};
use super::names;
use super::own_ca::OwnCa;
use crate::clock;
use crate::config::TlsConfig;
use ptv2_common::error::Explained;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often it is looked whether the certificate is to be renewed.
const LOOKED_AT: Duration = Duration::from_secs(60);
/// A certificate of the own authority is made anew when it is this old.
const RENEWED_AFTER: Duration = Duration::from_secs(30 * 24 * 3600);

/// Shows the newest certificate.
pub(super) struct Shown(watch::Receiver<Arc<CertifiedKey>>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.borrow()))
    }
}

/// Where certificates come from, and the newest.
pub(super) struct Certificates {
    source: Source,
    newest: watch::Sender<Arc<CertifiedKey>>,
}

enum Source {
    Files(Files, Seen),
    Own { ca: Box<OwnCa>, made_unix_ms: u64 },
}

impl Certificates {
    /// Reads the certificate's files, or opens the own authority and has it sign one.
    ///
    /// # Errors
    /// When files cannot be used, with what to do.
    pub(super) fn open(
        config: &TlsConfig,
        state: &Path,
        listen: SocketAddr,
    ) -> Result<Option<Self>, Explained> {
        let (source, first) = if config.own_ca {
            let ca = OwnCa::open(state, names::of_this_machine(listen, &config.names))?;
            let now = clock::unix_ms();
            let first = ca.sign(now)?;
            tracing::info!("the coordinator's own authority: {}", ca.fingerprint());
            (Source::Own { ca: Box::new(ca), made_unix_ms: now }, first)
        } else if let Some(files) = from_files(config) {
            let seen = files.look();
            let first = files.read()?;
            (Source::Files(files, seen), first)
        } else {
            return Ok(None);
        };
        Ok(Some(Self { source, newest: watch::Sender::new(Arc::new(first)) }))
    }

    /// What a TLS server needs to know: TLS 1.2 or 1.3, HTTP/1.1, the newest certificate.
    ///
    /// # Errors
    /// Those of the library, which are none.
    pub(super) fn server(&self) -> Result<rustls::ServerConfig, Explained> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Explained::from_error(&error))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Shown(self.newest.subscribe())));
        server.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(server)
    }

    /// Renews until the shutdown.
    pub(super) async fn keep(mut self, shutdown: CancellationToken) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(LOOKED_AT) => {}
                () = shutdown.cancelled() => return,
            }
            // On a thread that may wait for files.
            let renew = tokio::task::spawn_blocking(move || {
                self.renew(clock::unix_ms());
                self
            });
            let Ok(kept) = renew.await else { return };
            self = kept;
        }
    }

    /// Takes a newer certificate where there is one. One that cannot be used changes nothing.
    fn renew(&mut self, now: u64) {
        let renewed = match &mut self.source {
            Source::Files(files, seen) => {
                let found = files.look();
                if found == *seen {
                    return;
                }
                *seen = found;
                files.read()
            }
            Source::Own { ca, made_unix_ms } => {
                // Either way: a clock that was set back may have made it for a time to come.
                if made_unix_ms.abs_diff(now) < clock::millis(RENEWED_AFTER) {
                    return;
                }
                let renewed = ca.sign(now);
                *made_unix_ms = now;
                renewed
            }
        };
        match renewed {
            Ok(certificate) => {
                self.newest.send_replace(Arc::new(certificate));
                tracing::info!("new connections are shown a new certificate");
            }
            Err(error) => tracing::error!(%error, "the certificate stays as it was"),
        }
    }
}

fn from_files(config: &TlsConfig) -> Option<Files> {
    let (certificate, key) = (config.certificate.clone()?, config.key.clone()?);
    Some(Files { certificate, key })
}

/// Looks, before anything is made, whether the files of a certificate can be used.
///
/// # Errors
/// Those of [`Certificates::open`].
pub(super) fn check(config: &TlsConfig) -> Result<(), Explained> {
    from_files(config).map_or(Ok(()), |files| files.read().map(drop))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(certificates: &Certificates) -> Vec<u8> {
        certificates.newest.borrow().cert[0].to_vec()
    }

    #[test]
    fn a_certificate_of_the_own_authority_is_renewed_when_it_is_old() {
        let state = tempfile::tempdir().unwrap();
        let config = TlsConfig { own_ca: true, ..TlsConfig::default() };
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut certificates = Certificates::open(&config, state.path(), listen).unwrap().unwrap();
        let (first, now) = (shown(&certificates), clock::unix_ms());
        certificates.renew(now + 1000);
        assert_eq!(shown(&certificates), first);
        certificates.renew(now + clock::millis(RENEWED_AFTER));
        assert_ne!(shown(&certificates), first);
    }

    #[test]
    fn changed_files_are_read_again_and_spoiled_ones_change_nothing() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let write = || {
            let made = rcgen::generate_simple_self_signed(["there".to_owned()]).unwrap();
            std::fs::write(at("k.pem"), made.signing_key.serialize_pem()).unwrap();
            std::fs::write(at("c.pem"), made.cert.pem() + "\n").unwrap();
            let owners = std::fs::Permissions::from_mode(0o600);
            std::fs::set_permissions(at("k.pem"), owners).unwrap();
        };
        write();
        let config = TlsConfig {
            certificate: Some(at("c.pem")),
            key: Some(at("k.pem")),
            ..TlsConfig::default()
        };
        let listen = "127.0.0.1:0".parse().unwrap();
        let mut certificates = Certificates::open(&config, folder.path(), listen).unwrap().unwrap();
        let first = shown(&certificates);
        std::fs::write(at("c.pem"), "spoiled").unwrap();
        certificates.renew(0);
        assert_eq!(shown(&certificates), first);
        write();
        certificates.renew(0);
        assert_ne!(shown(&certificates), first);
    }
}
