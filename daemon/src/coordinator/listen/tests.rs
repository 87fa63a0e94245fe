use super::*;
use crate::config::TlsConfig;
use crate::coordinator::http::plain;
use axum::body::Body;
use axum::routing::get;
use bytes::Bytes;
use ptv2_common::tls::{CA_FINGERPRINT_FILE, Trust};
use rustls_pki_types::ServerName;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const REQUEST: &[u8] = b"GET /here HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n";
/// Nothing here takes longer.
const DEADLINE: Duration = Duration::from_secs(20);

struct Served {
    address: SocketAddr,
    state: TempDir,
    shutdown: CancellationToken,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Serves `/here`, and `/endless`, whose answer never ends.
async fn serve(own_ca: bool, http: HttpConfig) -> Served {
    let state = tempfile::tempdir().unwrap();
    let config = CoordinatorConfig {
        listen: "127.0.0.1:0".parse().unwrap(),
        tls: TlsConfig { own_ca, ..TlsConfig::default() },
        http,
        ..CoordinatorConfig::default()
    };
    let tcp = bind(&config).await.unwrap();
    let listener = Listener::new(tcp, &config, state.path()).unwrap();
    let endless = async || {
        let part = Ok::<_, axum::Error>(Bytes::from(vec![0; 1 << 16]));
        Body::from_stream(futures_util::stream::unfold(part, async |part| {
            let next = part.as_ref().ok().cloned().map(Ok)?;
            Some((part, next))
        }))
    };
    let routes =
        Router::new().route("/here", get(async || "it is")).route("/endless", get(endless));
    let shutdown = CancellationToken::new();
    let address = listener.address();
    tokio::spawn(listener.serve(routes, plain(), shutdown.clone()));
    Served { address, state, shutdown }
}

async fn all(mut stream: impl AsyncReadExt + Unpin) -> String {
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    drop(tokio::time::timeout(DEADLINE, read).await.expect("the connection ends in time"));
    String::from_utf8_lossy(&bytes).into_owned()
}

async fn ask(mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin, request: &[u8]) -> String {
    stream.write_all(request).await.unwrap();
    all(stream).await
}

async fn connect(served: &Served) -> TcpStream {
    TcpStream::connect(served.address).await.unwrap()
}

#[tokio::test]
async fn tls_is_spoken_with_whoever_pins_the_own_authority() {
    let served = serve(true, HttpConfig::default()).await;
    let read = std::fs::read_to_string(served.state.path().join(CA_FINGERPRINT_FILE)).unwrap();
    let file = served.state.path().join(ptv2_common::tls::CA_FILE);
    for trust in [Trust::Pinned(read.parse().unwrap()), Trust::File(file)] {
        let connector = tokio_rustls::TlsConnector::from(Arc::new(trust.client_config().unwrap()));
        for (name, is_right) in [("127.0.0.1", true), ("localhost", true), ("elsewhere", false)] {
            let name = ServerName::try_from(name).unwrap();
            match connector.connect(name, connect(&served).await).await {
                Ok(stream) => {
                    assert!(is_right);
                    assert!(ask(stream, REQUEST).await.ends_with("it is"));
                }
                Err(error) => {
                    assert!(!is_right, "{error}");
                    let explained = ptv2_common::tls::explain(&error).unwrap();
                    assert!(explained.what.contains("another name"), "{explained:?}");
                }
            }
        }
    }
}

#[tokio::test]
async fn plain_http_is_told_that_tls_is_spoken() {
    let served = serve(true, HttpConfig::default()).await;
    let answer = ask(connect(&served).await, REQUEST).await;
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("tls_required"), "{answer}");
    // And the reverse is told by the client's side.
    let served = serve(false, HttpConfig::default()).await;
    let trust = Trust::Pinned(format!("sha256:{}", "00".repeat(32)).parse().unwrap());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(trust.client_config().unwrap()));
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let error = connector.connect(name, connect(&served).await).await.unwrap_err();
    let explained = ptv2_common::tls::explain(&error).unwrap();
    assert!(explained.what.contains("plain HTTP"), "{explained:?}");
}

#[tokio::test]
async fn whoever_says_nothing_or_says_it_slowly_is_cut_off() {
    let short = Duration::from_millis(200);
    let http =
        HttpConfig { handshake_timeout: short, head_timeout: short, ..HttpConfig::default() };
    for own_ca in [true, false] {
        let served = serve(own_ca, http.clone()).await;
        assert_eq!(all(connect(&served).await).await, "", "TLS: {own_ca}");
    }
    let served = serve(false, http).await;
    let (read, mut write) = connect(&served).await.into_split();
    let dribble = tokio::spawn(async move {
        while write.write_all(b"x").await.is_ok() {
            tokio::time::sleep(short / 10).await;
        }
    });
    all(read).await;
    dribble.await.unwrap();
}

#[tokio::test]
async fn heads_are_bounded() {
    let served = serve(false, HttpConfig::default()).await;
    let head = |more: &str| format!("GET /here HTTP/1.1\r\nhost: h\r\n{more}\r\n");
    let many = (0..200).map(|n| format!("h{n}: x\r\n")).collect::<String>();
    let long = format!("h: {}\r\n", "x".repeat(40 << 10));
    for more in [many, long] {
        let answer = ask(connect(&served).await, head(&more).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
}

#[tokio::test]
async fn idle_connections_keep_nobody_out() {
    let http = HttpConfig { connections_max: 3, ..HttpConfig::default() };
    let served = serve(false, http).await;
    let mut idle = Vec::new();
    for _ in 0..10 {
        idle.push(connect(&served).await);
    }
    for _ in 0..5 {
        assert!(ask(connect(&served).await, REQUEST).await.ends_with("it is"));
    }
}

#[tokio::test]
async fn whoever_reads_nothing_is_cut_off() {
    let http = HttpConfig { write_timeout: Duration::from_millis(300), ..HttpConfig::default() };
    let served = serve(false, http).await;
    let mut stream = connect(&served).await;
    stream.write_all(b"GET /endless HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    // Not a byte is read meanwhile: the end is seen by what can still be written.
    let cut_off = async {
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(DEADLINE, cut_off).await.unwrap();
}

#[tokio::test]
async fn a_stop_ends_idle_connections_and_lets_requests_end() {
    let served = serve(false, HttpConfig::default()).await;
    let idle = connect(&served).await;
    served.shutdown.cancel();
    assert_eq!(all(idle).await, "");
}
