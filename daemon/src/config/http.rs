//! Bounds on what those who talk to the coordinator may cost it.

use ptv2_common::error::Explained;
use serde::{Deserialize, Serialize};
use std::num::NonZeroU32;
use std::time::Duration;

/// The least head of a request that the HTTP library can be bound to, in bytes.
const LEAST_HEAD: usize = 8192;

/// Bounds on connections and requests. A slow or greedy client meets one of them; training meets none, since
/// no step waits for the API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpConfig {
    /// Open connections in all, those of workers among them. Beyond, a new one takes the place of the one
    /// that has been without a request for longest, or is closed if all are at work. A connection costs about
    /// 10 KiB, with TLS 40 KiB.
    pub connections_max: u32,
    /// The same from one address; of IPv6 one network of 64 bits counts as one.
    pub connections_per_address: u32,
    /// A TLS handshake must end within this time.
    #[serde(with = "super::duration")]
    pub handshake_timeout: Duration,
    /// A request's head must have come within this time after the connection was made, or after the last
    /// answer on it: slow writers and idle connections are closed.
    #[serde(with = "super::duration")]
    pub head_timeout: Duration,
    /// Bytes of a request's head, 8192 at least; beyond, it is refused with 431.
    pub head_bytes_max: usize,
    /// Headers of a request; beyond, it is refused with 431.
    pub headers_max: usize,
    /// Bytes of a request's body; beyond, it is refused with 413, before it is read where its length is
    /// told.
    pub body_bytes_max: usize,
    /// A body must have come within this time, or the request is refused with 408.
    #[serde(with = "super::duration")]
    pub body_timeout: Duration,
    /// Bytes of bodies that have come, and of answers above 16 KiB that nobody has read yet, each of all requests
    /// together; beyond, requests are refused with 503.
    pub held_bytes_max: u32,
    /// A request must be answered within this time, or is given up with 503. A submit, which reads a
    /// backbone's files, may need minutes.
    #[serde(with = "super::duration")]
    pub answer_timeout: Duration,
    /// Whoever takes nothing of an answer for this long is cut off; a follower goes on where it was.
    #[serde(with = "super::duration")]
    pub write_timeout: Duration,
    /// Followers of events and logs in all; beyond, 503.
    pub streams_max: usize,
    /// The same of one token; beyond, 429.
    pub streams_per_token: usize,
    /// Requests a second of one token, over a longer time; beyond, 429.
    pub requests_per_second: NonZeroU32,
    /// Requests of one token at once.
    pub requests_burst: NonZeroU32,
    /// Requests a minute without a valid token that one address is answered with 401; beyond, 429, and the
    /// connection is closed. Who has a valid token is not held up by this.
    pub refusals_per_minute: NonZeroU32,
}

impl Default for HttpConfig {
    fn default() -> Self {
        let count = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        Self {
            connections_max: 4096,
            connections_per_address: 2048,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(15),
            head_bytes_max: 32 << 10,
            headers_max: 100,
            body_bytes_max: 1 << 20,
            body_timeout: Duration::from_secs(30),
            held_bytes_max: 8 << 20,
            answer_timeout: Duration::from_secs(600),
            write_timeout: Duration::from_secs(30),
            streams_max: 1024,
            streams_per_token: 256,
            requests_per_second: count(100),
            requests_burst: count(400),
            refusals_per_minute: count(60),
        }
    }
}

impl HttpConfig {
    /// Refuses bounds that nobody could keep.
    ///
    /// # Errors
    /// Names the key.
    pub fn check(&self) -> Result<(), Explained> {
        let least = |key: &str, value: usize, least: usize| match value >= least {
            true => Ok(()),
            false => Err(Explained::new(format!("`http.{key}` is {value}"))
                .at(format!("http.{key}"))
                .expected(format!("{least} or more"))),
        };
        least("connections_max", self.connections_max as usize, 1)?;
        least("connections_per_address", self.connections_per_address as usize, 1)?;
        least("head_bytes_max", self.head_bytes_max, LEAST_HEAD)?;
        least("headers_max", self.headers_max, 16)?;
        least("body_bytes_max", self.body_bytes_max, 1 << 10)?;
        least("held_bytes_max", self.held_bytes_max as usize, self.body_bytes_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_that_nobody_could_keep_are_refused() {
        HttpConfig::default().check().unwrap();
        let check = |text: &str, at: &str| {
            let config: HttpConfig = toml::from_str(text).unwrap();
            assert_eq!(config.check().unwrap_err().place.unwrap(), at);
        };
        check("connections_max = 0", "http.connections_max");
        check("head_bytes_max = 100", "http.head_bytes_max");
        check("held_bytes_max = 1000", "http.held_bytes_max");
        assert!(toml::from_str::<HttpConfig>("requests_per_second = 0").is_err());
    }
}
