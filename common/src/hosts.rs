//! Hosts that no URL may name: link-local addresses, and those where clouds hand out credentials.

use crate::error::Explained;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;
use url::{Host, Url};

/// Names of metadata services. Their addresses are refused in any spelling.
const NAMES: [&str; 6] = [
    "metadata",
    "metadata.google.internal",
    "metadata.goog",
    "metadata.azure.internal",
    "instance-data",
    "instance-data.ec2.internal",
];
/// A name's addresses are waited for so long.
const RESOLVING: Duration = Duration::from_secs(2);

/// Refuses a URL whose host is a link-local address or a metadata service, however it is written.
///
/// # Errors
/// Names the key.
pub fn check_url(key: &str, url: &str) -> Result<(), Explained> {
    let Ok(url) = Url::parse(url) else { return Ok(()) };
    check_parsed(key, &url).map_err(|error| error.at(key))
}

/// The same of a URL that was taken apart. The place is the caller's.
///
/// # Errors
/// As [`check_url`].
pub fn check_parsed(what: &str, url: &Url) -> Result<(), Explained> {
    let refused = match url.host() {
        Some(Host::Ipv4(address)) => is_refused(address.into()),
        Some(Host::Ipv6(address)) => is_refused(address.into()),
        Some(Host::Domain(name)) => return check_host(what, name),
        None => false,
    };
    if refused { Err(refusal(what, url.host_str().unwrap_or_default())) } else { Ok(()) }
}

/// The same of a host alone, which may be a number in any base.
///
/// # Errors
/// As [`check_url`].
pub fn check_host(what: &str, host: &str) -> Result<(), Explained> {
    let name = plain(host);
    // Web addresses know decimal, octal and hexadecimal spellings.
    let url = Url::parse(&format!("http://{name}/")).ok();
    let address = url.as_ref().and_then(Url::host).and_then(|host| match host {
        Host::Ipv4(address) => Some(IpAddr::from(address)),
        Host::Ipv6(address) => Some(address.into()),
        Host::Domain(_) => None,
    });
    if is_metadata(host) || address.is_some_and(is_refused) {
        return Err(refusal(what, host));
    }
    Ok(())
}

/// Whether this is the name of a metadata service.
pub fn is_metadata(host: &str) -> bool {
    NAMES.contains(&plain(host).as_str())
}

fn plain(host: &str) -> String {
    host.trim_end_matches('.').to_ascii_lowercase()
}

/// Refuses a name by what it stands for.
///
/// # Errors
/// Names one address that is refused.
pub fn check_addresses(
    what: &str,
    host: &str,
    addresses: impl IntoIterator<Item = IpAddr>,
) -> Result<(), Explained> {
    match addresses.into_iter().find(|address| is_refused(*address)) {
        Some(address) => Err(refusal(what, &format!("{host}, which is {address}"))),
        None => Ok(()),
    }
}

/// Resolves the host of a URL, and refuses it where an address is one of those. It is the best that can be
/// done here, and no proof: a name may lead elsewhere by the time that it is used. A name that is not
/// resolved is not refused: what needs it will say so.
///
/// # Errors
/// As [`check_url`].
pub async fn check_resolved(key: &str, url: &str) -> Result<(), Explained> {
    check_url(key, url)?;
    let Ok(parsed) = Url::parse(url) else { return Ok(()) };
    let (Some(host), Some(port)) = (parsed.host_str(), parsed.port_or_known_default()) else {
        return Ok(());
    };
    let found = tokio::time::timeout(RESOLVING, tokio::net::lookup_host((host, port))).await;
    let Ok(Ok(addresses)) = found else { return Ok(()) };
    check_addresses(key, host, addresses.map(|found| found.ip())).map_err(|error| error.at(key))
}

fn refusal(what: &str, host: &str) -> Explained {
    Explained::new(format!("{what} is {host}, a link-local or metadata address"))
        .expected("the host of a hub or a store")
        .hint("such addresses hand out a machine's credentials, so nothing is fetched from there")
}

fn is_refused(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_refused_v4(address),
        IpAddr::V6(address) => is_refused_v6(address),
    }
}

fn is_refused_v4(address: Ipv4Addr) -> bool {
    // Alibaba's metadata, and Azure's agent, lie outside the link-local block.
    let others = [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16)];
    address.is_link_local() || others.contains(&address)
}

fn is_refused_v6(address: Ipv6Addr) -> bool {
    let parts = address.segments();
    let others = [
        Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
        Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
    ];
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    // IPv4 as mapped, compatible, through NAT64, and in 6to4.
    let embedded = match parts {
        [0, 0, 0, 0, 0, 0xffff | 0, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    };
    parts[0] & 0xffc0 == 0xfe80 || others.contains(&address) || embedded.is_some_and(is_refused_v4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_refused_in_every_spelling() {
        for host in [
            "169.254.169.254",
            "169.254.0.1:8080",
            "2852039166",
            "0xa9fea9fe",
            "0xA9.0xFE.0xA9.0xFE",
            "0251.0376.0251.0376",
            "169.254.43518",
            "169.16689662",
            "169.254.169.254.",
            "[fe80::1]",
            "[febf::1]",
            "[fd00:ec2::254]",
            "[fd20:ce::254]",
            "[::ffff:169.254.169.254]",
            "[::ffff:a9fe:a9fe]",
            "[::169.254.169.254]",
            "[64:ff9b::a9fe:a9fe]",
            "[2002:a9fe:a9fe::1]",
            "metadata.google.internal",
            "METADATA.Google.Internal.",
            "metadata",
            "instance-data",
            "100.100.100.200",
            "168.63.129.16",
            "user@169.254.169.254",
        ] {
            let error = check_url("hub.endpoint", &format!("http://{host}/x")).unwrap_err();
            assert!(error.what.contains("metadata") && error.hint.is_some(), "{host}: {error:?}");
            assert_eq!(error.place.as_deref(), Some("hub.endpoint"));
        }
    }

    #[test]
    fn other_hosts_are_not() {
        for host in [
            "127.0.0.1:9000",
            "localhost",
            "10.0.0.1",
            "169.253.0.1",
            "huggingface.co",
            "[::1]",
            "[fec0::1]",
            "[::ffff:127.0.0.1]",
            "s3.eu-west-1.amazonaws.com",
        ] {
            check_url("k", &format!("https://{host}/")).unwrap();
        }
        for bucket in ["models", "my.bucket", "1.2.3.4", "123"] {
            check_host("the bucket", bucket).unwrap();
        }
    }

    #[tokio::test]
    async fn a_name_is_judged_by_its_addresses() {
        check_resolved("k", "http://localhost:9").await.unwrap();
        check_resolved("k", "http://no-such-name.invalid").await.unwrap();
        assert!(check_resolved("k", "http://169.254.169.254").await.is_err());
    }
}
