//! Requests that are large, slow, deep or ambiguous.

use super::http::{self, Answer, Request};
use super::pours::{self, pours};
use super::probe::now;
use super::report::{LONG, Table};
use super::{Effort, Target, ambiguous};
use crate::e2e::harness::DEADLINE;
use ptv2_common::access::Scope;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// All of this file, each a row of the table.
pub(super) fn all(target: &Target, effort: Effort, table: &mut Table) {
    table.during("lists of jobs, as fast as they come", target, || lists(target));
    let pours = pours(target.token(Scope::Submit), target.token(Scope::Read));
    for pour in &pours {
        table.during(pour.name, target, || pour.at(target.address));
    }
    table.during("the short ones of these, again and again", target, || {
        let short = || pours.iter().filter(|pour| pour.is_short());
        let rounds = again(|| short().for_each(|pour| drop(pour.at(target.address))));
        format!("{rounds} times the same")
    });
    table.during("headers without an end, slowly", target, || {
        slow(target.address, effort.of(100, 1000), &list(target).open(), b"a")
    });
    table.during("a body without an end, slowly", target, || {
        let begun = [&submit(target).with("content-length", "1000").bytes()[..], b"{"].concat();
        slow(target.address, effort.of(100, 1000), &begun, b" ")
    });
    table.during("answers that nobody reads", target, || unread(target, effort.of(30, 200)));
    table.during("bodies that are refused", target, || odd_bodies(target));
    table.during("a megabyte of lists, 64 at once", target, || {
        at_once(target, &format!("{{\"spec\": [{}[]]}}", "[],".repeat(300_000)))
    });
    table.during("a megabyte of objects, 64 at once", target, || {
        at_once(target, &format!("{{\"spec\": [{}{{}}]}}", "{\"\":{}},".repeat(110_000)))
    });
    table.during("requests of two lengths", target, || ambiguous::all(target));
}

fn submit(target: &Target) -> Request {
    pours::submit(target.token(Scope::Submit))
}

fn list(target: &Target) -> Request {
    pours::list(target.token(Scope::Read))
}

/// Does the same for as long as an attack takes that is held to its control; how often.
pub(super) fn again(mut act: impl FnMut()) -> usize {
    let began = now();
    let mut rounds = 0;
    while began.elapsed() < LONG {
        act();
        rounds += 1;
    }
    rounds
}

/// Nothing but looking on.
pub(super) fn nothing() -> String {
    again(pause);
    "nothing".into()
}

fn lists(target: &Target) -> String {
    let asked = again(|| assert_eq!(target.ask(&list(target).bytes()).status, 200));
    format!("{asked} lists of jobs")
}

/// So many connections begin a request and go on by a byte now and then.
pub(crate) fn slow(address: SocketAddr, connections: usize, begun: &[u8], more: &[u8]) -> String {
    let began = now();
    let mut streams: Vec<TcpStream> = (0..connections).map(|_| http::connect(address)).collect();
    for stream in &mut streams {
        stream.write_all(begun).unwrap();
        stream.set_nonblocking(true).unwrap();
    }
    let mut statuses = std::collections::BTreeMap::new();
    let mut buffer = [0; 4096];
    while !streams.is_empty() {
        assert!(began.elapsed() < DEADLINE, "{} connections are still open", streams.len());
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
        assert!(began.elapsed() < DEADLINE, "{} connections are still open", streams.len());
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

/// Many connections that send the same body at once, again and again.
fn at_once(target: &Target, body: &str) -> String {
    assert!(body.len() <= 1 << 20, "{}", body.len());
    let request = Request::new("POST", "/v1/plan").token(target.token(Scope::Submit)).json(body);
    let mut statuses = std::collections::BTreeMap::new();
    again(|| {
        let answers: Vec<Answer> = std::thread::scope(|scope| {
            let ask = || http::ask(target.address, &request).unwrap();
            let asks: Vec<_> = (0..64).map(|_| scope.spawn(ask)).collect();
            asks.into_iter().map(|ask| ask.join().unwrap()).collect()
        });
        for answer in answers {
            assert!(matches!(answer.status, 400 | 408 | 413 | 422 | 503), "{answer:?}");
            *statuses.entry(answer.status).or_insert(0) += 1;
        }
    });
    format!("{statuses:?}")
}
