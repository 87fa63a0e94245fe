//! TLS as the client and the workers speak it: whom they trust, and what is wrong in words.
//!
//! A coordinator that other machines reach shows a certificate. Whoever talks to it trusts the authorities
//! of the system, those of a file, or one that is named by its fingerprint. A token is sent only after the
//! certificate was verified, and over plain HTTP only to this very machine.

mod verify;

use crate::error::Explained;
use rustls::pki_types::CertificateDer;
use rustls::{CertificateError, ClientConfig};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use url::Url;
use verify::{Distrust, Verifier};

/// The certificate of a coordinator's own authority, in its state folder.
pub const CA_FILE: &str = "ca.pem";
/// The fingerprint of it, beside it.
pub const CA_FINGERPRINT_FILE: &str = "ca-fingerprint";

/// What all of TLS is computed by. To be called once at the start of a process, before anything of it
/// speaks HTTP; a second call does nothing.
pub fn install_provider() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

/// SHA-256 of a certificate's DER, written as `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate.
    pub fn of(certificate: &CertificateDer<'_>) -> Self {
        Self(Sha256::digest(certificate.as_ref()).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Explained;

    /// Takes it as the coordinator prints it, and with colons between the bytes, as OpenSSL does.
    fn from_str(text: &str) -> Result<Self, Explained> {
        let digits = text.trim().strip_prefix("sha256:").map(|digits| digits.replace(':', ""));
        let mut bytes = [0; 32];
        match digits.map(|digits| hex::decode_to_slice(digits, &mut bytes)) {
            Some(Ok(())) => Ok(Self(bytes)),
            Some(Err(_)) | None => Err(Explained::new(format!("`{text}` is no fingerprint"))
                .expected(
                    "`sha256:` and 64 hexadecimal digits, as in the coordinator's `ca-fingerprint`",
                )),
        }
    }
}

/// Who may vouch for a coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// The authorities that this system trusts.
    System,
    /// Those of a PEM file.
    File(PathBuf),
    /// The one with this fingerprint, which the coordinator shows.
    Pinned(Fingerprint),
}

impl Trust {
    /// What was asked for: a fingerprint before a file; told neither, the `ca.pem` beside the token, which is
    /// there where the coordinator's state folder is; else the system's.
    pub fn choose(
        fingerprint: Option<Fingerprint>,
        file: Option<&Path>,
        token_file: &Path,
    ) -> Self {
        let beside = token_file.with_file_name(CA_FILE);
        match (fingerprint, file) {
            (Some(fingerprint), _) => Self::Pinned(fingerprint),
            (None, Some(file)) => Self::File(file.to_owned()),
            (None, None) if beside.is_file() => Self::File(beside),
            (None, None) => Self::System,
        }
    }

    /// How to speak TLS with a coordinator that is trusted by this: HTTP/1.1 over TLS 1.2 or 1.3.
    ///
    /// # Errors
    /// When the file, or the system's authorities, cannot be read, or hold none.
    pub fn client_config(&self) -> Result<ClientConfig, Explained> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = Arc::new(Verifier::new(self, &provider)?);
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| Explained::from_error(&error))?;
        let mut config =
            config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(config)
    }
}

/// Reads a coordinator's URL: `https://`, or `http://` to this machine itself. A token that goes to another
/// machine in the clear is refused, unless `insecure` allows it.
///
/// # Errors
/// Says what is wrong with it.
pub fn coordinator_url(text: &str, insecure: bool) -> Result<Url, Explained> {
    let refused = |why: &str| {
        Explained::new(format!("`{text}` is no coordinator's address: {why}"))
            .at("--coordinator")
            .expected("https://host:port, or http://host:port on this machine")
    };
    let url = Url::parse(text).map_err(|error| refused(&error.to_string()))?;
    match url.scheme() {
        "https" => Ok(url),
        "http" if insecure || is_this_machine(&url) => Ok(url),
        "http" => Err(Explained::new(format!("{text} is another machine, and nothing said there is encrypted"))
            .at("--coordinator")
            .expected("https://host:port")
            .hint(
                "start the coordinator with TLS (`[tls]` in its configuration, or `ptv2d local --tls`); on a \
                 network where nobody listens, --insecure-http (PTV2_INSECURE_HTTP) sends the token all the same",
            )),
        scheme => Err(refused(&format!("this build does not speak `{scheme}`"))),
    }
}

/// Whether a URL leads to this machine itself, whatever a resolver says.
pub fn is_this_machine(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What went wrong with TLS, if that is what an error is about.
pub fn explain(error: &(dyn Error + 'static)) -> Option<Explained> {
    let error = find(error)?;
    if let rustls::Error::InvalidCertificate(problem) = error {
        return Some(certificate(problem));
    }
    Some(if matches!(error, rustls::Error::InvalidMessage(_)) {
        Explained::new("the coordinator speaks plain HTTP here, or something else than TLS")
            .expected("TLS, which https:// asks for")
            .hint("write http:// if it is on this machine; else start the coordinator with TLS")
    } else {
        Explained::new(format!("TLS fails: {error}"))
            .expected("a coordinator that speaks TLS 1.2 or 1.3")
    })
}

fn certificate(problem: &CertificateError) -> Explained {
    if let CertificateError::Other(other) = problem
        && let Some(distrust) = other.0.downcast_ref::<Distrust>()
    {
        return distrust.explain();
    }
    let is_early = matches!(
        problem,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }
    );
    let is_late =
        matches!(problem, CertificateError::Expired | CertificateError::ExpiredContext { .. });
    let is_of_another = matches!(
        problem,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    );
    if is_early || is_late {
        let what = if is_late { "has expired" } else { "is not valid yet" };
        Explained::new(format!("the coordinator's certificate {what}: {problem}")).hint(
            "see that the clocks of both machines are right; a coordinator with an authority of its own makes a \
             new certificate at each start",
        )
    } else if is_of_another {
        Explained::new(format!("the coordinator's certificate is for another name: {problem}"))
            .expected("a certificate for the name that the coordinator is reached by")
            .hint(
                "name the coordinator as its certificate does, or add this name to `names` in `[tls]` of its \
                 configuration",
            )
    } else {
        Explained::new(format!("the coordinator's certificate is refused: {problem}"))
            .expected("a certificate of an authority that is trusted here")
    }
}

/// The error of TLS in a chain of causes. An I/O error hides what it wraps.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        let found = error.downcast_ref::<rustls::Error>();
        let found = found.or_else(|| Some(&**error.downcast_ref::<Box<rustls::Error>>()?));
        if found.is_some() {
            return found;
        }
        next = match error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref) {
            Some(wrapped) => Some(wrapped),
            None => error.source(),
        };
    }
    None
}

#[cfg(test)]
mod tests;
