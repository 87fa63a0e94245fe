//! What people see of what others wrote: `ptv2ctl`'s tables and messages, and a log in text.

use super::http::{self, Request};
use super::logs;
use crate::e2e::harness::{Cluster, superglue, tiny_cb};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::Output;

const EVIL: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\r\nFAKE\u{9b}31m\u{8}\u{7f}";
/// Fields whose values are words of the API, ids, or addresses of the next request.
const KEPT: [&str; 12] = [
    "state", "kind", "id", "level", "code", "phase", "job", "key", "sha256", "store", "task",
    "method",
];

/// A coordinator whose every text is hostile: it passes requests on, and puts something behind each text that
/// comes back.
fn hostile(real: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || drop(answer(&mut stream, real)));
        }
    });
    address
}

fn answer(stream: &mut TcpStream, real: SocketAddr) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
    let token = head.lines().find_map(|line| line.strip_prefix("authorization: Bearer "));
    let request = Request::new(method, path).token(token.unwrap_or("none"));
    let bytes = if method == "GET" { request.bytes() } else { request.json("{}") };
    let Some(answer) = http::ask(real, &bytes) else { return Ok(()) };
    let body = match serde_json::from_slice(&answer.body) {
        Ok(mut value) => {
            spoil(&mut value, "");
            value.to_string()
        }
        Err(_) => answer.text(),
    };
    write!(
        stream,
        "HTTP/1.1 {} X\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        answer.status,
        body.len()
    )
}

fn spoil(value: &mut Value, key: &str) {
    match value {
        Value::String(text) if !KEPT.contains(&key) => text.push_str(EVIL),
        Value::Array(parts) => parts.iter_mut().for_each(|part| spoil(part, key)),
        Value::Object(parts) => parts.iter_mut().for_each(|(key, part)| spoil(part, key)),
        Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn is_harmless(run: &Output, args: &[&str]) {
    for bytes in [&run.stdout, &run.stderr] {
        let shown = String::from_utf8(bytes.clone()).unwrap();
        let steers = |c: char| c.is_control() && c != '\n' && c != '\t';
        assert!(!shown.contains(steers), "{args:?}: {shown:?}");
    }
}

/// Each command that shows something, against a coordinator that means ill.
pub(super) fn by_the_client() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    let status = cluster.run(&tiny_cb(&data, ""), &[]);
    let id = status["id"].as_str().unwrap();
    let url = format!("http://{}", hostile(cluster.listen().parse().unwrap()));
    let mut shown = 0;
    for args in [
        &["status"][..],
        &["status", id],
        &["workers"],
        &["events", id],
        &["logs", id],
        &["metrics", id],
        &["checkpoints", id],
        &["report", id],
        &["cancel", id],
        &["retry", id],
        &["drain", "w0000000000"],
        &["token", "list"],
        &["audit"],
    ] {
        let run = cluster.client().args(args).env("PTV2_COORDINATOR", &url).output().unwrap();
        is_harmless(&run, args);
        shown += usize::from(String::from_utf8_lossy(&run.stdout).contains("FAKE"));
    }
    assert!(shown >= 3, "the texts were shown at all: {shown}");
}

/// Requests whose addresses, headers and names end in the log of a coordinator that logs in text.
pub(super) fn in_a_text_log() {
    let mut cluster = Cluster::new("ptv2d");
    cluster.set("PTV2_LOG", "debug".into());
    cluster.serve(0, 1, "127.0.0.1:0");
    let (address, token) = (cluster.listen().parse().unwrap(), cluster.token());
    for (_, text) in super::hostile::tricks() {
        let path = format!("/v1/jobs/{}", http::encoded(&text));
        let submit = serde_json::json!({"spec": {"name": text, "task": text}}).to_string();
        for bytes in [
            Request::new("GET", &path).token(&token).bytes(),
            Request::new("GET", &path).token("none").bytes(),
            Request::new("POST", "/v1/jobs").token(&token).json(&submit),
        ] {
            drop(http::ask(address, &bytes));
        }
        let worker = format!("/v1/workers/{}/drain", http::encoded(&text));
        drop(http::ask(address, &Request::new("POST", &worker).token(&token).json("{}")));
    }
    let log = cluster.logs();
    assert!(!log.contains(&token), "the token is in the log");
    logs::check(&log, logs::Format::Text);
}
