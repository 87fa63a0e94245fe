//! The names and addresses that this machine is reached by.

use crate::config::tls::is_name;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a certificate of this machine's own is for: its name, its loopback addresses, what is listened on
/// (all of its addresses, where that is any), and these.
pub(super) fn of_this_machine(listen: SocketAddr, more: &[String]) -> Vec<String> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let host = read("/proc/sys/kernel/hostname").trim().to_owned();
    let mut names = vec!["localhost".to_owned(), host];
    let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    names.extend(loopback.map(|ip| ip.to_string()));
    if listen.ip().is_unspecified() {
        let (v4, v6) = (read("/proc/net/fib_trie"), read("/proc/net/if_inet6"));
        let addresses = local_v4(&v4).into_iter().map(IpAddr::from);
        let addresses = addresses.chain(global_v6(&v6).into_iter().map(IpAddr::from));
        names.extend(addresses.map(|ip| ip.to_string()));
    } else {
        names.push(listen.ip().to_string());
    }
    names.extend_from_slice(more);
    names.retain(|name| is_name(name));
    names.sort_unstable();
    names.dedup();
    names
}

/// The own addresses in a routing table of the kernel: those whose route is of the host itself.
fn local_v4(table: &str) -> Vec<Ipv4Addr> {
    let mut found = Vec::new();
    let mut last = None;
    for line in table.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            last = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(last.filter(|ip| !ip.is_loopback()));
        }
    }
    found
}

/// The own addresses in the kernel's list that are good beyond one link.
fn global_v6(table: &str) -> Vec<Ipv6Addr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next()?;
        let address = Ipv6Addr::from(u128::from_str_radix(digits, 16).ok()?);
        (digits.len() == 32 && !address.is_loopback() && !address.is_unicast_link_local())
            .then_some(address)
    };
    table.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_addresses_are_read_from_the_kernels_tables() {
        let trie = "Local:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.0\n        /24 link UNICAST\n\
                    \x20    |-- 10.0.0.7\n        /32 host LOCAL\n     |-- 10.0.0.255\n\
                    \x20       /32 link BROADCAST\n     |-- 127.0.0.1\n        /32 host LOCAL\n";
        assert_eq!(local_v4(trie), [Ipv4Addr::new(10, 0, 0, 7)]);
        let list = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fd000000000000000000000000000002 02 40 00 02     eth0\n\
                    fe8000000000000000fc00fffe000001 02 40 20 80     eth0\nno line\n";
        assert_eq!(global_v6(list), ["fd00::2".parse::<Ipv6Addr>().unwrap()]);
    }

    #[test]
    fn a_certificate_is_for_what_is_listened_on_and_what_was_asked_for() {
        let listen = "10.9.8.7:1".parse().unwrap();
        let names = of_this_machine(listen, &["train.example.org".into(), "not a name".into()]);
        for name in ["localhost", "127.0.0.1", "::1", "10.9.8.7", "train.example.org"] {
            assert!(names.iter().any(|found| found == name), "{name}: {names:?}");
        }
        assert!(!names.iter().any(|name| name.contains(' ')));
    }
}
