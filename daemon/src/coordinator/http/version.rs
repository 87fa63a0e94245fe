//! Versions are exchanged: each answer says the coordinator's, and a worker of another protocol is told
//! why it is refused, however its first message looks.

use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use ptv2_common::api::VERSION_HEADER;
use ptv2_common::error::Explained;
use ptv2_common::session::{self, PROTOCOL};
use serde::Deserialize;

/// Says the coordinator's version.
pub(super) async fn tell(mut answer: Response) -> Response {
    let version = HeaderValue::from_static(ptv2_common::VERSION);
    answer.headers_mut().insert(HeaderName::from_static(VERSION_HEADER), version);
    answer
}

/// What every version's hello has said.
#[derive(Deserialize)]
struct AnyEnvelope {
    message: AnyHello,
}

#[derive(Deserialize)]
struct AnyHello {
    protocol: u32,
    version: String,
}

/// Why a worker whose hello cannot be read is refused, if it is one of another protocol.
pub(super) fn foreign_hello(text: &str) -> Option<Explained> {
    let AnyEnvelope { message: AnyHello { protocol, version } } =
        serde_json::from_str(text).ok()?;
    (protocol != PROTOCOL).then(|| session::other_protocol("this worker", &version, protocol))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_of_another_protocol_is_understood_that_far() {
        let text = r#"{"message":{"type":"hello","protocol":999,"version":"9.9.9","new":[1]}}"#;
        let error = foreign_hello(text).unwrap();
        assert!(error.what.contains("ptv2 9.9.9 and speaks protocol 999"), "{error:?}");
        let own = format!(r#"{{"message":{{"protocol":{PROTOCOL},"version":"x","new":1}}}}"#);
        assert!(foreign_hello(&own).is_none(), "damaged, and not of another version");
        assert!(foreign_hello("[]").is_none());
    }
}
