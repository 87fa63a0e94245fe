//! How the coordinator speaks TLS.

use ptv2_common::error::Explained;
use rustls_pki_types::DnsName;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// How the coordinator speaks TLS: by files, by an authority of its own, or not at all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsConfig {
    /// PEM file with the certificate and those that vouch for it. Read again when it changes.
    pub certificate: Option<PathBuf>,
    /// PEM file with its key, readable by its owner only.
    pub key: Option<PathBuf>,
    /// Whether the coordinator makes an authority of its own in the state folder, once, and signs its
    /// certificate by that, anew at each start. Clients and workers pin the authority's fingerprint, which
    /// needs no file.
    pub own_ca: bool,
    /// Names and addresses that the certificate of the own authority is for, besides this machine's name, its
    /// loopback addresses and those that are listened on.
    pub names: Vec<String>,
}

impl TlsConfig {
    /// Whether TLS is spoken.
    pub fn is_on(&self) -> bool {
        self.own_ca || self.certificate.is_some()
    }

    /// Refuses what is half set, or set twice.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), Explained> {
        let refused = |what: &str, at: &str| Err(Explained::new(what).at(at.to_owned()));
        match (&self.certificate, &self.key, self.own_ca) {
            (Some(_), None, _) => {
                return refused("`tls.certificate` is without its key", "tls.key");
            }
            (None, Some(_), _) => {
                return refused("`tls.key` is without its certificate", "tls.certificate");
            }
            (Some(_), Some(_), true) => {
                return refused(
                    "both a certificate and an authority of one's own are set",
                    "tls.own_ca",
                );
            }
            (Some(_), Some(_), false) if !self.names.is_empty() => {
                return refused("`tls.names` are of the own authority's certificate", "tls.names");
            }
            (Some(_), Some(_), false) | (None, None, _) => {}
        }
        match self.names.iter().find(|name| !is_name(name)) {
            Some(name) => Err(Explained::new(format!("`{name}` is no name"))
                .at("tls.names")
                .expected("host names and addresses, as `train.example.org` and `10.0.0.7`")),
            None => Ok(()),
        }
    }
}

/// Whether a certificate can be for it.
pub(crate) fn is_name(name: &str) -> bool {
    let host = name.strip_prefix("*.").unwrap_or(name);
    name.parse::<IpAddr>().is_ok() || DnsName::try_from(host).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, at: Option<&str>) {
        let config: TlsConfig = toml::from_str(text).unwrap();
        assert_eq!(config.check().err().and_then(|error| error.place).as_deref(), at, "{text}");
    }

    #[test]
    fn what_is_half_set_is_refused() {
        check("", None);
        check("own_ca = true\nnames = ['a.example.org', '*.b.org', '10.0.0.7', 'fd00::1']", None);
        check("certificate = 'a'\nkey = 'b'", None);
        check("certificate = 'a'", Some("tls.key"));
        check("key = 'a'", Some("tls.certificate"));
        check("certificate = 'a'\nkey = 'b'\nown_ca = true", Some("tls.own_ca"));
        check("certificate = 'a'\nkey = 'b'\nnames = ['c']", Some("tls.names"));
        check("own_ca = true\nnames = ['a b']", Some("tls.names"));
    }
}
