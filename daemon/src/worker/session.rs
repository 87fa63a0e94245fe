//! The connection to the coordinator: dialled out, kept alive, dialled again.

use super::Shared;
use super::orders::Stop;
use futures_util::{SinkExt, StreamExt};
use ptv2_common::error::Explained;
use ptv2_common::session::{FromWorker, ToWorker};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message, http};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

/// Pause before the first attempt to connect again; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// An attempt to connect may take this long.
const CONNECTING: Duration = Duration::from_secs(10);

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
    let mut pause = FIRST_PAUSE;
    let orphan_limit = shared.config.orphan_limit;
    let mut orphaned_at = tokio::time::Instant::now() + orphan_limit;
    loop {
        let attempt = tokio::time::timeout(CONNECTING, connect(shared));
        let connected = tokio::select! {
            connected = attempt => connected,
            () = shutdown.cancelled() => return Ok(()),
        };
        let why = match connected {
            Ok(Ok(socket)) => {
                pause = FIRST_PAUSE;
                let ended = talk(shared, socket, &shutdown).await;
                orphaned_at = tokio::time::Instant::now() + orphan_limit;
                match ended {
                    Ended::Done(result) => return result,
                    Ended::Broken(why) => why,
                }
            }
            Ok(Err(ConnectError::Refused(error))) => return Err(error),
            Ok(Err(ConnectError::Failed(why))) => why,
            Err(_) => "the coordinator did not answer in time".into(),
        };
        if tokio::time::Instant::now() >= orphaned_at {
            let waited = humantime::format_duration(orphan_limit);
            return Err(Explained::new(format!("no coordinator for {waited}: {why}"))
                .at(shared.config.coordinator.clone())
                .hint("start the coordinator, then the worker; --orphan-limit waits longer"));
        }
        tracing::warn!(why, "no connection to the coordinator; trying again");
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return Ok(()),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum ConnectError {
    /// Trying again may help.
    Failed(String),
    /// It cannot.
    Refused(Explained),
}

async fn connect(shared: &Shared) -> Result<Socket, ConnectError> {
    let config = &shared.config;
    let refused = |error: Explained| ConnectError::Refused(error);
    let url = config.coordinator.trim_end_matches('/');
    let Some(rest) = url.strip_prefix("http://") else {
        return Err(refused(
            Explained::new(format!("`{url}` is no URL of a coordinator"))
                .at("--coordinator")
                .expected("http://host:port"),
        ));
    };
    // Read at each attempt: the coordinator may have made it only now.
    let token = tokio::fs::read_to_string(&config.token_file).await.map_err(|error| {
        ConnectError::Failed(format!(
            "the workers' token {} cannot be read: {error}",
            config.token_file.display()
        ))
    })?;
    let request = format!("ws://{rest}/v1/session").into_client_request();
    let mut request = request.map_err(|error| {
        refused(Explained::new(format!("`{url}` cannot be dialled: {error}")).at("--coordinator"))
    })?;
    let bearer = http::HeaderValue::from_str(&format!("Bearer {}", token.trim()));
    let bearer = bearer.map_err(|_| {
        refused(Explained::new("the token is no text").at(config.token_file.display().to_string()))
    })?;
    request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
    match connect_async(request).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer))
            if answer.status() == http::StatusCode::UNAUTHORIZED =>
        {
            Err(refused(
                Explained::new("the coordinator refuses this worker's token")
                    .at(config.token_file.display().to_string())
                    .expected("the `worker-token` of the coordinator's state folder")
                    .hint("copy it here and name it by --token-file"),
            ))
        }
        Err(error) => Err(ConnectError::Failed(format!("{url}: {error}"))),
    }
}

async fn talk(shared: &Shared, socket: Socket, shutdown: &CancellationToken) -> Ended {
    let (mut sink, mut stream) = socket.split();
    let hello = FromWorker::Hello(shared.hello.clone());
    if let Err(why) = send(&mut sink, &hello).await {
        return Ended::Broken(why);
    }
    let interval = match stream.next().await.map(|received| received.map(|text| parse(&text))) {
        Some(Ok(Ok(Some(ToWorker::Welcome { heartbeat_interval_ms, store })))) => {
            shared.store.get_or_init(|| store);
            Duration::from_millis(heartbeat_interval_ms.max(10))
        }
        Some(Ok(Ok(Some(ToWorker::Refused { error })))) => return Ended::Done(Err(error)),
        Some(Ok(Ok(_))) => return Ended::Broken("the coordinator did not welcome".into()),
        Some(Ok(Err(why))) => return Ended::Broken(why),
        Some(Err(error)) => return Ended::Broken(error.to_string()),
        None => return Ended::Broken("the connection was closed".into()),
    };
    tracing::info!(worker = %shared.hello.worker, "connected to the coordinator");
    let mut beats = tokio::time::interval(interval);
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = beats.tick() => {
                if let Err(why) = send(&mut sink, &shared.pulse.heartbeat()).await {
                    return Ended::Broken(why);
                }
            }
            message = shared.outbox.take() => {
                if let Err(why) = send(&mut sink, &message).await {
                    shared.outbox.put_back(message);
                    return Ended::Broken(why);
                }
            }
            received = stream.next() => {
                let message = match received {
                    Some(Ok(message)) => parse(&message),
                    Some(Err(error)) => return Ended::Broken(error.to_string()),
                    None => return Ended::Broken("the connection was closed".into()),
                };
                match message {
                    Ok(Some(message)) => if let Some(ended) = obey(shared, message) {
                        return ended;
                    },
                    Ok(None) => {}
                    Err(why) => return Ended::Broken(why),
                }
            }
            () = shutdown.cancelled() => {
                drop(send(&mut sink, &FromWorker::Draining).await);
                drop(sink.close().await);
                return Ended::Done(Ok(()));
            }
        }
    }
}

async fn send(
    sink: &mut (impl SinkExt<Message, Error = tungstenite::Error> + Unpin),
    message: &FromWorker,
) -> Result<(), String> {
    let text = serde_json::to_string(message).map_err(|error| error.to_string())?;
    sink.send(Message::Text(text.into())).await.map_err(|error| error.to_string())
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
fn obey(shared: &Shared, message: ToWorker) -> Option<Ended> {
    match message {
        ToWorker::Welcome { .. } => {}
        ToWorker::Refused { error } => return Some(Ended::Done(Err(error))),
        ToWorker::Start(start) => shared.orders.start(start),
        ToWorker::Stop { job, generation, checkpoint } => {
            shared.orders.stop(Stop { job, generation, park: checkpoint });
        }
        ToWorker::Release { job, .. } => shared.orders.release(job),
        ToWorker::Drain => {
            tracing::info!("drained: the worker ends");
            return Some(Ended::Done(Ok(())));
        }
    }
    None
}
