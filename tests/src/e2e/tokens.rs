//! Who may do what: scopes, tokens of several people, join tokens of workers, the audit.

use super::harness::{Cluster, Process, binary, pid, poll, superglue, text, tiny_cb};
use crate::attack::sessions::hello;
use crate::chaos::signals::signal;
use futures_util::{SinkExt, StreamExt};
use ptv2_common::access::SESSION_HEADER;
use ptv2_common::session::{Envelope, FromWorker, ToWorker};
use serde_json::Value;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, http};

fn code(run: &Output) -> i32 {
    run.status.code().unwrap()
}

/// A token in a file of its own; the token's id.
fn create(cluster: &Cluster, file: &str, options: &[&str]) -> (PathBuf, String) {
    let path = cluster.folder.path().join(file);
    let to = path.display().to_string();
    let run = cluster.ctl(&[&["token", "create", "--to", &to], options].concat());
    assert_eq!(code(&run), 0, "{}", text(&run.stderr));
    (path, text(&run.stdout).trim().to_owned())
}

/// The client with another token.
fn with(cluster: &Cluster, token: &Path, args: &[&str]) -> Output {
    cluster.client().env("PTV2_TOKEN_FILE", token).args(args).output().unwrap()
}

fn secret(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap().trim().to_owned()
}

#[test]
fn several_people_have_tokens_of_their_own() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(0, 1);
    let (anna, anna_id) = create(&cluster, "anna", &["--name", "anna", "--scope", "submit"]);
    let (ben, ben_id) =
        create(&cluster, "ben", &["--name", "ben", "--scope", "read", "--expires", "1h"]);
    assert_eq!(anna.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = ["token", "create", "--name", "x", "--scope", "read", "--to", "anna"];
    assert_eq!(code(&cluster.ctl(&again)), 2, "the file is there");

    // The same key of two people is two keys, and each job says whose it is.
    let file = cluster.file("job.toml", &tiny_cb(&data, ""));
    let submit = ["submit", &file, "--idempotency-key", "k"];
    let id = |run: &Output| text(&run.stdout).trim().to_owned();
    let (hers, first) = (with(&cluster, &anna, &submit), cluster.ctl(&submit));
    assert_eq!(code(&hers), 0, "{}", text(&hers.stderr));
    assert_ne!(id(&hers), id(&first));
    assert_eq!(id(&with(&cluster, &anna, &submit)), id(&hers));
    let by = |job: &str| cluster.json(&["status", job])["submitted_by"].clone();
    assert_eq!((by(&id(&hers)), by(&id(&first))), ("anna".into(), "user".into()));

    // Who may look may not cancel, and hears what it takes.
    assert_eq!(code(&with(&cluster, &ben, &["status"])), 0);
    let run = with(&cluster, &ben, &["cancel", &id(&hers)]);
    let said = text(&run.stderr);
    assert_eq!(code(&run), 6, "{said}");
    assert!(said.contains("a token of scope `submit`") && said.contains("token create"), "{said}");
    assert_eq!(code(&with(&cluster, &anna, &["token", "list"])), 6);
    assert_eq!(code(&with(&cluster, &anna, &["cancel", &id(&first)])), 0);
    assert_eq!(code(&cluster.ctl(&["token", "create", "--name", "A b", "--scope", "read"])), 2);

    revoked_while_it_follows(&cluster, &id(&hers), (&ben, &ben_id));
    let listed = cluster.json(&["token", "list"]);
    let of = |id: &str| listed.as_array().unwrap().iter().find(|one| one["id"] == id).unwrap();
    assert!(of(&ben_id)["revoked_unix_ms"].is_u64() && of(&ben_id)["expires_unix_ms"].is_u64());
    assert!(of(&anna_id)["last_used_unix_ms"].is_u64(), "{listed:#}");
    let table = text(&cluster.ctl(&["token", "list"]).stdout);
    assert!(table.contains("revoked") && table.contains("worker-token"), "{table}");
    is_audited(
        &cluster,
        &[
            ["user", "POST /v1/tokens", &anna_id, "done"],
            ["anna", "POST /v1/jobs", &id(&hers), "done"],
            ["ben", "POST /v1/jobs/{job}/cancel", &id(&hers), "scope_too_small"],
            ["anna", "POST /v1/jobs/{job}/cancel", &id(&first), "done"],
            ["user", "DELETE /v1/tokens/{id}", &ben_id, "done"],
        ],
    );
    no_secret_lies_about(&cluster, [&anna, &ben]);
}

/// A stream ends with the token that it was opened with.
fn revoked_while_it_follows(cluster: &Cluster, job: &str, (file, id): (&Path, &str)) {
    let url = format!("{}/v1/jobs/{job}/events/stream", cluster.url());
    let stream = reqwest::blocking::Client::new().get(url).bearer_auth(secret(file));
    let mut stream = stream.send().unwrap();
    assert_eq!(stream.status(), 200);
    assert_eq!(code(&cluster.ctl(&["token", "revoke", id])), 0);
    let mut seen = String::new();
    // It is cut off, whatever that looks like to the reader.
    drop(stream.read_to_string(&mut seen));
    assert!(seen.contains("submitted"), "{seen}");
    assert_eq!(code(&with(cluster, file, &["status"])), 6, "revoked");
}

/// Each of these stands in the audit: who did what to whom, and what came of it.
fn is_audited(cluster: &Cluster, events: &[[&str; 4]]) {
    let audit = cluster.json(&["audit"]);
    for [who, action, subject, outcome] in events {
        let found = audit.as_array().unwrap().iter().any(|event| {
            event["principal"] == *who
                && event["action"] == *action
                && event["outcome"] == *outcome
                && event["subject"].as_str().unwrap_or_default().starts_with(subject)
                && event["remote"].as_str().unwrap_or_default().starts_with("127.0.0.1:")
        });
        assert!(found, "{who} {action} {subject} {outcome}: {audit:#}");
    }
    assert!(text(&cluster.ctl(&["audit", "--limit", "2"]).stdout).lines().count() == 3);
}

/// No secret lies anywhere but in the files that are made for it.
fn no_secret_lies_about(cluster: &Cluster, own: [&Path; 2]) {
    let secrets = [secret(own[0]), secret(own[1]), cluster.token()];
    let mut files = vec![cluster.folder.path().to_owned()];
    while let Some(path) = files.pop() {
        if path.is_dir() {
            files.extend(path.read_dir().unwrap().map(|entry| entry.unwrap().path()));
        } else if !own.contains(&path.as_path()) && !path.ends_with("state/token") {
            let bytes = std::fs::read(&path).unwrap();
            for secret in &secrets {
                let found = bytes.windows(secret.len()).any(|part| part == secret.as_bytes());
                assert!(!found, "a token is in {}", path.display());
            }
        }
    }
}

#[test]
fn a_request_says_whom_it_is_for_and_bears_no_token_in_its_address() {
    let cluster = Cluster::start(0, 1);
    let client = reqwest::blocking::Client::new();
    let get = |path: &str, headers: &[(&str, &str)]| {
        let mut request =
            client.get(format!("{}{path}", cluster.url())).bearer_auth(cluster.token());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().unwrap();
        let status = answer.status().as_u16();
        let code = answer.json::<Value>().unwrap()["code"].as_str().unwrap_or("").to_owned();
        (status, code)
    };
    let refused = |status: u16, code: &str| (status, code.to_owned());
    assert_eq!(get("/v1/jobs", &[("host", "localhost:1")]).0, 200);
    assert_eq!(get("/v1/jobs", &[("host", "evil.example")]), refused(403, "foreign_host"));
    let own = cluster.url();
    assert_eq!(get("/v1/jobs", &[("origin", &own)]).0, 200);
    for origin in ["http://evil.example", "null"] {
        assert_eq!(get("/v1/jobs", &[("origin", origin)]), refused(403, "foreign_origin"));
    }
    for name in ["token", "access_token"] {
        let path = format!("/v1/jobs?{name}={}", cluster.token());
        assert_eq!(get(&path, &[]), refused(400, "token_in_url"));
    }
    let audit = cluster.json(&["audit"]).to_string();
    for code in ["foreign_host", "foreign_origin", "token_in_url"] {
        assert!(audit.contains(code), "{audit}");
    }
    assert!(!cluster.logs().contains(&cluster.token()) && !audit.contains(&cluster.token()));
}

/// A worker that joins by a token of its own, with its log.
fn worker(cluster: &Cluster, token: &Path, log: &str) -> Process {
    let mut command = Command::new(binary("ptv2d"));
    command.args(["worker", "--coordinator", &cluster.url(), "--token-file"]).arg(token);
    Process::telling(&mut command, &cluster.folder.path().join(log))
}

fn ids(cluster: &Cluster) -> Vec<String> {
    let workers = cluster.json(&["workers"]);
    workers.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().into()).collect()
}

/// A token for one worker is good for that worker for as long as it lives, and for no other.
#[test]
fn a_join_token_lets_in_so_many_workers() {
    let mut cluster = Cluster::new("ptv2d");
    cluster.serve(0, 1, "127.0.0.1:0");
    let options = ["--name", "node-7", "--scope", "worker", "--uses", "1", "--expires", "10m"];
    let (token, id) = create(&cluster, "join", &options);
    let mut first = worker(&cluster, &token, "first.log");
    poll("the worker", || (ids(&cluster).len() == 1).then_some(()));
    let joined = ids(&cluster);

    let mut second = worker(&cluster, &token, "second.log");
    let refused = poll("the other worker's end", || second.ended());
    let said = std::fs::read_to_string(cluster.folder.path().join("second.log")).unwrap();
    assert_eq!(refused, 1, "{said}");
    assert!(said.contains("refuses this worker's token"), "{said}");

    // The coordinator dies and comes back: the worker is the one that it was.
    let listen = cluster.listen();
    signal(cluster.daemon.as_ref().unwrap().pid(), libc::SIGKILL);
    cluster.daemon = None;
    cluster.serve(0, 1, &listen);
    poll("the worker's return", || (ids(&cluster) == joined).then_some(()));
    assert_eq!(pid(&cluster.json(&["workers"])[0]), first.pid());

    // Somebody else with a good token cannot speak in its name.
    let stolen = dial(&cluster, &joined[0]);
    assert!(
        matches!(&stolen, Some(ToWorker::Refused { error }) if error.what.contains("another process")),
        "{stolen:?}"
    );
    assert_eq!(ids(&cluster), joined, "it was not cut off either");
    let foreign = dial(&cluster, "w\u{1b}[2J");
    assert!(matches!(foreign, Some(ToWorker::Refused { .. })), "{foreign:?}");

    let run = cluster.ctl(&["token", "revoke", &id]);
    assert_eq!(code(&run), 0, "{}", text(&run.stderr));
    assert_eq!(poll("the revoked worker's end", || first.ended()), 1);
    assert_eq!(ids(&cluster), [""; 0]);
    let audit = text(&cluster.ctl(&["audit"]).stdout);
    for said in ["worker joined", "worker refused", "node-7"] {
        assert!(audit.contains(said), "{audit}");
    }
    assert!(!audit.contains('\u{1b}') && !cluster.logs().contains('\u{1b}'));
}

/// Whoever revokes one of the two tokens of the state folder puts a new one there, by which everybody who
/// reads it goes on.
#[test]
fn the_workers_own_token_is_replaced_under_running_workers() {
    let mut cluster = Cluster::new("ptv2d");
    cluster.serve(0, 1, "127.0.0.1:0");
    cluster.worker(1, &[]);
    let joined = ids(&cluster);
    let file = cluster.state().join("worker-token");
    let old = secret(&file);
    let tokens = cluster.json(&["token", "list"]);
    let tokens = tokens.as_array().unwrap();
    let own = tokens.iter().find(|one| one["file"] == "worker-token").unwrap();
    assert_eq!(code(&cluster.ctl(&["token", "revoke", own["id"].as_str().unwrap()])), 0);
    assert_ne!(secret(&file), old);
    let joins = || {
        let audit = cluster.json(&["audit"]);
        let events = audit.as_array().unwrap().clone();
        let own = |event: &&Value| {
            event["action"] == "worker joined" && event["subject"] == joined[0].as_str()
        };
        events.iter().filter(own).count()
    };
    poll("the worker's return by the new token", || {
        (joins() == 2 && ids(&cluster) == joined).then_some(())
    });
}

/// Says hello as the worker of an id, with the workers' token and a secret of its own; the first answer.
fn dial(cluster: &Cluster, id: &str) -> Option<ToWorker> {
    let hello = hello(id);
    let url = format!("ws://{}/v1/session", cluster.listen());
    let token = secret(&cluster.state().join("worker-token"));
    let talk = async move {
        let mut request = url.into_client_request().unwrap();
        let bearer = http::HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
        let session = http::HeaderValue::from_str(&"5".repeat(64)).unwrap();
        request.headers_mut().insert(SESSION_HEADER, session);
        let (mut socket, _) = tokio_tungstenite::connect_async(request).await.unwrap();
        let envelope = Envelope { seq: None, message: FromWorker::Hello(hello) };
        let text = serde_json::to_string(&envelope).unwrap();
        socket.send(Message::Text(text.into())).await.unwrap();
        loop {
            match socket.next().await {
                Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).ok(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return None,
            }
        }
    };
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(talk)
}
