//! TLS end to end, on an address of this machine that others could reach.

use super::harness::{Cluster, Process, binary, hash, poll, superglue, text, tiny_cb};
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};

/// An address of this machine that is not its loopback's, where it has one. Nothing is sent to find it.
fn own_address() -> IpAddr {
    let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
    let routed = socket.connect("198.51.100.1:9").and_then(|()| socket.local_addr());
    routed.map_or(IpAddr::from([127, 0, 0, 1]), |address| address.ip())
}

/// `ptv2ctl status` by someone who has the token alone, in a folder without anything else.
fn status(cluster: &Cluster, url: &str, more: &[&str]) -> Output {
    let elsewhere = cluster.folder.path().join("elsewhere");
    std::fs::create_dir_all(&elsewhere).unwrap();
    std::fs::copy(cluster.state().join("token"), elsewhere.join("token")).unwrap();
    let mut command = Command::new(binary("ptv2ctl"));
    command.args(["status", "--coordinator", url, "--token-file", "token"]);
    command.args(more).current_dir(elsewhere).output().unwrap()
}

fn fingerprint(state: &Path) -> String {
    std::fs::read_to_string(state.join("ca-fingerprint")).unwrap().trim().to_owned()
}

#[test]
fn a_job_is_done_over_tls_and_a_restart_keeps_the_authority() {
    let Some(data) = superglue() else { return };
    let mut cluster = Cluster::new("ptv2d");
    cluster.serve_with(1, 1, &format!("{}:0", own_address()), &["--tls"]);
    let (url, listen, pin) = (cluster.url(), cluster.listen(), fingerprint(&cluster.state()));
    assert!(url.starts_with("https://"), "{url}");
    cluster.has_workers(1);
    // A second worker has nothing but the token and the fingerprint.
    let token = cluster.folder.path().join("worker-token");
    std::fs::copy(cluster.state().join("worker-token"), &token).unwrap();
    let start = |more: &[&str], log: &str| {
        let mut command = Command::new(binary("ptv2d"));
        command.args(["worker", "--coordinator", &url, "--token-file"]).arg(&token).args(more);
        Process::telling(&mut command, &cluster.folder.path().join(log))
    };
    let _second = start(&["--ca-fingerprint", &pin], "second.log");
    cluster.has_workers(2);
    let plain = Cluster::start(2, 1);
    let job = tiny_cb(&data, "");
    let status = cluster.run(&job, &["--workers", "2"]);
    assert_eq!(hash(&status), hash(&plain.run(&job, &["--workers", "2"])));
    // One with another pin, and one with none, are told and end.
    let wrong = format!("sha256:{}", "0".repeat(64));
    for (more, said) in
        [(["--ca-fingerprint", wrong.as_str()].as_slice(), pin.as_str()), (&[], "--ca-file")]
    {
        let mut third = start(more, "third.log");
        assert_eq!(poll("the refused worker's end", || third.ended()), 1);
        let log = std::fs::read_to_string(cluster.folder.path().join("third.log")).unwrap();
        assert!(log.contains(said), "{said}: {log}");
    }
    drop(cluster.daemon.take());
    cluster.serve_with(0, 1, &listen, &["--tls"]);
    assert_eq!(fingerprint(&cluster.state()), pin);
    assert!(cluster.logs().contains(&pin), "the log tells it");
    cluster.has_workers(1);
}

#[test]
fn a_client_is_told_what_is_wrong_with_a_certificate() {
    let mut cluster = Cluster::new("ptv2d");
    let ip = own_address();
    cluster.serve_with(0, 1, &format!("{ip}:0"), &["--tls"]);
    let (url, pin) = (cluster.url(), fingerprint(&cluster.state()));
    let plain_url = url.replace("https", "http");
    let ca = cluster.state().join("ca.pem").display().to_string();
    let wrong = format!("sha256:{}", "0".repeat(64));
    let check = |url: &str, more: &[&str], code: i32, said: &[&str]| {
        let run = status(&cluster, url, more);
        let message = text(&run.stderr);
        assert_eq!(run.status.code(), Some(code), "{url} {more:?}: {message}");
        for part in said {
            assert!(message.contains(part), "{url} {more:?}: {part}: {message}");
        }
    };
    check(&url, &["--ca-fingerprint", &pin], 0, &[]);
    check(&url, &["--ca-file", &ca], 0, &[]);
    check(&url, &["--ca-fingerprint", &wrong], 3, &[&pin, &wrong]);
    check(&url, &[], 3, &[&pin, "--ca-file", "PTV2_CA_FINGERPRINT"]);
    check(&url, &["--ca-fingerprint", "md5:00"], 2, &["sha256:"]);
    check(&url, &["--ca-file", "/none.pem"], 2, &["/none.pem"]);
    check(&plain_url, &["--insecure-http"], 2, &["speaks TLS", "https://"]);
    if !ip.is_loopback() {
        check(&plain_url, &[], 2, &["--insecure-http", "[tls]"]);
    }
    // The state folder's own client needs nothing of that.
    assert!(cluster.ctl(&["status"]).status.success());
    let plain = Cluster::start(0, 1);
    let https = plain.url().replace("http", "https");
    check(&https, &["--ca-fingerprint", &pin], 3, &["plain HTTP", "http://"]);
}

#[test]
fn what_would_be_unsafe_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let at = |name: &str| folder.path().join(name);
    std::fs::write(at("c.pem"), made.cert.pem()).unwrap();
    std::fs::write(at("k.pem"), made.signing_key.serialize_pem()).unwrap();
    let set_mode = |mode: &str| {
        assert!(Command::new("chmod").arg(mode).arg(at("k.pem")).status().unwrap().success());
    };
    let refused = |config: &str, said: &[&str]| {
        let state = at("state");
        std::fs::write(at("coordinator.toml"), format!("state = {state:?}\n{config}")).unwrap();
        let mut command = Command::new(binary("ptv2d"));
        let run = super::harness::ends(
            command.args(["coordinator", "--config"]).arg(at("coordinator.toml")),
        );
        assert_eq!(run.status.code(), Some(1));
        let message = text(&run.stderr);
        for part in said {
            assert!(message.contains(part), "{config}: {part}: {message}");
        }
        assert!(!state.exists(), "nothing is left behind");
    };
    let open = format!("listen = \"{}:0\"\n", "0.0.0.0");
    refused(&open, &["other machines reach", "own_ca = true", "--insecure-listen"]);
    let files = format!("[tls]\ncertificate = {:?}\nkey = {:?}\n", at("c.pem"), at("k.pem"));
    set_mode("644");
    refused(&(open.clone() + &files), &["k.pem", "chmod 600"]);
    set_mode("600");
    let mut local = Command::new(binary("ptv2d"));
    local.args(["local", "--config"]).arg(at("coordinator.toml"));
    let run = super::harness::ends(local.current_dir(folder.path()));
    assert!(text(&run.stderr).contains("--tls"), "{}", text(&run.stderr));
    std::fs::write(at("c.pem"), "").unwrap();
    refused(&(open + &files), &["c.pem", "no certificate"]);
}
