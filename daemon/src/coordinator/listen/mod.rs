//! Listening: connections, TLS, and the bounds of both. Requests are bounded in `http/gate.rs`.

mod certificates;
mod connection;
mod connections;
mod files;
mod names;
mod own_ca;
mod patient;

pub(super) use connection::{Held, PART};
pub(super) use connections::whose;

use crate::config::{CoordinatorConfig, HttpConfig};
use axum::Router;
use certificates::Certificates;
use connection::Serving;
use connections::Connections;
use ptv2_common::error::Explained;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Pause after a connection could not be taken: the system is short of something.
const PAUSE: Duration = Duration::from_millis(50);
/// How often it is said that nothing is encrypted where other machines listen.
const WARNED: Duration = Duration::from_secs(600);
/// Files that the coordinator may have open besides connections.
const OTHER_FILES: u64 = 512;

/// An address that is listened on.
pub(super) struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    certificates: Option<Certificates>,
    http: HttpConfig,
    is_open: bool,
}

/// Takes the address, and nothing else.
///
/// # Errors
/// When it cannot be had, or the files of a certificate cannot be used.
pub(super) async fn bind(config: &CoordinatorConfig) -> Result<TcpListener, Explained> {
    certificates::check(&config.tls)?;
    let address = config.listen;
    TcpListener::bind(address).await.map_err(|error| {
        Explained::new(format!("{address} cannot be listened on: {error}"))
            .at("listen")
            .expected("an address of this machine, with a port that is free")
            .hint("stop what listens there, or choose another by --listen, or `listen` in the file")
    })
}

impl Listener {
    /// Readies TLS for an address that was taken. An own authority lies in the state folder.
    ///
    /// # Errors
    /// When certificates can neither be read nor made.
    pub(super) fn new(
        tcp: TcpListener,
        config: &CoordinatorConfig,
        state: &Path,
    ) -> Result<Self, Explained> {
        let address = tcp.local_addr().map_err(|error| Explained::from_error(&error))?;
        let certificates = Certificates::open(&config.tls, state, address)?;
        let is_open = config.is_open_to_others();
        Ok(Self { tcp, address, certificates, http: config.http.clone(), is_open })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// How this machine reaches it.
    pub(super) fn url(&self) -> String {
        let scheme = if self.certificates.is_some() { "https" } else { "http" };
        let ip = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip @ (IpAddr::V4(_) | IpAddr::V6(_)) => ip,
        };
        format!("{scheme}://{}", SocketAddr::new(ip, self.address.port()))
    }

    /// Takes connections until the shutdown, then lets open requests end.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub(super) async fn serve(
        self,
        routes: Router,
        plain: Router,
        shutdown: CancellationToken,
    ) -> Result<(), Explained> {
        let mut tasks = JoinSet::new();
        let mut tls = None;
        if let Some(certificates) = self.certificates {
            tls = Some(TlsAcceptor::from(Arc::new(certificates.server()?)));
            tasks.spawn(certificates.keep(shutdown.clone()));
        }
        if self.is_open {
            tasks.spawn(warn(self.address, shutdown.clone()));
        }
        let in_all = room_for(self.http.connections_max);
        let connections = Connections::new(in_all, self.http.connections_per_address as usize);
        let http = self.http;
        let serving = Arc::new(Serving { http, tls, routes, plain, shutdown: shutdown.clone() });
        loop {
            let accepted = tokio::select! {
                accepted = self.tcp.accept() => accepted,
                Some(_) = tasks.join_next() => continue,
                () = shutdown.cancelled() => break,
            };
            match accepted {
                // Without a place it is closed by being dropped.
                Ok((stream, peer)) => {
                    if let Some(place) = connections.take(peer.ip()) {
                        let serving = Arc::clone(&serving);
                        tasks.spawn(connection::serve(serving, stream, peer, Arc::new(place)));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be taken");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
        drop(self.tcp);
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}

/// Says again and again what a start with `insecure_listen` means.
async fn warn(address: SocketAddr, shutdown: CancellationToken) {
    while !shutdown.is_cancelled() {
        tracing::warn!(
            %address,
            "NOTHING SAID TO THIS COORDINATOR IS ENCRYPTED, and other machines reach it: tokens and data can be \
             read on the way. Set `own_ca = true` in `[tls]` (--tls)"
        );
        tokio::select! {
            () = tokio::time::sleep(WARNED) => {}
            () = shutdown.cancelled() => {}
        }
    }
}

/// Raises the bound on open files as far as it is this process's own to raise; so many connections are
/// possible, of those that are wanted.
fn room_for(wanted: u32) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let needed = u64::from(wanted) + OTHER_FILES;
    let now = getrlimit(Resource::Nofile);
    let most = now.maximum.map_or(needed, |maximum| maximum.min(needed));
    let mut allowed = now.current.unwrap_or(u64::MAX);
    let raised = Rlimit { current: Some(most), maximum: now.maximum };
    if allowed < most && setrlimit(Resource::Nofile, raised).is_ok() {
        allowed = most;
    }
    // Half of few files are for connections.
    let room = allowed.saturating_sub(OTHER_FILES.min(allowed / 2));
    let room = usize::try_from(room).unwrap_or(usize::MAX).min(wanted as usize);
    if room < wanted as usize {
        tracing::warn!(room, wanted, "this process may open too few files for its connections");
    }
    room
}

#[cfg(test)]
mod tests;
