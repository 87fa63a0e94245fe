//! Requests that never end: bodies, chunks, headers, addresses. Each is poured until no more of it is taken.

use super::http::{self, Request};
use std::io::Write;
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Ten gigabytes.
const TEN_GB: u64 = 10 << 30;
/// Of what is refused at once, no more is taken: what is on its way, and what is read and forgotten.
const SOON: u64 = 16 << 20;
/// Of what is refused when its time is over: that, and what comes within the time that a body has.
const LATE: u64 = 256 << 20;

/// A request without an end.
pub(crate) struct Pour {
    pub(crate) name: &'static str,
    head: Vec<u8>,
    /// What is sent again and again.
    part: String,
    /// What may be answered.
    expected: &'static [u16],
    taken_max: u64,
}

pub(super) fn submit(token: &str) -> Request {
    Request::new("POST", "/v1/jobs").token(token).with("content-type", "application/json")
}

pub(super) fn list(token: &str) -> Request {
    Request::new("GET", "/v1/jobs").token(token)
}

/// All of them, with tokens that may submit and read.
pub(crate) fn pours(submits: &str, reads: &str) -> Vec<Pour> {
    let part = "x".repeat(1 << 16);
    let told = submit(submits).with("content-length", &TEN_GB.to_string()).bytes();
    let untold = submit(submits).with("transfer-encoding", "chunked").bytes();
    let trailers = [&untold[..], b"0\r\n"].concat();
    let headers = list(reads).open();
    let header = [&headers[..], b"h: "].concat();
    let chunk = format!("{:x}\r\n{part}\r\n", part.len());
    let names: String = (0..1 << 12).map(|number| format!("h{number}: x\r\n")).collect();
    let bytes = "1\r\nx\r\n".repeat(1 << 12);
    let pour = |name, head: &[u8], part: &str, (expected, taken_max)| Pour {
        name,
        head: head.to_vec(),
        part: part.to_owned(),
        expected,
        taken_max,
    };
    vec![
        pour("a body of 10 GB, told", &told, &part, (&[413], SOON)),
        pour("a body of 10 GB, in chunks", &untold, &chunk, (&[413], SOON)),
        pour("an endless extension of a chunk", &untold, &format!("1;{part}"), (&[400, 413], SOON)),
        pour("endless trailers", &trailers, &"t: x\r\n".repeat(1 << 12), (&[400, 413, 431], SOON)),
        pour("a million headers", &headers, &names, (&[431], SOON)),
        pour("a header of 10 MB", &header, &part, (&[431], SOON)),
        pour("an address of 10 MB", b"GET /", &part, (&[400, 414, 431], SOON)),
        pour("a body of 10 GB, in chunks of a byte", &untold, &bytes, (&[408, 413], LATE)),
        pour(
            "an endless length of a chunk",
            &untold,
            &"0".repeat(1 << 16),
            (&[400, 408, 413], LATE),
        ),
    ]
}

impl Pour {
    /// Whether it is refused before its time is over.
    pub(super) fn is_short(&self) -> bool {
        self.taken_max == SOON
    }

    /// Sends it until no more is taken; says what came back, and how much was taken.
    pub(crate) fn at(&self, address: SocketAddr) -> String {
        let mut stream = http::connect(address);
        let mut writer = stream.try_clone().unwrap();
        writer.write_all(&self.head).unwrap();
        let poured = Arc::new(AtomicU64::new(0));
        let (count, part) = (Arc::clone(&poured), self.part.clone());
        let pours = std::thread::spawn(move || {
            let taken = || count.load(Ordering::Relaxed);
            while taken() < TEN_GB && writer.write_all(part.as_bytes()).is_ok() {
                count.fetch_add(part.len() as u64, Ordering::Relaxed);
            }
        });
        let answer = http::read(&mut stream);
        drop(stream.shutdown(Shutdown::Both));
        pours.join().unwrap();
        let taken = poured.load(Ordering::Relaxed);
        assert!(taken < self.taken_max, "{}: {taken} bytes were taken", self.name);
        match answer {
            Some(answer) => {
                assert!(self.expected.contains(&answer.status), "{}: {answer:?}", self.name);
                format!("{} after {} KiB", answer.status, taken >> 10)
            }
            // A reset overtakes the answer to whoever goes on writing.
            None => format!("closed after {} KiB", taken >> 10),
        }
    }
}
