//! Sees where the hub's URLs lead before Hugging Face's library follows them. A hub redirects to other hosts for
//! large files, and the library follows wherever to; it is asked here that none of them is where machines are
//! handed credentials.

use ptv2_common::error::Explained;
use ptv2_common::hosts;
use ureq::Agent;
use ureq::config::{Config, RedirectAuthHeaders};
use ureq::http::{Response, Uri};
use ureq::tls::{TlsConfig, TlsProvider};
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{DefaultConnector, NextTimeout};

/// A client that connects to no refused address, by whatever name and after however many redirects.
#[derive(Debug)]
pub(super) struct Guard {
    agent: Agent,
    authorization: Option<String>,
}

impl Guard {
    pub(super) fn new(token: Option<&str>) -> Self {
        let config = Agent::config_builder()
            .tls_config(TlsConfig::builder().provider(TlsProvider::Rustls).build())
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .build();
        let agent = Agent::with_parts(config, DefaultConnector::default(), Names::default());
        Self { agent, authorization: token.map(|token| format!("Bearer {token}")) }
    }

    /// Gets an answer. A refusal is an [`Explained`] in [`ureq::Error::Other`].
    pub(super) fn get(
        &self,
        url: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<ureq::Body>, ureq::Error> {
        let mut request = self.agent.get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        request.call()
    }

    /// Refuses a URL that leads to a refused host. What else is wrong with it, its use will tell.
    ///
    /// # Errors
    /// Names the host.
    pub(super) fn check(&self, url: &str) -> Result<(), Explained> {
        match self.get(url, &[("range", "bytes=0-0")]) {
            Err(error) => refusal(&error).map_or(Ok(()), Err),
            Ok(_) => Ok(()),
        }
    }
}

/// The refusal in an error, if it is one.
pub(super) fn refusal(error: &ureq::Error) -> Option<Explained> {
    let ureq::Error::Other(error) = error else { return None };
    error.downcast_ref::<Explained>().cloned()
}

/// Looks up names, and refuses those that stand for a refused address at this moment.
#[derive(Debug, Default)]
struct Names(DefaultResolver);

impl Resolver for Names {
    fn resolve(
        &self,
        uri: &Uri,
        config: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let refused = |error: Explained| ureq::Error::Other(Box::new(error));
        let host = uri.host().unwrap_or_default();
        hosts::check_host("the hub, or where it leads,", host).map_err(refused)?;
        let found = self.0.resolve(uri, config, timeout)?;
        let addresses = found.iter().map(std::net::SocketAddr::ip);
        hosts::check_addresses("the hub, or where it leads,", host, addresses).map_err(refused)?;
        Ok(found)
    }
}
