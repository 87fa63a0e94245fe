//! Requests that two readers could take for different ones. What hides in the body of the first is never answered
//! as if it had a token.

use super::{Target, http};
use ptv2_common::access::Scope;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

/// What hides in a body, or is one.
const HIDDEN: &str = "GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\n\r\n";

/// All of this file.
pub(super) fn all(target: &Target) -> String {
    let token = target.token(Scope::Read);
    let cases = [of_lengths(token), of_codings(token), of_lines(token)].concat();
    for (name, bytes) in &cases {
        check(target.address, name, bytes);
    }
    format!("none of {} was answered with what hides in it", cases.len())
}

fn check(address: SocketAddr, name: &str, bytes: &str) {
    let mut stream = http::connect(address);
    stream.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    drop(stream.write_all(bytes.as_bytes()));
    drop(stream.shutdown(Shutdown::Write));
    let mut said = Vec::new();
    // It may be cut off with a reset.
    drop(stream.read_to_end(&mut said));
    let said = String::from_utf8_lossy(&said);
    assert!(!said.contains(" 200 "), "{name}: {said}");
    assert!(!said.contains(" 500 "), "{name}: {said}");
}

/// Cases by their names.
type Cases = Vec<(&'static str, String)>;

fn post(token: &str, headers: &str, body: &str) -> String {
    format!(
        "POST /v1/plan HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
         content-type: application/json\r\n{headers}\r\n{body}"
    )
}

fn of_lengths(token: &str) -> Cases {
    let post = |headers: &str| post(token, headers, HIDDEN);
    let length = HIDDEN.len();
    vec![
        ("two lengths", post(&format!("content-length: 2\r\ncontent-length: {length}\r\n"))),
        ("a list of lengths", post(&format!("content-length: 2, {length}\r\n"))),
        ("a signed length", post("content-length: +2\r\n")),
        ("a negative length", post("content-length: -2\r\n")),
        ("a length in hexadecimal", post("content-length: 0x2\r\n")),
        ("a length that is too large", post("content-length: 99999999999999999999999\r\n")),
    ]
}

fn of_codings(token: &str) -> Cases {
    let post = |headers: &str, body: &str| post(token, headers, body);
    let chunked = "transfer-encoding: chunked\r\n";
    let ended = format!("0\r\n\r\n{HIDDEN}");
    vec![
        ("a length and chunks", post(&format!("content-length: 2\r\n{chunked}"), &ended)),
        ("chunks and a length", post(&format!("{chunked}content-length: 2\r\n"), &ended)),
        ("two codings", post(&format!("{chunked}transfer-encoding: identity\r\n"), HIDDEN)),
        ("an unknown coding", post("transfer-encoding: xchunked\r\n", HIDDEN)),
        ("a coding with a tab", post("transfer-encoding:\tchunked, gzip\r\n", HIDDEN)),
        ("a chunk that is too large", post(chunked, "ffffffffffffffff1\r\nx")),
        ("a chunk of no length", post(chunked, "\r\nx\r\n")),
        ("HTTP/1.0 in chunks", post(chunked, HIDDEN).replace("/1.1", "/1.0")),
    ]
}

fn of_lines(token: &str) -> Cases {
    let post = |headers: &str| post(token, headers, HIDDEN);
    let length = HIDDEN.len();
    vec![
        ("a space before the colon", post(&format!("content-length : {length}\r\n"))),
        ("a line that goes on", post(&format!("content-length: 2\r\n x: {length}\r\n"))),
        ("line feeds alone", post("a: b\n\n").replace("\r\n", "\n")),
        ("a carriage return alone", post("a: b\rcontent-length: 2\r\n")),
        ("HTTP/2 without a warning", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("HTTP/9", "GET /v1/jobs HTTP/9.9\r\nhost: localhost\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}\r\n\r\n".to_owned()),
    ]
}
