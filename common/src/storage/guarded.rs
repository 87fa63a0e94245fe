//! How stores in clouds are connected to: as their library does it, but neither a redirect nor a name leads to
//! an address where machines are handed credentials.
//!
//! The library itself looks for a machine's own credentials there, by address or by the metadata service's
//! name. That it may: no endpoint and no redirect is let through that is one.

use super::words::failed;
use crate::hosts;
use object_store::client::{ClientOptions, HttpClient, HttpConnector};
use object_store::{ClientConfigKey as Key, Result};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::redirect::{Action, Attempt, Policy};
use reqwest::{Certificate, ClientBuilder, NoProxy, Proxy};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Makes the clients of stores.
#[derive(Debug)]
pub(super) struct Guarded;

impl HttpConnector for Guarded {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let options = Options(options);
        let builder = options.proxy(ClientBuilder::new())?;
        let builder = options.waits(builder)?;
        let client = options
            .versions(builder)?
            .user_agent(options.text(Key::UserAgent).unwrap_or_else(|| "ptv2".into()))
            .danger_accept_invalid_certs(options.is_on(Key::AllowInvalidCertificates)?)
            .https_only(!options.is_on(Key::AllowHttp)?)
            .redirect(Policy::custom(follow))
            .dns_resolver(Arc::new(Names))
            // An object's length is the answer's.
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate()
            .build();
        client.map(HttpClient::new).map_err(|error| failed(format!("no HTTP client: {error}")))
    }
}

/// Goes on where the library would, unless it leads to a refused host.
fn follow(attempt: Attempt<'_>) -> Action {
    match hosts::check_parsed("the target of a redirect", attempt.url()) {
        Ok(()) => Policy::default().redirect(attempt),
        Err(refusal) => attempt.error(refusal),
    }
}

/// Looks up names, and refuses those that stand for a refused address at this moment.
struct Names;

impl Resolve for Names {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let name = name.as_str();
            let mut found: Vec<SocketAddr> = tokio::net::lookup_host((name, 0)).await?.collect();
            if !hosts::is_metadata(name) {
                hosts::check_addresses("the store", name, found.iter().map(SocketAddr::ip))?;
            }
            if let Some(count) = u64::try_from(found.len()).ok().filter(|count| *count > 0) {
                // The servers behind one name share the work.
                let first = RandomState::new().build_hasher().finish() % count;
                found.rotate_left(usize::try_from(first)?);
            }
            Ok(Box::new(found.into_iter()) as Addrs)
        })
    }
}

/// What the environment and our settings have said of the client, which the library keeps as texts.
struct Options<'a>(&'a ClientOptions);

impl Options<'_> {
    fn text(&self, key: Key) -> Option<String> {
        self.0.get_config_value(&key)
    }

    fn is_on(&self, key: Key) -> Result<bool> {
        match self.text(key).unwrap_or_default().to_ascii_lowercase().as_str() {
            "1" | "true" | "on" | "yes" | "y" => Ok(true),
            "0" | "false" | "off" | "no" | "n" | "" => Ok(false),
            other => Err(failed(format!("{} is `{other}`, not true or false", key.as_ref()))),
        }
    }

    fn time(&self, key: Key) -> Result<Option<Duration>> {
        let parse = |text: String| {
            humantime::parse_duration(&text)
                .map_err(|error| failed(format!("{} is `{text}`: {error}", key.as_ref())))
        };
        self.text(key).map(parse).transpose()
    }

    fn number<T: std::str::FromStr>(&self, key: Key) -> Result<Option<T>> {
        let parse = |text: String| {
            text.parse().map_err(|_| failed(format!("{} is `{text}`, no number", key.as_ref())))
        };
        self.text(key).map(parse).transpose()
    }

    fn proxy(&self, mut builder: ClientBuilder) -> Result<ClientBuilder> {
        let unusable = |error: reqwest::Error| failed(format!("the proxy cannot be used: {error}"));
        if self.is_on(Key::NoSystemCertificates)? {
            builder = builder.tls_certs_only([]);
        }
        let Some(url) = self.text(Key::ProxyUrl) else { return Ok(builder) };
        if let Some(pem) = self.text(Key::ProxyCaCertificate) {
            let certificate = Certificate::from_pem(pem.as_bytes()).map_err(unusable)?;
            builder = builder.tls_certs_merge([certificate]);
        }
        let without = self.text(Key::ProxyExcludes).and_then(|hosts| NoProxy::from_string(&hosts));
        Ok(builder.proxy(Proxy::all(url).map_err(unusable)?.no_proxy(without)))
    }

    fn waits(&self, mut builder: ClientBuilder) -> Result<ClientBuilder> {
        if let Some(time) = self.time(Key::Timeout)? {
            builder = builder.timeout(time);
        }
        if let Some(time) = self.time(Key::ConnectTimeout)? {
            builder = builder.connect_timeout(time);
        }
        if let Some(time) = self.time(Key::ReadTimeout)? {
            builder = builder.read_timeout(time);
        }
        if let Some(time) = self.time(Key::PoolIdleTimeout)? {
            builder = builder.pool_idle_timeout(time);
        }
        if let Some(count) = self.number(Key::PoolMaxIdlePerHost)? {
            builder = builder.pool_max_idle_per_host(count);
        }
        Ok(builder)
    }

    fn versions(&self, mut builder: ClientBuilder) -> Result<ClientBuilder> {
        if self.is_on(Key::Http1Only)? {
            builder = builder.http1_only();
        }
        if self.is_on(Key::Http2Only)? {
            builder = builder.http2_prior_knowledge();
        }
        if let Some(time) = self.time(Key::Http2KeepAliveInterval)? {
            builder = builder.http2_keep_alive_interval(time);
        }
        if let Some(time) = self.time(Key::Http2KeepAliveTimeout)? {
            builder = builder.http2_keep_alive_timeout(time);
        }
        if self.is_on(Key::Http2KeepAliveWhileIdle)? {
            builder = builder.http2_keep_alive_while_idle(true);
        }
        Ok(builder.http2_max_frame_size(self.number(Key::Http2MaxFrameSize)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_stands_for() {
        let resolve = |name: &str| Names.resolve(name.parse().unwrap());
        assert!(resolve("localhost").await.unwrap().count() > 0);
        // The system's resolver takes an address for the name of itself.
        let refusal = resolve("169.254.169.254").await.map(|_| ()).unwrap_err().to_string();
        assert!(refusal.contains("which is 169.254.169.254"), "{refusal}");
    }

    #[test]
    fn what_the_environment_says_of_the_client_is_read_or_refused() {
        crate::tls::install_provider();
        let with = |key: Key, value: &str| {
            Guarded.connect(&ClientOptions::new().with_config(key, value)).map(|_| ())
        };
        for (key, good, bad) in [
            (Key::AllowHttp, "on", "perhaps"),
            (Key::AllowInvalidCertificates, "No", "2"),
            (Key::Http1Only, "1", "one"),
            (Key::ConnectTimeout, "1500ms", "soon"),
            (Key::ReadTimeout, "1m", "-1s"),
            (Key::PoolMaxIdlePerHost, "4", "four"),
            (Key::Http2MaxFrameSize, "16384", "x"),
            (Key::ProxyUrl, "http://127.0.0.1:9", "http://[::1"),
        ] {
            with(key, good).unwrap();
            let error = with(key, bad).unwrap_err().to_string();
            assert!(error.contains(key.as_ref()) || error.contains("proxy"), "{error}");
        }
    }
}
