//! Names that would lead elsewhere, in each place that takes a name: paths, queries, bodies, headers.

use super::hostile::tricks;
use super::http::{self, Request, encoded};
use super::routes::{self, Route};
use super::{Effort, Target};
use crate::e2e::harness::{superglue, tiny_cb};
use ptv2_common::access::Scope;
use ptv2_common::spec::JobSpec;
use serde_json::{Value, json};

/// Keys of a job whose values are names of files or of tasks: no trick is one.
const PLACES: [&str; 4] = ["/backbone/path", "/data/root", "/init/adapter", "/task"];

fn token(target: &Target, route: &Route) -> String {
    target.token(route.scope.unwrap_or(Scope::Read)).to_owned()
}

/// Each parameter of each path.
pub(super) fn paths(target: &Target, effort: Effort) {
    let mut tried = 0;
    for route in routes::routes(target) {
        let parameters =
            route.path.split('/').enumerate().filter(|(_, part)| part.starts_with('{'));
        for (parameter, _) in parameters {
            for (name, text) in tricks() {
                let mut forms = vec![encoded(&text)];
                if effort == Effort::Full {
                    // As it is, though it be no address.
                    forms.push(text.clone());
                    forms.push(encoded(&encoded(&text)));
                }
                for form in forms {
                    let path = route.filled(|at, name| match name {
                        _ if at == parameter => form.clone(),
                        "job" => target.job.clone(),
                        "which" => "last".into(),
                        _ => "0".repeat(64),
                    });
                    let request = Request::new(&route.method, &path).token(&token(target, &route));
                    let bytes =
                        if route.method == "GET" { request.bytes() } else { request.json("{}") };
                    tried += 1;
                    // The connection may just end, where this is no request.
                    let Some(answer) = http::ask(target.address, &bytes) else { continue };
                    let asked = format!("{} {}: {name}", route.method, route.path);
                    assert!((400..500).contains(&answer.status), "{asked}: {answer:?}");
                    target.is_harmless(&answer, &asked);
                }
            }
        }
    }
    println!("{tried} names in paths");
}

/// Each parameter of each query. The job is there, so nothing that would end it is asked.
pub(super) fn queries(target: &Target) {
    let mut tried = 0;
    for route in routes::routes(target).into_iter().filter(|route| route.method == "GET") {
        let path = route.filled(|_, name| match name {
            "which" => "last".into(),
            _ => target.job.clone(),
        });
        for parameter in route.query.iter().map(String::as_str).chain(["unknown", "token"]) {
            for (name, text) in tricks() {
                let path = format!("{path}?{parameter}={}", encoded(&text));
                let request = Request::new("GET", &path).token(&token(target, &route));
                let answer = target.ask(&request.bytes());
                let asked = format!("{} {}?{parameter}: {name}", route.method, route.path);
                target.is_harmless(&answer, &asked);
                assert!(parameter != "token" || answer.status >= 400, "{asked}: {answer:?}");
                tried += 1;
            }
        }
    }
    println!("{tried} values in queries");
}

/// A job that would be accepted.
pub(super) fn spec() -> Value {
    let data = superglue().unwrap();
    serde_json::to_value(JobSpec::from_toml(&tiny_cb(&data, "")).unwrap()).unwrap()
}

/// Each key of a job.
pub(super) fn specs(target: &Target, effort: Effort) {
    let valid = spec();
    assert_eq!(plan(target, &valid).status, 200, "the job to be changed is valid");
    let named = ["/name", "/task", "/backbone/path", "/data/root", "/init/adapter"];
    let mut keys: Vec<String> = named.map(str::to_owned).to_vec();
    if effort == Effort::Full {
        keys = leaves("", &valid);
        assert!(keys.len() > 30, "{keys:?}");
    }
    for key in &keys {
        for (name, text) in tricks() {
            let mut changed = valid.clone();
            set(&mut changed, key, text.into());
            let answer = plan(target, &changed);
            let asked = format!("{key}: {name}");
            target.is_harmless(&answer, &asked);
            let is_place = PLACES.contains(&key.as_str());
            assert!(!is_place || answer.status == 422, "{asked}: {answer:?}");
        }
    }
    println!("{} names in {} keys of a job", keys.len() * tricks().len(), keys.len());
}

fn plan(target: &Target, spec: &Value) -> http::Answer {
    let body = json!({"spec": spec}).to_string();
    target.ask(&Request::new("POST", "/v1/plan").token(target.token(Scope::Submit)).json(&body))
}

/// Sets what a pointer leads to, whether it is there or not.
fn set(value: &mut Value, pointer: &str, to: Value) {
    let keys = pointer.split('/').skip(1);
    *keys.fold(value, |value, key| &mut value[key]) = to;
}

/// Pointers to all values that are neither objects nor lists.
fn leaves(path: &str, value: &Value) -> Vec<String> {
    match value {
        Value::Object(parts) => {
            parts.iter().flat_map(|(key, part)| leaves(&format!("{path}/{key}"), part)).collect()
        }
        Value::Array(_) | Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {
            vec![path.to_owned()]
        }
    }
}

/// Names in the bodies of all other requests. Where one is accepted, it is shown as it was given.
pub(super) fn other_bodies(target: &Target) {
    let source =
        |job: &str, checkpoint: &str| json!({"job": {"job": job, "checkpoint": checkpoint}});
    for (name, text) in tricks() {
        let score =
            |source: Value, split: &str| json!({"source": source, "split": split, "labels": true});
        let trick = text.as_str();
        let bodies = [
            ("/v1/scores", Scope::Submit, score(source(trick, "last"), "val")),
            ("/v1/scores", Scope::Submit, score(source(&target.job, trick), "val")),
            ("/v1/scores", Scope::Submit, score(source(&target.job, "last"), trick)),
            ("/v1/scores", Scope::Submit, score(json!({"adapter": trick}), "val")),
            ("/v1/tokens", Scope::Admin, json!({"name": trick, "scope": "read", "expires_s": 1})),
            ("/v1/tokens", Scope::Admin, json!({"name": "x", "scope": trick})),
            ("/v1/jobs", Scope::Submit, json!({"spec": {"name": trick}, "idempotency_key": trick})),
        ];
        for (path, scope, body) in bodies {
            let request = Request::new("POST", path).token(target.token(scope));
            let answer = target.ask(&request.json(&body.to_string()));
            let asked = format!("{path}: {name}");
            target.is_harmless(&answer, &asked);
            assert!(path == "/v1/tokens" || answer.status >= 400, "{asked}: {answer:?}");
        }
    }
    for path in ["/v1/tokens", "/v1/audit?limit=1000", "/v1/jobs", "/metrics"] {
        let answer = target.get(path);
        assert_eq!(answer.status, 200, "{path}");
        let steers = answer.body.iter().any(|byte| byte.is_ascii_control() && *byte != b'\n');
        assert!(!steers, "{path}: {}", answer.text());
    }
}

/// Names in headers: what is no header at all, whom a request says it is for, where it goes on.
pub(super) fn headers(target: &Target) {
    let ask = |name: &str, value: &str| {
        let path = format!("/v1/jobs/{}/events", target.job);
        let request = Request::new("GET", &path).token(target.token(Scope::Read));
        http::ask(target.address, &request.with(name, value).bytes())
    };
    for (name, text) in tricks() {
        for header in
            ["last-event-id", "range", "user-agent", "x-forwarded-for", "origin", "accept"]
        {
            // What ends a line ends the header, and what follows is another or nothing.
            let Some(answer) = ask(header, &text.replace("\r\n\r\n", "\r\n")) else { continue };
            target.is_harmless(&answer, &format!("{header}: {name}"));
        }
    }
    for host in
        ["evil.example", "localhost.evil.example", "169.254.169.254", "", "a b", "[::1", "@"]
    {
        let bytes = format!(
            "GET /v1/jobs HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {}\r\n\
             connection: close\r\n\r\n",
            target.token(Scope::Read)
        );
        let answer = target.ask(bytes.as_bytes());
        assert!(matches!(answer.status, 400 | 403), "{host}: {answer:?}");
    }
}
