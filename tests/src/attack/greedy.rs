//! Requests that are large, slow, deep or ambiguous.

use super::http::{self, Answer, Request};
use super::probe::now;
use super::report::Table;
use super::{Effort, Target};
use ptv2_common::access::Scope;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Ten gigabytes.
const TEN_GB: u64 = 10 << 30;
/// Of a request that is refused, no more is taken: what is on its way, what is read and forgotten, and what comes
/// within the time that a body has.
const TAKEN_MAX: u64 = 256 << 20;

/// All of this file, each a row of the table.
pub(super) fn all(target: &Target, effort: Effort, table: &mut Table) {
    let part = "x".repeat(1 << 16);
    let told = submit(target).with("content-length", &TEN_GB.to_string()).bytes();
    table.during("a body of 10 GB, told", target, || pour(target, &told, &part, &[413]));
    let untold = submit(target).with("transfer-encoding", "chunked").bytes();
    let chunk = format!("{:x}\r\n{part}\r\n", part.len());
    table.during("a body of 10 GB, in chunks", target, || pour(target, &untold, &chunk, &[413]));
    let bytes = "1\r\nx\r\n".repeat(1 << 12);
    table.during("a body of 10 GB, in chunks of a byte", target, || {
        pour(target, &untold, &bytes, &[408, 413])
    });
    let extension = format!("1;{part}");
    table.during("an endless extension of a chunk", target, || {
        pour(target, &untold, &extension, &[400, 413, 408])
    });
    let zeros = "0".repeat(1 << 16);
    table.during("an endless length of a chunk", target, || {
        pour(target, &untold, &zeros, &[400, 413, 408])
    });
    let ended = [&untold[..], b"0\r\n"].concat();
    table.during("endless trailers", target, || {
        pour(target, &ended, &"t: x\r\n".repeat(1 << 12), &[400, 408, 413, 431])
    });
    table.during("a million headers", target, || {
        pour(target, &list(target).open(), &"h: x\r\n".repeat(1 << 12), &[431])
    });
    table.during("a header of 10 MB", target, || {
        pour(target, &[&list(target).open()[..], b"h: "].concat(), &part, &[431])
    });
    table.during("an address of 10 MB", target, || pour(target, b"GET /", &part, &[400, 414, 431]));
    table.during("headers without an end, slowly", target, || {
        slow(target, effort.of(100, 1000), &list(target).open(), b"a")
    });
    table.during("a body without an end, slowly", target, || {
        let begun = [&submit(target).with("content-length", "1000").bytes()[..], b"{"].concat();
        slow(target, effort.of(100, 1000), &begun, b" ")
    });
    table.during("answers that nobody reads", target, || unread(target, effort.of(30, 200)));
    table.during("bodies that are refused", target, || odd_bodies(target));
    table.during("a megabyte of lists, 64 at once", target, || {
        at_once(target, &format!("{{\"spec\": [{}[]]}}", "[],".repeat(300_000)))
    });
    table.during("a megabyte of objects, 64 at once", target, || {
        at_once(target, &format!("{{\"spec\": [{}{{}}]}}", "{\"\":{}},".repeat(110_000)))
    });
    table.during("requests of two lengths", target, || ambiguous(target));
}

fn submit(target: &Target) -> Request {
    let request = Request::new("POST", "/v1/jobs").token(target.token(Scope::Submit));
    request.with("content-type", "application/json")
}

fn list(target: &Target) -> Request {
    Request::new("GET", "/v1/jobs").token(target.token(Scope::Read))
}

/// Nothing but looking on, for two seconds.
pub(super) fn nothing(target: &Target) -> String {
    let began = now();
    let mut asked = 0;
    while began.elapsed() < Duration::from_secs(2) {
        assert_eq!(target.ask(&list(target).bytes()).status, 200);
        asked += 1;
    }
    format!("{asked} lists of jobs")
}

/// Sends the same part again and again until no more is taken; says what came back, and how much was taken.
fn pour(target: &Target, head: &[u8], part: &str, expected: &[u16]) -> String {
    let mut stream = http::connect(target.address);
    let mut writer = stream.try_clone().unwrap();
    writer.write_all(head).unwrap();
    let poured = Arc::new(AtomicU64::new(0));
    let (count, part) = (Arc::clone(&poured), part.to_owned());
    let pours = std::thread::spawn(move || {
        while count.load(Ordering::Relaxed) < TEN_GB && writer.write_all(part.as_bytes()).is_ok() {
            count.fetch_add(part.len() as u64, Ordering::Relaxed);
        }
    });
    let answer = http::read(&mut stream);
    drop(stream.shutdown(Shutdown::Both));
    pours.join().unwrap();
    let taken = poured.load(Ordering::Relaxed);
    assert!(taken < TAKEN_MAX, "{taken} bytes were taken");
    match answer {
        Some(answer) => {
            assert!(expected.contains(&answer.status), "{answer:?}");
            format!("{} after {} KiB", answer.status, taken >> 10)
        }
        // A reset overtakes the answer to whoever goes on writing.
        None => format!("closed after {} KiB", taken >> 10),
    }
}

/// So many connections begin a request and go on by a byte now and then.
fn slow(target: &Target, connections: usize, begun: &[u8], more: &[u8]) -> String {
    let began = now();
    let mut streams: Vec<TcpStream> =
        (0..connections).map(|_| http::connect(target.address)).collect();
    for stream in &mut streams {
        stream.write_all(begun).unwrap();
        stream.set_nonblocking(true).unwrap();
    }
    let mut statuses = std::collections::BTreeMap::new();
    let mut buffer = [0; 4096];
    while !streams.is_empty() {
        assert!(began.elapsed() < http::PATIENCE, "{} connections are still open", streams.len());
        streams.retain_mut(|stream| {
            let ended = match stream.read(&mut buffer) {
                Ok(count) => Some(String::from_utf8_lossy(&buffer[..count]).into_owned()),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => None,
                Err(_) => Some(String::new()),
            };
            let Some(said) = ended else { return stream.write_all(more).is_ok() };
            let status = said.split(' ').nth(1).unwrap_or("closed").to_owned();
            *statuses.entry(status).or_insert(0) += 1;
            false
        });
        pause();
    }
    format!("{connections} connections: {statuses:?} within {:.1} s", began.elapsed().as_secs_f64())
}

#[expect(clippy::disallowed_methods, reason = "an attacker takes its time")]
fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// Thousands of requests whose answers are not read, until the connection takes no more.
fn unread(target: &Target, connections: usize) -> String {
    let path = format!("/v1/jobs/{}/metrics", target.job);
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\r\n",
        target.token(Scope::Read)
    );
    let many = request.repeat(100);
    let mut taken = 0;
    let mut streams = Vec::new();
    for _ in 0..connections {
        let mut stream = http::connect(target.address);
        stream.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
        for _ in 0..20 {
            match stream.write(many.as_bytes()) {
                Ok(count) => taken += count,
                Err(_) => break,
            }
        }
        streams.push(stream);
    }
    // The end of each is seen by what can still be written.
    let began = now();
    while !streams.is_empty() {
        assert!(began.elapsed() < http::PATIENCE, "{} connections are still open", streams.len());
        streams.retain_mut(|stream| match stream.write(b"x") {
            Ok(_) => true,
            Err(error) => matches!(
                error.kind(),
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
            ),
        });
        pause();
    }
    format!("{connections} connections cut off; {} KiB of requests taken", taken >> 10)
}

/// Bodies that are no request, each refused in its own right.
fn odd_bodies(target: &Target) -> String {
    let deep = |open: &str| open.repeat(100_000);
    let within = |text: &str| format!("{{\"spec\": {text}}}").into_bytes();
    let digits = "9".repeat(10_000);
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", Vec::new()),
        ("a list that is nested deep", deep("[").into_bytes()),
        ("objects that are nested deep", deep("{\"a\":").into_bytes()),
        ("a spec that is nested deep", within(&deep("["))),
        ("a number without end", within(&digits)),
        ("a number that is too large", within("1e999999999")),
        ("a small number with many zeros", within(&format!("0.{}1", "0".repeat(100_000)))),
        ("a key twice", b"{\"spec\": {}, \"spec\": {}}".to_vec()),
        ("no UTF-8", b"{\"spec\": \"\xff\xfe\"}".to_vec()),
        ("half a letter", b"{\"spec\": \"\\ud800\"}".to_vec()),
        ("NUL", b"{\"spec\": \"\0\"}".to_vec()),
        ("a mark of order", b"\xef\xbb\xbf{\"spec\": {}}".to_vec()),
        ("UTF-16", b"{\0\"\0s\0".to_vec()),
        ("a megabyte of escapes", within(&format!("\"{}\"", "\\u0000".repeat(170_000)))),
        ("unknown keys", b"{\"spec\": {}, \"__proto__\": {}}".to_vec()),
        ("a pickle", b"cos\nsystem\n(S'touch canary.txt'\ntR.".to_vec()),
        ("YAML", b"spec: !!python/object/apply:os.system ['id']".to_vec()),
        ("XML", b"<!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>".to_vec()),
    ];
    let count = bodies.len();
    for (name, body) in bodies {
        for path in ["/v1/jobs", "/v1/plan", "/v1/scores", "/v1/tokens"] {
            let request = Request::new("POST", path).token(target.token(Scope::Admin));
            let request = request.with("content-type", "application/json");
            let length = body.len().to_string();
            let head = request.with("content-length", &length).bytes();
            let answer = target.ask(&[&head[..], &body].concat());
            let is_refused = matches!(answer.status, 400 | 413 | 415 | 422);
            assert!(is_refused, "{path}, {name}: {answer:?}");
            target.is_harmless(&answer, name);
        }
        // The same of another kind.
        let text = submit(target).with("content-length", &body.len().to_string());
        let text = text.with("content-encoding", "gzip").bytes();
        let answer = target.ask(&[&text[..], &body].concat());
        assert!((400..500).contains(&answer.status), "{name}: {answer:?}");
    }
    format!("{} bodies refused with 400 or 422", 5 * count)
}

/// Many connections that send the same body at once.
fn at_once(target: &Target, body: &str) -> String {
    assert!(body.len() <= 1 << 20, "{}", body.len());
    let request = Request::new("POST", "/v1/plan").token(target.token(Scope::Submit)).json(body);
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let asks: Vec<_> =
            (0..64).map(|_| scope.spawn(|| http::ask(target.address, &request).unwrap())).collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    let mut statuses = std::collections::BTreeMap::new();
    for answer in answers {
        assert!(matches!(answer.status, 400 | 408 | 413 | 422 | 503), "{answer:?}");
        *statuses.entry(answer.status).or_insert(0) += 1;
    }
    format!("{statuses:?}")
}

/// Requests that two readers could take for different ones. What hides in the body of the first is never
/// answered as if it had a token.
fn ambiguous(target: &Target) -> String {
    let token = target.token(Scope::Read);
    let hidden = "GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let post = |headers: &str, body: &str| {
        format!(
            "POST /v1/plan HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n\
             content-type: application/json\r\n{headers}\r\n{body}"
        )
    };
    let length = hidden.len();
    let cases = [
        (
            "two lengths",
            post(&format!("content-length: 2\r\ncontent-length: {length}\r\n"), hidden),
        ),
        ("a list of lengths", post(&format!("content-length: 2, {length}\r\n"), hidden)),
        ("a signed length", post("content-length: +2\r\n", hidden)),
        ("a negative length", post("content-length: -2\r\n", hidden)),
        ("a length in hexadecimal", post("content-length: 0x2\r\n", hidden)),
        ("a length that is too large", post("content-length: 99999999999999999999999\r\n", hidden)),
        (
            "a length and chunks",
            post(
                "content-length: 2\r\ntransfer-encoding: chunked\r\n",
                &format!("0\r\n\r\n{hidden}"),
            ),
        ),
        (
            "chunks and a length",
            post(
                "transfer-encoding: chunked\r\ncontent-length: 2\r\n",
                &format!("0\r\n\r\n{hidden}"),
            ),
        ),
        (
            "two codings",
            post("transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n", hidden),
        ),
        ("an unknown coding", post("transfer-encoding: xchunked\r\n", hidden)),
        ("a coding with a tab", post("transfer-encoding:\tchunked, gzip\r\n", hidden)),
        ("a space before the colon", post(&format!("content-length : {length}\r\n"), hidden)),
        ("a line that goes on", post(&format!("content-length: 2\r\n x: {length}\r\n"), hidden)),
        ("line feeds alone", post("a: b\n\n", hidden).replace("\r\n", "\n")),
        ("a carriage return alone", post("a: b\rcontent-length: 2\r\n", hidden)),
        (
            "a chunk that is too large",
            post("transfer-encoding: chunked\r\n", "ffffffffffffffff1\r\nx"),
        ),
        ("a chunk of no length", post("transfer-encoding: chunked\r\n", "\r\nx\r\n")),
        (
            "HTTP/1.0 in chunks",
            post("transfer-encoding: chunked\r\n", hidden).replace("/1.1", "/1.0"),
        ),
        ("HTTP/2 without a warning", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned()),
        ("HTTP/9", "GET /v1/jobs HTTP/9.9\r\nhost: localhost\r\n\r\n".to_owned()),
        ("TLS", "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}\u{fc}\u{3}\u{3}\r\n\r\n".to_owned()),
    ];
    let count = cases.len();
    for (name, bytes) in cases {
        let mut stream = http::connect(target.address);
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
    format!("none of {count} was answered with what hides in it")
}
