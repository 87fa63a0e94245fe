use super::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::client::danger::ServerCertVerifier;
use rustls::pki_types::{ServerName, UnixTime};
use std::time::Duration;

struct Authority {
    certificate: rcgen::Certificate,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, name);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    Authority { certificate, issuer: Issuer::new(params, key) }
}

impl Authority {
    /// A certificate for `there` that is valid in 2026.
    fn signs(&self) -> CertificateDer<'static> {
        let mut params =
            CertificateParams::new(vec!["there".to_owned(), "10.0.0.7".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2026, 1, 1);
        params.not_after = rcgen::date_time_ymd(2027, 1, 1);
        let key = KeyPair::generate().unwrap();
        params.signed_by(&key, &self.issuer).unwrap().der().clone()
    }

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.certificate.der())
    }
}

/// What a coordinator shows, verified in the middle of a year.
fn verify(
    trust: &Trust,
    (leaf, shown): (&CertificateDer<'static>, &Authority),
    name: &str,
    year: u64,
) -> Result<(), Explained> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Verifier::new(trust, &provider)?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let at = Duration::from_secs((year - 1970) * 31_557_600 + 15_000_000);
    let chain = [shown.certificate.der().clone()];
    let verified =
        verifier.verify_server_cert(leaf, &chain, &name, &[], UnixTime::since_unix_epoch(at));
    verified.map(drop).map_err(|error| explain(&error).unwrap())
}

#[test]
fn a_pin_is_enough_and_verifies_names_and_times() {
    let ours = authority("ours");
    let leaf = ours.signs();
    let pin = Trust::Pinned(ours.fingerprint());
    let check = |name: &str, year: u64, said: &str| {
        let verified = verify(&pin, (&leaf, &ours), name, year);
        match verified {
            Ok(()) => assert_eq!(said, "", "{name} in {year}"),
            Err(error) => assert!(!said.is_empty() && error.what.contains(said), "{error:?}"),
        }
    };
    check("there", 2026, "");
    check("10.0.0.7", 2026, "");
    check("elsewhere", 2026, "another name");
    check("10.0.0.8", 2026, "another name");
    check("there", 2028, "expired");
    check("there", 2024, "not valid yet");
}

#[test]
fn another_authority_is_refused_and_both_fingerprints_are_told() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let pin = Trust::Pinned(ours.fingerprint());
    let error = verify(&pin, (&theirs.signs(), &theirs), "there", 2026).unwrap_err();
    for fingerprint in [ours.fingerprint(), theirs.fingerprint()] {
        assert!(error.what.contains(&fingerprint.to_string()), "{error:?}");
    }
    assert_eq!(error.expected, Some(ours.fingerprint().to_string()));
}

/// Whoever shows the pinned certificate, which is no secret, has its key only if it signed the other.
#[test]
fn the_pinned_certificate_must_have_signed() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let pin = Trust::Pinned(ours.fingerprint());
    let error = verify(&pin, (&theirs.signs(), &ours), "there", 2026).unwrap_err();
    assert!(error.what.contains("vouches"), "{error:?}");
    // One of the same name, too.
    let error = verify(&pin, (&authority("ours").signs(), &ours), "there", 2026).unwrap_err();
    assert!(error.what.contains("vouches"), "{error:?}");
}

#[test]
fn a_file_of_authorities_is_enough() {
    let (ours, theirs) = (authority("ours"), authority("theirs"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, ours.certificate.pem()).unwrap();
    let trust = Trust::File(file.clone());
    verify(&trust, (&ours.signs(), &ours), "there", 2026).unwrap();
    let error = verify(&trust, (&theirs.signs(), &theirs), "there", 2026).unwrap_err();
    assert!(error.what.contains(&theirs.fingerprint().to_string()), "{error:?}");
    assert!(error.hint.unwrap().contains("--ca-fingerprint"));
    for text in ["", "no pem"] {
        std::fs::write(&file, text).unwrap();
        let error = trust.client_config().unwrap_err();
        assert!(error.place.unwrap().ends_with("ca.pem"));
    }
}

#[test]
fn a_fingerprint_comes_before_a_file_and_both_before_what_lies_there() {
    let folder = tempfile::tempdir().unwrap();
    let (token, beside) = (folder.path().join("token"), folder.path().join(CA_FILE));
    let pin = Fingerprint([7; 32]);
    assert_eq!(Trust::choose(None, None, &token), Trust::System);
    std::fs::write(&beside, "").unwrap();
    assert_eq!(Trust::choose(None, None, &token), Trust::File(beside));
    let file = Path::new("other.pem");
    assert_eq!(Trust::choose(None, Some(file), &token), Trust::File(file.into()));
    assert_eq!(Trust::choose(Some(pin), Some(file), &token), Trust::Pinned(pin));
}

#[test]
fn a_fingerprint_is_read_as_it_is_written() {
    let pin = Fingerprint([171; 32]);
    assert_eq!(pin.to_string().parse::<Fingerprint>(), Ok(pin));
    let colons = format!("sha256:{}", ["AB"; 32].join(":"));
    assert_eq!(colons.parse::<Fingerprint>(), Ok(pin));
    for wrong in
        ["", "sha256:", "sha256:abcd", &"ab".repeat(32), &format!("sha1:{}", "ab".repeat(32))]
    {
        assert!(wrong.parse::<Fingerprint>().is_err(), "{wrong}");
    }
}

#[test]
fn a_token_goes_in_the_clear_to_this_machine_only() {
    let check = |text: &str, insecure: bool, said: &str| {
        let read = coordinator_url(text, insecure);
        match read {
            Ok(_) => assert_eq!(said, "", "{text}"),
            Err(error) => {
                let all = format!("{error:?}");
                assert!(!said.is_empty() && all.contains(said), "{text}: {all}");
            }
        }
    };
    check("http://127.0.0.1:1", false, "");
    check("http://127.9.0.1:1", false, "");
    check("http://[::1]:1", false, "");
    check("http://localhost:1", false, "");
    check("https://there:1", false, "");
    check("http://there:1", false, "--insecure-http");
    check("http://10.0.0.7:1", false, "--insecure-http");
    check("http://localhost.there:1", false, "--insecure-http");
    check("http://there:1", true, "");
    check("ftp://there", true, "ftp");
    check("there:1", true, "there");
    check("no url", true, "no url");
}

/// As rustls' errors come out of HTTP clients: wrapped in an I/O error, and in others.
#[test]
fn an_error_of_tls_is_found_in_what_wraps_it() {
    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] std::io::Error);
    let inner = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
    let error = Outer(std::io::Error::new(std::io::ErrorKind::InvalidData, inner));
    assert!(explain(&error).unwrap().what.contains("plain HTTP"));
    assert_eq!(explain(&Outer(std::io::Error::other("else"))), None);
}
