//! The connection to the coordinator: dialled out, kept alive, dialled again; at the end, the farewell.

use super::Shared;
use super::retry::Pauses;
use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use ptv2_common::access::SESSION_HEADER;
use ptv2_common::api::Problem;
use ptv2_common::error::Explained;
use ptv2_common::secret::{self, Secret};
use ptv2_common::session::{Envelope, FromWorker, Hello, ToWorker};
use ptv2_common::tls::{self, Trust};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, http};
use tokio_tungstenite::{
    Connector, MaybeTlsStream, WebSocketStream, connect_async_tls_with_config,
};
use tokio_util::sync::CancellationToken;

/// Pauses between attempts to connect again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// An attempt to connect may take this long.
const CONNECTING: Duration = Duration::from_secs(5);
/// What the device thread said last may take this long to reach the coordinator, or a third of
/// `drain_grace` where that is shorter.
const FAREWELL: Duration = Duration::from_secs(1);
/// Longest message of the coordinator, in bytes: a group's orders with its checkpoints' files.
const LONGEST_ORDER: usize = 16 << 20;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// How a session ended.
enum Ended {
    /// The connection broke: dial again.
    Broken(String),
    /// The worker is to end.
    Done(Result<(), Explained>),
}

/// Talks until the worker is to end.
///
/// # Errors
/// When it is refused, or was without a coordinator for longer than `orphan_limit`.
pub(super) async fn run(shared: &Shared, shutdown: CancellationToken) -> Result<(), Explained> {
    if let Some(warning) = secret::exposed(&shared.config.token_file) {
        tracing::warn!("{warning}");
    }
    let mut pauses = Pauses::between(FIRST_PAUSE, LONGEST_PAUSE);
    let orphan_limit = shared.config.orphan_limit;
    let mut orphaned_at = Instant::now() + orphan_limit;
    loop {
        let attempt = tokio::time::timeout(CONNECTING, connect(shared));
        let connected = tokio::select! {
            connected = attempt => connected,
            () = shutdown.cancelled() => return leave_unheard(shared).await,
        };
        let why = match connected {
            Ok(Ok(socket)) => {
                let ended = talk(shared, socket, &shutdown).await;
                pauses = Pauses::between(FIRST_PAUSE, LONGEST_PAUSE);
                orphaned_at = Instant::now() + orphan_limit;
                match ended {
                    Ended::Done(result) => return result,
                    Ended::Broken(why) => why,
                }
            }
            Ok(Err(ConnectError::Refused(error))) => return Err(error),
            Ok(Err(ConnectError::Failed(why))) => why,
            Err(_) => "the coordinator did not answer in time".into(),
        };
        if Instant::now() >= orphaned_at {
            let waited = humantime::format_duration(orphan_limit);
            return Err(Explained::new(format!("no coordinator for {waited}: {why}"))
                .at(shared.config.coordinator.clone())
                .hint("start the coordinator, then the worker; --orphan-limit waits longer"));
        }
        tracing::warn!(why, "no connection to the coordinator; trying again");
        tokio::select! {
            () = tokio::time::sleep(pauses.next()) => {}
            () = shutdown.cancelled() => return leave_unheard(shared).await,
        }
    }
}

/// Drains while there is no coordinator to tell.
async fn leave_unheard(shared: &Shared) -> Result<(), Explained> {
    shared.orders.drain();
    if tokio::time::timeout(shared.config.drain_grace, shared.over.cancelled()).await.is_err() {
        tracing::warn!("the step did not end in time and is given up");
    }
    Ok(())
}

enum ConnectError {
    /// Trying again may help.
    Failed(String),
    /// It cannot.
    Refused(Explained),
}

async fn connect(shared: &Shared) -> Result<Socket, ConnectError> {
    let config = &shared.config;
    let url = tls::coordinator_url(&config.coordinator, config.insecure_http);
    let mut url = url.map_err(ConnectError::Refused)?;
    let connector = match url.scheme() {
        // Read at each attempt, as the token is: the coordinator may have made both only now.
        "https" => {
            let file = config.ca_file.as_deref();
            let trust = Trust::choose(config.ca_fingerprint, file, &config.token_file);
            let tls =
                trust.client_config().map_err(|error| ConnectError::Failed(error.to_string()))?;
            Connector::Rustls(Arc::new(tls))
        }
        _ => Connector::Plain,
    };
    if let Ok(mut parts) = url.path_segments_mut() {
        parts.pop_if_empty().extend(["v1", "session"]);
    }
    // `ws` for `http`, `wss` for `https`.
    let url = url.as_str().replacen("http", "ws", 1);
    let request = request(&url, shared).await?;
    let sizes = WebSocketConfig::default()
        .max_message_size(Some(LONGEST_ORDER))
        .max_frame_size(Some(LONGEST_ORDER));
    match connect_async_tls_with_config(request, Some(sizes), true, Some(connector)).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => Err(turned_away(&config.token_file, &answer)),
        Err(error) => Err(match tls::explain(&error) {
            Some(error) => ConnectError::Refused(error.at(config.coordinator.clone())),
            None => ConnectError::Failed(format!("{}: {error}", config.coordinator)),
        }),
    }
}

/// The request that opens a session, with the workers' token and the secret of this process.
async fn request(url: &str, shared: &Shared) -> Result<http::Request<()>, ConnectError> {
    let token_file = &shared.config.token_file;
    // Read at each attempt: the coordinator may have made it only now.
    let token = tokio::fs::read_to_string(token_file).await.map(Secret::new);
    let token = token.map_err(|error| {
        ConnectError::Failed(format!(
            "the workers' token {} cannot be read: {error}",
            token_file.display()
        ))
    })?;
    let mut request = url.into_client_request().map_err(|error| {
        let error = Explained::new(format!("`{url}` cannot be dialled: {error}"));
        ConnectError::Refused(error.at("--coordinator"))
    })?;
    let bearer = http::HeaderValue::from_str(&format!("Bearer {}", token.expose().trim()));
    let mut bearer = bearer.map_err(|_| {
        let error = Explained::new("the token is no text").at(token_file.display().to_string());
        ConnectError::Refused(error)
    })?;
    let mut session = http::HeaderValue::from_str(shared.session.expose())
        .map_err(|_| ConnectError::Failed("the session's secret is no text".into()))?;
    bearer.set_sensitive(true);
    session.set_sensitive(true);
    request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
    request.headers_mut().insert(SESSION_HEADER, session);
    Ok(request)
}

/// What it means that the coordinator, or whoever answers there, opens no session.
fn turned_away(token_file: &Path, answer: &http::Response<Option<Vec<u8>>>) -> ConnectError {
    let body = answer.body().as_deref().unwrap_or_default();
    let problem = serde_json::from_slice::<Problem>(body).ok();
    match (answer.status(), problem) {
        (http::StatusCode::UNAUTHORIZED | http::StatusCode::FORBIDDEN, _) => ConnectError::Refused(
            Explained::new("the coordinator refuses this worker's token")
                .at(token_file.display().to_string())
                .expected(
                    "the `worker-token` of the coordinator's state folder, or a join token that has \
                     neither ended nor been used up or revoked",
                )
                .hint("copy it here and name it by --token-file"),
        ),
        (http::StatusCode::BAD_REQUEST, Some(problem)) => ConnectError::Refused(problem.error),
        (status, _) => ConnectError::Failed(format!("the coordinator answers {status}")),
    }
}

async fn talk(shared: &Shared, socket: Socket, shutdown: &CancellationToken) -> Ended {
    let (mut sink, mut stream) = socket.split();
    let attached = shared.outbox.attached(shared.pulse.attached());
    let hello = Hello { attached, ..shared.hello.clone() };
    if let Err(why) = send(&mut sink, None, FromWorker::Hello(hello)).await {
        return Ended::Broken(why);
    }
    let (interval, timeout) = match welcomed(shared, &mut stream).await {
        Ok(bounds) => bounds,
        Err(ended) => return ended,
    };
    tracing::info!(worker = %shared.hello.worker, "connected to the coordinator");
    shared.outbox.again();
    let mut beats = tokio::time::interval(interval);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut farewell = Farewell::default();
    let mut heard = Instant::now();
    loop {
        let sent = tokio::select! {
            _ = beats.tick() => send(&mut sink, None, shared.pulse.heartbeat()).await,
            message = shared.outbox.next() => {
                let Envelope { seq, message } = message;
                send(&mut sink, seq, message).await
            }
            received = stream.next() => {
                heard = Instant::now();
                match received.map(parse_received) {
                    Some(Ok(Some(message))) => match obey(shared, message, shutdown) {
                        Some(ended) => return ended,
                        None => Ok(()),
                    },
                    Some(Ok(None)) => Ok(()),
                    Some(Err(why)) => Err(why),
                    None => Err("the connection was closed".into()),
                }
            }
            // Its signs of life come as often as ours go.
            () = tokio::time::sleep_until(heard + timeout) => {
                Err("the coordinator gave no sign of life".into())
            }
            () = farewell.next(shared, shutdown) => match farewell {
                Farewell::NotAsked | Farewell::Draining { .. } => {
                    send(&mut sink, None, FromWorker::Draining).await
                }
                Farewell::GivenUp { .. } | Farewell::Leaving { .. } => Ok(()),
                Farewell::Said => {
                    drop(sink.close().await);
                    return Ended::Done(Ok(()));
                }
            }
        };
        if let Err(why) = sent {
            return Ended::Broken(why);
        }
    }
}

/// Waits for the welcome; gives how often to send a heartbeat, and how long either side may be silent.
async fn welcomed(
    shared: &Shared,
    stream: &mut SplitStream<Socket>,
) -> Result<(Duration, Duration), Ended> {
    let first = async {
        loop {
            // A sign of life may come before it.
            match stream.next().await.map(parse_received) {
                Some(Ok(None)) => {}
                received => return received,
            }
        }
    };
    match tokio::time::timeout(CONNECTING, first).await {
        Ok(Some(Ok(Some(ToWorker::Welcome {
            heartbeat_interval_ms,
            heartbeat_timeout_ms,
            store,
        })))) => {
            shared.store.get_or_init(|| store);
            let timeout = Duration::from_millis(heartbeat_timeout_ms.max(100));
            shared.heard_within(timeout);
            Ok((Duration::from_millis(heartbeat_interval_ms.max(10)), timeout))
        }
        Ok(Some(Ok(Some(ToWorker::Refused { error })))) => Err(Ended::Done(Err(error))),
        Ok(Some(Ok(_))) => Err(Ended::Broken("the coordinator did not welcome".into())),
        Ok(Some(Err(why))) => Err(Ended::Broken(why)),
        Ok(None) => Err(Ended::Broken("the connection was closed".into())),
        Err(_) => Err(Ended::Broken("the coordinator did not welcome in time".into())),
    }
}

/// How a worker that was asked to end says goodbye: it finishes its step, and what it says last
/// reaches the coordinator.
#[derive(Debug, Default, Clone, Copy)]
enum Farewell {
    #[default]
    NotAsked,
    /// The device thread finishes its step; it is given up after `until`.
    Draining {
        until: Instant,
    },
    /// Its group is free, but the device thread is at a slice that nothing can interrupt. It is waited for
    /// until `until`, and ends with the process.
    GivenUp {
        until: Instant,
    },
    /// The device thread has ended; its last messages are on their way until `until`.
    Leaving {
        until: Instant,
    },
    Said,
}

impl Farewell {
    /// Waits for the next stage. May be dropped and begun anew at any time.
    async fn next(&mut self, shared: &Shared, shutdown: &CancellationToken) {
        *self = match *self {
            Self::NotAsked => {
                shutdown.cancelled().await;
                shared.orders.drain();
                // Of a device thread that ended by itself, only what it said last is still to be told.
                if shared.over.is_cancelled() {
                    Self::Leaving { until: Instant::now() + FAREWELL }
                } else {
                    Self::Draining { until: Instant::now() + shared.config.drain_grace }
                }
            }
            Self::Draining { until } => {
                let farewell = FAREWELL.min(shared.config.drain_grace / 3);
                if tokio::time::timeout_at(until, shared.over.cancelled()).await.is_ok() {
                    Self::Leaving { until: Instant::now() + farewell }
                } else {
                    tracing::warn!("the step did not end in time and is given up");
                    shared.orders.end();
                    Self::GivenUp { until: until + farewell }
                }
            }
            Self::GivenUp { until } => {
                drop(tokio::time::timeout_at(until, shared.over.cancelled()).await);
                Self::Leaving { until }
            }
            Self::Leaving { until } => {
                while !shared.outbox.is_empty() && Instant::now() < until {
                    tokio::time::sleep(FAREWELL / 50).await;
                }
                Self::Said
            }
            Self::Said => std::future::pending().await,
        };
    }
}

async fn send(
    sink: &mut (impl SinkExt<Message, Error = tungstenite::Error> + Unpin),
    seq: Option<u64>,
    message: FromWorker,
) -> Result<(), String> {
    let envelope = Envelope { seq, message };
    let text = serde_json::to_string(&envelope).map_err(|error| error.to_string())?;
    sink.send(Message::Text(text.into())).await.map_err(|error| error.to_string())
}

fn parse_received(
    received: Result<Message, tungstenite::Error>,
) -> Result<Option<ToWorker>, String> {
    received.map_err(|error| error.to_string()).and_then(|message| parse(&message))
}

/// A message of the coordinator; `None` for what carries none.
fn parse(message: &Message) -> Result<Option<ToWorker>, String> {
    match message {
        Message::Text(text) => serde_json::from_str(text)
            .map(Some)
            .map_err(|error| format!("a message of the coordinator cannot be read: {error}")),
        Message::Close(frame) => {
            let reason = frame.as_ref().map(|frame| frame.reason.to_string()).unwrap_or_default();
            Err(format!("closed by the coordinator: {reason}"))
        }
        Message::Binary(_) | Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(None),
    }
}

/// Writes an order down for the device thread.
fn obey(shared: &Shared, message: ToWorker, shutdown: &CancellationToken) -> Option<Ended> {
    match message {
        ToWorker::Refused { error } => return Some(Ended::Done(Err(error))),
        ToWorker::Taken { seq } => shared.outbox.taken(seq),
        ToWorker::Drain => {
            tracing::info!("drained: the worker finishes its step and ends");
            shutdown.cancel();
        }
        ToWorker::Welcome { .. }
        | ToWorker::Warm(_)
        | ToWorker::Start(_)
        | ToWorker::Stop { .. }
        | ToWorker::Release { .. } => shared.orders.obey(message),
    }
    None
}
