//! Who may do what: each route of the API's own description, with each kind of token there is. A route that
//! is new is in the description, and so in this test.

use super::Target;
use super::http::{Answer, Request};
use ptv2_common::access::Scope;

/// Methods that are tried on each path.
const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "BREW"];

/// A route as it is described.
#[derive(Debug, Clone)]
pub(super) struct Route {
    pub(super) method: String,
    /// With its parameters in braces.
    pub(super) path: String,
    /// What a token must be good for; nothing where none is needed.
    pub(super) scope: Option<Scope>,
    /// Names of its parameters in the query.
    pub(super) query: Vec<String>,
}

impl Route {
    /// The path with something in place of each parameter.
    pub(super) fn filled(&self, with: impl Fn(usize, &str) -> String) -> String {
        let parts = self.path.split('/').enumerate().map(|(at, part)| {
            match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some(name) => with(at, name),
                None => part.to_owned(),
            }
        });
        parts.collect::<Vec<_>>().join("/")
    }

    /// The path of something that is not there.
    fn of_nothing(&self) -> String {
        self.filled(|_, name| match name {
            "which" => "last".into(),
            "sha256" => "0".repeat(64),
            _ => "nothing-here".into(),
        })
    }
}

/// All routes that the coordinator says it has.
pub(super) fn routes(target: &Target) -> Vec<Route> {
    let document = target.get("/v1/openapi.json").json();
    let mut found = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let scope = operation
                .get("security")
                .map(|needed| needed[0]["token"][0].as_str().unwrap().parse().unwrap());
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let query = parameters.filter(|one| one["in"] == "query");
            let query = query.map(|one| one["name"].as_str().unwrap().to_owned()).collect();
            found.push(Route { method: method.to_uppercase(), path: path.clone(), scope, query });
        }
    }
    assert!(found.len() > 20, "{found:?}");
    found
}

/// Each route with each token: what comes back is what its `security` says.
pub(super) fn scopes(target: &Target) {
    let [none_alike, bad] = bad_tokens(target);
    let mut tried = 0;
    for route in routes(target) {
        let ask = |headers: &[String]| {
            let mut request = Request::new(&route.method, &route.of_nothing());
            for value in headers {
                request = request.with("authorization", value);
            }
            target.ask(&if route.method == "GET" { request.bytes() } else { request.json("{}") })
        };
        let mut said = Vec::new();
        for headers in none_alike.iter().chain(&bad) {
            let answer = ask(headers);
            let is_open = route.scope.is_none();
            assert_eq!(answer.status == 401, !is_open, "{route:?} {headers:?}: {answer:?}");
            said.push(answer.text());
            tried += 1;
        }
        // Nobody learns whether a token was good once.
        assert!(said.windows(2).all(|pair| pair[0] == pair[1]), "{route:?}: {said:?}");
        for scope in Scope::ALL {
            let answer = ask(&[format!("Bearer {}", target.token(scope))]);
            let expected = route.scope.is_none_or(|needed| scope.allows(needed));
            is_allowed(&route, scope, &answer, expected);
            tried += 1;
        }
    }
    println!("{tried} requests with every kind of token");
}

fn is_allowed(route: &Route, scope: Scope, answer: &Answer, expected: bool) {
    match expected {
        true => {
            assert!(!matches!(answer.status, 401 | 403), "{scope} {route:?}: {answer:?}");
            assert!(answer.status < 500, "{scope} {route:?}: {answer:?}");
        }
        false => assert_eq!(answer.status, 403, "{scope} {route:?}: {answer:?}"),
    }
    if answer.status >= 400 && answer.status != 405 {
        let kind = answer.header("content-type");
        assert_eq!(kind, Some("application/problem+json"), "{route:?}: {answer:?}");
    }
}

/// Headers that prove nothing: some of tokens that are none, or are none any more; and malformed ones.
fn bad_tokens(target: &Target) -> [Vec<Vec<String>>; 2] {
    let good = target.token(Scope::Admin);
    let bearer = |token: &str| vec![format!("Bearer {token}")];
    let revoked = target.made("{\"name\": \"revoked\", \"scope\": \"admin\"}");
    let expired = target.made("{\"name\": \"expired\", \"scope\": \"admin\", \"expires_s\": 1}");
    let listed = target.get("/v1/tokens").json();
    let listed = listed.as_array().unwrap().iter().find(|token| token["name"] == "revoked");
    let path = format!("/v1/tokens/{}", listed.unwrap()["id"].as_str().unwrap());
    let delete = Request::new("DELETE", &path).token(&target.cluster.token());
    assert_eq!(target.ask(&delete.bytes()).status, 200);
    crate::e2e::harness::poll("the token's end", || {
        let answer = target.ask(&Request::new("GET", "/v1/jobs").token(&expired).bytes());
        (answer.status == 401).then_some(())
    });
    let other: String = good.chars().rev().collect();
    let none = vec![Vec::new(), bearer(&other), bearer(&revoked), bearer(&expired)];
    let malformed = [
        format!("Basic {good}"),
        good.to_owned(),
        "Bearer".to_owned(),
        "Bearer ".to_owned(),
        format!("Bearer{good}"),
        format!("Bearer {}", &good[1..]),
        format!("Bearer {}", &good[..good.len() - 1]),
        format!("Bearer {good}x"),
        format!("Bearer {good},{good}"),
        format!("Bearer \"{good}\""),
        format!("Bearer {}", good.to_uppercase()),
        "Bearer \u{fc}\u{202e}".to_owned(),
        format!("Bearer {}", "a".repeat(8000)),
    ];
    let mut malformed: Vec<Vec<String>> = malformed.into_iter().map(|one| vec![one]).collect();
    // Of two, one is wrong.
    malformed.push(vec![format!("Bearer {other}"), format!("Bearer {good}")]);
    [none, malformed]
}

/// Methods that a path does not have do nothing.
pub(super) fn methods(target: &Target) {
    let routes = routes(target);
    for route in &routes {
        let listed = |method: &str| {
            let method = if method == "HEAD" { "GET" } else { method };
            routes.iter().any(|other| other.path == route.path && other.method == method)
        };
        for method in METHODS.into_iter().filter(|method| !listed(method)) {
            for token in [target.token(Scope::Admin), target.token(Scope::Worker), "none"] {
                let request = Request::new(method, &route.of_nothing()).token(token);
                let answer = target.ask(&request.bytes());
                let is_refused = matches!(answer.status, 400 | 401 | 403 | 404 | 405);
                assert!(is_refused, "{method} {}: {answer:?}", route.path);
            }
        }
    }
}

/// Paths that are not described are not there.
pub(super) fn others(target: &Target) {
    let paths = [
        "/",
        "/v1",
        "/v1/",
        "/v1/jobs/",
        "/v1//jobs",
        "//v1/jobs",
        "/V1/jobs",
        "/v1/JOBS",
        "/v1/jobs;a=b",
        "/%76%31/jobs",
        "/v1%2fjobs",
        "/v1/jobs%00",
        "/v1/jobs/../jobs",
        "/v1/./jobs",
        "/healthz/../v1/jobs",
        "/healthz/..%2fv1%2fjobs",
        "/healthz%2f..%2fv1/jobs",
        "/v1/jobs.json",
        "/v1/job",
        "/v2/jobs",
        "/token",
        "/state/token",
        "/worker-token",
        "/journal.sqlite",
        "/.env",
        "/.git/config",
        "/debug/pprof",
        "/admin",
        "/v1/admin",
        "/v1/kill",
        "/v1/exec",
        "/v1/workers/",
        "/v1/tokens/",
        "/openapi.json",
        "/favicon.ico",
        "*",
    ];
    for path in paths {
        for token in [target.token(Scope::Admin), "none"] {
            for method in ["GET", "POST", "DELETE", "OPTIONS"] {
                let answer = target.ask(&Request::new(method, path).token(token).bytes());
                let is_refused = matches!(answer.status, 400 | 401 | 404 | 405);
                assert!(is_refused, "{method} {path}: {answer:?}");
                target.is_harmless(&answer, path);
            }
        }
    }
}
