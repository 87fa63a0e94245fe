//! A server that answers as a hub of models does, as far as Hugging Face's library asks it.

use ptv2_common::storage::sha256;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

pub(super) const REPOSITORY: &str = "ptv2/bert-tiny";
pub(super) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mood {
    /// As asked.
    Good,
    /// Only those with this token.
    Gated(&'static str),
    /// Half of the weights, then the connection ends.
    Cut,
    /// Weights that are shorter than it said.
    Short,
    /// Weights that are not those that it named.
    Other,
    /// No weights until the mood is another.
    Stalled,
    /// Another place for all that begins so.
    Elsewhere(&'static str, &'static str),
}

struct Shared {
    url: String,
    files: BTreeMap<String, Vec<u8>>,
    mood: Mutex<Mood>,
    changed: Condvar,
    asked: Mutex<Vec<String>>,
}

/// A running server. It ends with the test program.
pub(super) struct Hub(Arc<Shared>);

impl Hub {
    /// Serves a folder's files, and these besides.
    pub(super) fn serve(folder: &Path, more: &[(&str, &[u8])], without: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut files: BTreeMap<String, Vec<u8>> = folder
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| {
                let name = entry.file_name().into_string().unwrap();
                (name, std::fs::read(entry.path()).unwrap())
            })
            .collect();
        files.extend(more.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())));
        files.retain(|name, _| !without.contains(&name.as_str()));
        let shared = Arc::new(Shared {
            url: format!("http://{}", listener.local_addr().unwrap()),
            files,
            mood: Mutex::new(Mood::Good),
            changed: Condvar::new(),
            asked: Mutex::default(),
        });
        let served = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&served);
                std::thread::spawn(move || shared.answer(&stream));
            }
        });
        Self(shared)
    }

    pub(super) fn url(&self) -> String {
        self.0.url.clone()
    }

    pub(super) fn is(&self, mood: Mood) {
        *self.0.mood.lock().unwrap() = mood;
        self.0.changed.notify_all();
    }

    /// The paths that were asked for since the last call.
    pub(super) fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.asked.lock().unwrap())
    }
}

/// A request, as far as it matters.
struct Request {
    path: String,
    /// The first byte that is wanted, and the last where it is named.
    range: Option<(usize, Option<usize>)>,
    token: Option<String>,
}

fn request(stream: &TcpStream) -> Option<Request> {
    let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
    let path = lines.next()?.split(' ').nth(1)?.to_owned();
    let mut request = Request { path, range: None, token: None };
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        match name.to_ascii_lowercase().as_str() {
            "range" => {
                let (first, last) = value.strip_prefix("bytes=")?.split_once('-')?;
                request.range = Some((first.parse().ok()?, last.parse().ok()));
            }
            "authorization" => request.token = value.strip_prefix("Bearer ").map(str::to_owned),
            _ => {}
        }
    }
    Some(request)
}

impl Shared {
    fn answer(&self, stream: &TcpStream) {
        let Some(request) = request(stream) else { return };
        self.asked.lock().unwrap().push(request.path.clone());
        let mood = self.mood.lock().unwrap().clone();
        if let Mood::Gated(token) = mood
            && request.token.as_deref() != Some(token)
        {
            return say(stream, "401 Unauthorized", &[("x-error-code", "GatedRepo")], b"");
        }
        if let Mood::Elsewhere(beginning, target) = mood
            && request.path.starts_with(beginning)
        {
            let headers = [("location", target), ("x-repo-commit", COMMIT), ("etag", "\"1\"")];
            return say(stream, "302 Found", &headers, b"");
        }
        let info = format!("/api/models/{REPOSITORY}/revision/");
        let resolve = format!("/{REPOSITORY}/resolve/{COMMIT}/");
        let cache = format!("/api/resolve-cache/models/{REPOSITORY}/{COMMIT}/");
        if let Some(revision) = request.path.strip_prefix(&info) {
            if ["main", COMMIT].contains(&revision) {
                return self.info(stream);
            }
        } else if let Some(name) = request.path.strip_prefix(&resolve) {
            if let Some(bytes) = self.files.get(name) {
                return self.redirect(stream, name, &cache, bytes);
            }
        } else if let Some(name) = request.path.strip_prefix(&cache)
            && let Some(bytes) = self.files.get(name)
        {
            return give(stream, &request, &[("etag", &git_etag(bytes))], bytes);
        } else if let Some(hash) = request.path.strip_prefix("/cdn/")
            && let Some(bytes) = self.files.values().find(|bytes| sha256(bytes) == hash)
        {
            return self.weights(stream, &request, bytes);
        }
        say(stream, "404 Not Found", &[("x-error-code", "EntryNotFound")], b"");
    }

    fn info(&self, stream: &TcpStream) {
        let siblings: Vec<_> = self.files.keys().map(|name| json!({"rfilename": name})).collect();
        let info = json!({"id": REPOSITORY, "sha": COMMIT, "siblings": siblings});
        let kind = [("content-type", "application/json")];
        say(stream, "200 OK", &kind, info.to_string().as_bytes());
    }

    /// Small files lie on the hub itself, large ones elsewhere, named by their SHA-256.
    fn redirect(&self, stream: &TcpStream, name: &str, cache: &str, bytes: &[u8]) {
        let (hash, size) = (sha256(bytes), bytes.len().to_string());
        if name.ends_with(".safetensors") {
            let location = format!("{}/cdn/{hash}", self.url);
            let linked = format!("\"{hash}\"");
            let headers = [
                ("location", &*location),
                ("x-repo-commit", COMMIT),
                ("x-linked-size", &*size),
                ("x-linked-etag", &*linked),
            ];
            return say(stream, "302 Found", &headers, b"");
        }
        let location = format!("{cache}{name}");
        let headers = [("location", &*location), ("x-repo-commit", COMMIT)];
        say(stream, "307 Temporary Redirect", &headers, b"");
    }

    fn weights(&self, stream: &TcpStream, request: &Request, bytes: &[u8]) {
        // The library asks for one byte to learn the length.
        let is_look = request.range == Some((0, Some(0)));
        let mut mood = self.mood.lock().unwrap();
        if !is_look {
            mood = self.changed.wait_while(mood, |mood| *mood == Mood::Stalled).unwrap();
        }
        let mood = mood.clone();
        let etag = [("etag", "\"of-elsewhere\"")];
        match mood {
            Mood::Cut if !is_look => {
                let mut stream = stream;
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", bytes.len());
                drop(stream.write_all(head.as_bytes()));
                drop(stream.write_all(&bytes[..bytes.len() / 2]));
            }
            Mood::Short if !is_look => say(stream, "200 OK", &etag, &bytes[..bytes.len() / 2]),
            Mood::Other if !is_look => say(stream, "200 OK", &etag, &vec![0; bytes.len()]),
            Mood::Good
            | Mood::Gated(_)
            | Mood::Cut
            | Mood::Short
            | Mood::Other
            | Mood::Stalled
            | Mood::Elsewhere(..) => give(stream, request, &etag, bytes),
        }
    }
}

/// Gives a file, or the part of it that is wanted.
fn give(stream: &TcpStream, request: &Request, more: &[(&str, &str)], bytes: &[u8]) {
    let mut headers = vec![("x-repo-commit", COMMIT)];
    headers.extend(more);
    let Some((first, last)) = request.range else {
        return say(stream, "200 OK", &headers, bytes);
    };
    let last = last.map_or(bytes.len(), |last| last + 1).min(bytes.len());
    if first >= last {
        return say(stream, "416 Range Not Satisfiable", &headers, b"");
    }
    let range = format!("bytes {first}-{}/{}", last - 1, bytes.len());
    headers.push(("content-range", &range));
    say(stream, "206 Partial Content", &headers, &bytes[first..last]);
}

/// The hub names small files by git's hash of them; any 40 digits serve.
fn git_etag(bytes: &[u8]) -> String {
    format!("\"{}\"", &sha256(bytes)[..40])
}

fn say(mut stream: &TcpStream, status: &str, headers: &[(&str, &str)], body: &[u8]) {
    let headers: String =
        headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!(
        "HTTP/1.1 {status}\r\n{headers}content-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // Whoever asked may have gone.
    drop(stream.write_all(head.as_bytes()));
    drop(stream.write_all(body));
}
