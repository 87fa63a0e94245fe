//! A client that sends whatever bytes it is given, and reads what comes back within a bound.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// An answer takes no longer than this, or it is none.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes of an answer that are read.
const LONGEST: u64 = 64 << 20;

/// An answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// Its lines, without the first.
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(one, _)| one.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// A request of a method, a target and a token, before its body.
#[derive(Debug, Clone)]
pub(super) struct Request {
    head: Vec<u8>,
}

impl Request {
    pub(super) fn new(method: &str, target: &str) -> Self {
        let mut request = Self { head: Vec::new() };
        request.head.extend(format!("{method} {target} HTTP/1.1\r\n").into_bytes());
        request.with("host", "localhost").with("connection", "close")
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.head.extend(format!("{name}: {value}\r\n").into_bytes());
        self
    }

    pub(super) fn token(self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    /// The bytes without a body.
    pub(super) fn bytes(mut self) -> Vec<u8> {
        self.head.extend(b"\r\n");
        self.head
    }

    /// The bytes with a JSON body.
    pub(super) fn json(self, body: &str) -> Vec<u8> {
        let length = body.len().to_string();
        let with = self.with("content-type", "application/json").with("content-length", &length);
        [&with.bytes()[..], body.as_bytes()].concat()
    }

    /// The head without its end.
    pub(super) fn open(self) -> Vec<u8> {
        self.head
    }
}

/// A connection whose waits are bounded.
pub(super) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends bytes and reads the first answer; none where the connection just ends.
pub(super) fn ask(address: SocketAddr, bytes: &[u8]) -> Option<Answer> {
    let mut stream = connect(address);
    // Whoever refuses early does not read on.
    drop(stream.write_all(bytes));
    read(&mut stream)
}

/// Reads an answer to its end, or, of a stream of events, its head.
pub(super) fn read(stream: &mut TcpStream) -> Option<Answer> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 1 << 14];
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(answer) = end.and_then(|end| parse(&bytes[..end], &bytes[end + 4..])) {
            let length = answer.header("content-length").and_then(|length| length.parse().ok());
            let is_stream =
                answer.header("content-type").is_some_and(|kind| kind.contains("event-stream"));
            if is_stream || length.is_some_and(|length: usize| answer.body.len() >= length) {
                return Some(answer);
            }
        }
        match stream.read(&mut buffer) {
            Ok(count @ 1..) if (bytes.len() as u64) < LONGEST => bytes.extend(&buffer[..count]),
            Ok(_) | Err(_) => return end.and_then(|end| parse(&bytes[..end], &bytes[end + 4..])),
        }
    }
}

fn parse(head: &[u8], body: &[u8]) -> Option<Answer> {
    let head = String::from_utf8_lossy(head).into_owned();
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header = |line: &str| {
        let (name, value) = line.split_once(':')?;
        Some((name.to_owned(), value.trim().to_owned()))
    };
    Some(Answer { status, headers: lines.filter_map(header).collect(), body: body.to_vec() })
}

/// Percent-encodes each byte.
pub(super) fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}
