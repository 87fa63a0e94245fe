//! By which of its addresses this machine is reached: that of the interface which leads to the
//! coordinator. Names of nodes are never resolved: nobody promises that they can be.

use super::retry::Pauses;
use ptv2_common::error::Explained;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;
use tokio::net::UdpSocket;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Pauses between attempts, while the coordinator's name or the way to it is not known yet.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// A name must be resolved within this time.
const RESOLVING: Duration = Duration::from_secs(5);

/// This machine's address on the way to the coordinator, with port 0; loopback for a coordinator on
/// loopback. Nothing when the worker is to end before that is known.
///
/// # Errors
/// When the URL is none, or there is no way to it for longer than `patience`.
pub(super) async fn own_address(
    coordinator: &str,
    patience: Duration,
    shutdown: &CancellationToken,
) -> Result<Option<SocketAddr>, Explained> {
    let refused = || {
        Explained::new(format!("`{coordinator}` is no URL of a coordinator"))
            .at("--coordinator")
            .expected("a URL as the coordinator writes it to `address` in its state folder")
    };
    let url = url::Url::parse(coordinator).map_err(|_| refused())?;
    let (Some(host), Some(port)) = (url.host_str(), url.port_or_known_default()) else {
        return Err(refused());
    };
    let place = format!("{host}:{port}");
    let give_up = Instant::now() + patience;
    let mut pauses = Pauses::between(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let error = match tokio::time::timeout(RESOLVING, look(&place)).await {
            Ok(Ok(address)) => return Ok(Some(SocketAddr::new(address, 0))),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "its name was not resolved in time".into(),
        };
        if Instant::now() >= give_up {
            return Err(Explained::new(format!("there is no way to the coordinator: {error}"))
                .at(coordinator.to_owned())
                .hint(
                    "see that this machine reaches it; or name its own address by --reduce-listen",
                ));
        }
        tracing::warn!(error, "there is no way to the coordinator yet; trying again");
        tokio::select! {
            () = tokio::time::sleep(pauses.next()) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}

/// Asks the system which way it would go. Connecting a datagram socket sends nothing.
async fn look(place: &str) -> std::io::Result<IpAddr> {
    let mut last = std::io::Error::other("its name has no address");
    for there in tokio::net::lookup_host(place).await? {
        let any: IpAddr = match there {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let found = async {
            let socket = UdpSocket::bind((any, 0)).await?;
            socket.connect(there).await?;
            socket.local_addr()
        };
        match found.await {
            Ok(own) => return Ok(own.ip()),
            Err(error) => last = error,
        }
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn of(url: &str) -> Result<Option<SocketAddr>, Explained> {
        own_address(url, Duration::ZERO, &CancellationToken::new()).await
    }

    #[tokio::test]
    async fn loopback_stays_loopback() {
        for url in ["http://127.0.0.1:7341", "https://127.0.0.1:1/", "http://localhost:7341"] {
            let own = of(url).await.unwrap().unwrap();
            assert!(own.ip().is_loopback() && own.port() == 0, "{url}: {own}");
        }
    }

    #[tokio::test]
    async fn the_machine_reaches_itself_by_the_address_that_others_use() {
        // The way to a documentation address is that to everywhere; where there is none, nothing is told.
        let Ok(Some(own)) = of("http://192.0.2.1:7341").await else { return };
        assert!(!own.ip().is_unspecified(), "{own}");
        let again = of(&format!("http://{}:7341", own.ip())).await.unwrap().unwrap();
        assert_eq!(again.ip(), own.ip());
    }

    #[tokio::test]
    async fn what_leads_nowhere_is_said() {
        for url in ["there", "http://", "mailto:a@b"] {
            let error = of(url).await.unwrap_err();
            assert!(error.what.contains("no URL"), "{url}: {error:?}");
        }
        let error = of("http://nowhere.invalid:1").await.unwrap_err();
        assert!(error.what.contains("no way"), "{error:?}");
        assert!(error.hint.unwrap().contains("--reduce-listen"));
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        let long = Duration::from_secs(60);
        let ended = own_address("http://nowhere.invalid:1", long, &shutdown).await;
        assert_eq!(ended.unwrap(), None);
    }
}
