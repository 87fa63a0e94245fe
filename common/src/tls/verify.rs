//! Verifies a coordinator's certificate against whom it is trusted by.

use super::{Fingerprint, Trust};
use crate::error::Explained;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Verifies by rustls' own verifier, and remembers what was shown where that fails.
#[derive(Debug)]
pub(super) struct Verifier {
    roots: Roots,
    provider: Arc<CryptoProvider>,
}

#[derive(Debug)]
enum Roots {
    /// Authorities known before, and who they are in words.
    Known(Arc<WebPkiServerVerifier>, String),
    /// The one of the certificates shown that has this fingerprint.
    Pinned(Fingerprint),
}

/// Why a certificate that may be sound is not trusted.
#[derive(Debug, thiserror::Error)]
pub(super) enum Distrust {
    /// None of the certificates shown is the pinned one.
    #[error("none of its certificates has the fingerprint {pinned}; it shows {shown}")]
    OtherFingerprint { pinned: Fingerprint, shown: Fingerprint },
    /// Nobody that is trusted vouches for it.
    #[error("no authority of {trusted} vouches for it; it shows {shown}")]
    UnknownAuthority { trusted: String, shown: Fingerprint },
}

impl Distrust {
    /// The same with what to do.
    pub(super) fn explain(&self) -> Explained {
        let refused = Explained::new(format!("the coordinator's certificate is refused: {self}"));
        match self {
            Self::OtherFingerprint { pinned, .. } => refused.expected(pinned.to_string()).hint(
                "compare with `ca-fingerprint` in the coordinator's state folder: if it was set up anew, give \
                 its new fingerprint; if not, someone else answers in its place",
            ),
            Self::UnknownAuthority { .. } => {
                refused.expected("a certificate of an authority that is trusted here").hint(
                    "if the coordinator has an authority of its own, name its ca.pem by --ca-file (PTV2_CA_FILE), \
                     or pin what stands in its ca-fingerprint by --ca-fingerprint (PTV2_CA_FINGERPRINT); both lie \
                     in its state folder, and the fingerprint in its log",
                )
            }
        }
    }
}

impl Verifier {
    pub(super) fn new(trust: &Trust, provider: &Arc<CryptoProvider>) -> Result<Self, Explained> {
        let known = |store, who: String| -> Result<Roots, Explained> {
            let verifier =
                verifier(store, provider).map_err(|error| Explained::from_error(&error))?;
            Ok(Roots::Known(verifier, who))
        };
        let roots = match trust {
            Trust::System => known(of_system()?, "the system's".into())?,
            Trust::File(file) => known(of_file(file)?, file.display().to_string())?,
            Trust::Pinned(fingerprint) => Roots::Pinned(*fingerprint),
        };
        Ok(Self { roots, provider: Arc::clone(provider) })
    }
}

fn verifier(
    store: RootCertStore,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<WebPkiServerVerifier>, rustls::client::VerifierBuilderError> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(store), Arc::clone(provider)).build()
}

fn of_system() -> Result<RootCertStore, Explained> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(store);
    }
    let why = found.errors.first().map(|error| format!(": {error}")).unwrap_or_default();
    Err(Explained::new(format!("this system trusts no authority{why}"))
        .expected("certificates of authorities, as the package ca-certificates installs them")
        .hint("name the coordinator's authority by --ca-file or --ca-fingerprint"))
}

fn of_file(file: &Path) -> Result<RootCertStore, Explained> {
    let refused = |why: String| {
        Explained::new(format!("the authorities' file cannot be used: {why}"))
            .at(file.display().to_string())
            .expected("certificates of authorities as PEM")
            .hint("copy `ca.pem` of the coordinator's state folder here, or use --ca-fingerprint")
    };
    let certificates =
        CertificateDer::pem_file_iter(file).map_err(|error| refused(error.to_string()))?;
    let mut store = RootCertStore::empty();
    for certificate in certificates {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        store.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    if store.is_empty() { Err(refused("it holds no certificate".into())) } else { Ok(store) }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let refuse = |distrust: Distrust| {
            let error = OtherError(Arc::new(distrust));
            rustls::Error::InvalidCertificate(CertificateError::Other(error))
        };
        let shown = Fingerprint::of(intermediates.last().unwrap_or(end_entity));
        let (verifier, trusted) = match &self.roots {
            Roots::Known(verifier, who) => (Arc::clone(verifier), who.clone()),
            Roots::Pinned(pinned) => {
                let mut all = std::iter::once(end_entity).chain(intermediates);
                let found = all.find(|certificate| Fingerprint::of(certificate) == *pinned);
                let found = found
                    .ok_or_else(|| refuse(Distrust::OtherFingerprint { pinned: *pinned, shown }))?;
                // From here on that one is the only authority: the rest of the chain, the name and the
                // times are verified as ever.
                let mut store = RootCertStore::empty();
                store.add(found.clone().into_owned())?;
                let verifier = verifier(store, &self.provider)
                    .map_err(|error| rustls::Error::General(error.to_string()))?;
                (verifier, format!("the fingerprint {pinned}"))
            }
        };
        match verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            )) => Err(refuse(Distrust::UnknownAuthority { trusted, shown })),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
