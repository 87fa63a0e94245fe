//! Whom a request is meant for. A page in a browser on this machine may reach loopback under a name of its
//! own (DNS rebinding); such a request is told by its `Host`, and one of another page by its `Origin`.

use super::problem::Refusal;
use super::{Shared, auth};
use crate::clock::millis;
use crate::coordinator::audit;
use axum::extract::{Request, State};
use axum::http::header::{HOST, ORIGIN};
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use ptv2_common::access::AuditEvent;
use std::net::{IpAddr, SocketAddr};

/// Names of parameters that would bear a token.
const TOKENS: [&str; 2] = ["token", "access_token"];

/// The names that a coordinator answers to.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    /// Whether it listens where only this machine reaches it, and so answers to few names.
    is_loopback: bool,
    /// Names besides those of loopback.
    names: Vec<String>,
}

impl Hosts {
    /// Of a coordinator that listens there, and has these names besides.
    pub fn of(listen: SocketAddr, names: &[String]) -> Self {
        let names = names.iter().map(|name| name.to_ascii_lowercase()).collect();
        Self { is_loopback: listen.ip().is_loopback(), names }
    }

    /// Whether a request for this host is for this coordinator. The port is no matter: a tunnel has its own.
    fn answers_to(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        !self.is_loopback
            || host == "localhost"
            || address.is_ok_and(|address| address.is_loopback())
            || self.names.contains(&host)
    }
}

/// Refuses a request that is meant for another host, comes from another site's page, or bears a token in
/// its address.
pub(super) async fn check(State(edge): State<Shared>, request: Request, next: Next) -> Response {
    let Err(refusal) = passes(&edge.hosts, &request) else { return next.run(request).await };
    let event = AuditEvent {
        remote: auth::remote(request.extensions()),
        subject: Some(request.uri().path().to_owned()),
        outcome: refusal.code().to_owned(),
        ..audit::new(request.method().as_str(), millis(edge.clock.elapsed()))
    };
    edge.audit.refused(event).await;
    refusal.into_response()
}

fn passes(hosts: &Hosts, request: &Request) -> Result<(), Refusal> {
    // It would end in logs and histories. Only a header may bear one.
    let query = request.uri().query().unwrap_or_default();
    let is_token = |name: &str| TOKENS.into_iter().any(|word| name.eq_ignore_ascii_case(word));
    if url::form_urlencoded::parse(query.as_bytes()).any(|(name, _)| is_token(&name)) {
        return Err(Refusal::token_in_url());
    }
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    // HTTP/2 has it in the address.
    let host = request.uri().authority().map(Authority::as_str).or_else(|| header(HOST));
    let authority = host.and_then(|host| host.parse::<Authority>().ok());
    let Some(authority) = authority else { return Err(Refusal::no_host()) };
    if !hosts.answers_to(authority.host()) {
        return Err(Refusal::foreign_host(authority.host()));
    }
    if request.headers().contains_key(ORIGIN) && !is_own(header(ORIGIN), &authority) {
        return Err(Refusal::foreign_origin());
    }
    Ok(())
}

/// Whether a page's origin is the very host that it asks.
fn is_own(origin: Option<&str>, host: &Authority) -> bool {
    let rest = origin.and_then(|origin| {
        origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"))
    });
    rest.is_some_and(|rest| rest.eq_ignore_ascii_case(host.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_listener_answers_to_loopback_and_its_own_names() {
        let hosts = Hosts::of(([127, 0, 0, 1], 1).into(), &["Train.example".into()]);
        for own in ["localhost", "LOCALHOST", "localhost.", "127.0.0.1", "127.8.8.8", "[::1]"] {
            assert!(hosts.answers_to(own), "{own}");
        }
        assert!(hosts.answers_to("train.EXAMPLE"));
        for foreign in
            ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.nip.io", ""]
        {
            assert!(!hosts.answers_to(foreign), "{foreign}");
        }
        let open = Hosts::of(([0, 0, 0, 0], 1).into(), &[]);
        assert!(open.answers_to("node-7"), "others reach it by names that it does not know");
    }

    #[test]
    fn a_token_in_the_address_is_refused_whatever_else_is_right() {
        let hosts = Hosts::of(([127, 0, 0, 1], 1).into(), &[]);
        let code = |address: &str| {
            let request = Request::builder().uri(address).header(HOST, "localhost");
            passes(&hosts, &request.body(axum::body::Body::empty()).unwrap())
                .err()
                .map(|r| r.code())
        };
        assert_eq!(code("/v1/jobs?limit=1"), None);
        for name in ["token", "access_token", "TOKEN", "%74oken"] {
            assert_eq!(code(&format!("/v1/jobs?limit=1&{name}=x")), Some("token_in_url"), "{name}");
        }
    }

    #[test]
    fn an_origin_is_own_or_foreign() {
        let host = Authority::from_static("localhost:7341");
        assert!(is_own(Some("http://localhost:7341"), &host));
        assert!(is_own(Some("https://LOCALHOST:7341"), &host));
        for foreign in ["null", "http://localhost", "http://evil.example", "file://", ""] {
            assert!(!is_own(Some(foreign), &host), "{foreign}");
        }
        assert!(!is_own(None, &host), "no text");
    }
}
