//! A worker's WebSocket: messages in both directions until either side ends it.

use super::problem::Refusal;
use super::{Shared, auth, version};
use crate::clock::millis;
use crate::coordinator::audit;
use crate::coordinator::driver::{Input, MESSAGES_WAITING};
use crate::coordinator::tokens::{Admitted, Caller, Denied};
use axum::Extension;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::http::request::Parts;
use axum::response::Response;
use bytes::Bytes;
use ptv2_common::access::{AuditEvent, SESSION_HEADER};
use ptv2_common::error::Explained;
use ptv2_common::ids::WorkerId;
use ptv2_common::names;
use ptv2_common::secret::Secret;
use ptv2_common::session::{Envelope, FromWorker, Hello, ToWorker};
use ptv2_common::text::escaped_to;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Longest message, in bytes: a report of many steps.
const LONGEST_MESSAGE: usize = 4 << 20;
/// What may wait for a worker that takes nothing, in bytes; beyond, it is disconnected.
const LONGEST_SAID: usize = 16 << 20;
/// Bytes that a connection reads and writes at once. Thousands of workers each have two such buffers.
const BUFFER: usize = 8 << 10;
/// A worker must say who it is within this time.
const HELLO: Duration = Duration::from_secs(10);
/// A message must be taken by the network within this time.
const SENDING: Duration = Duration::from_secs(20);

/// Length of the secret of a worker's process, in characters.
const SECRET: RangeInclusive<usize> = 32..=256;

/// What may have to be said to a worker: messages, the number of the last report that is on disk, and
/// that a token was revoked.
type Sources = (mpsc::Receiver<ToWorker>, watch::Receiver<u64>, watch::Receiver<u64>);

/// Numbers connections, so that the end of an old one is not taken for that of a new one.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

/// Who dials, before it said `hello`.
struct Guest {
    caller: Caller,
    /// The secret of its process.
    session: Secret,
    remote: Option<String>,
}

/// A worker's session: a WebSocket, whose messages `ptv2_common::session` describes.
#[utoipa::path(get, path = "/v1/session",
    params(("ptv2-session" = String, Header, description = "the secret of the worker's process")),
    responses((status = 101, description = "the session is open"),
        (status = 400, body = ptv2_common::api::Problem)))]
pub(super) async fn open(
    State(edge): State<Shared>,
    Extension(caller): Extension<Caller>,
    parts: Parts,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let session = parts.headers.get(SESSION_HEADER).and_then(|value| value.to_str().ok());
    let session = Secret::new(session.unwrap_or_default());
    let guest = Guest { caller, session, remote: auth::remote(&parts.extensions) };
    let upgrade = upgrade.map_err(|error| Refusal::malformed(error.body_text()))?;
    let upgrade = upgrade
        .max_message_size(LONGEST_MESSAGE)
        .max_frame_size(LONGEST_MESSAGE)
        .read_buffer_size(BUFFER)
        .write_buffer_size(BUFFER)
        .max_write_buffer_size(LONGEST_SAID);
    Ok(upgrade.on_upgrade(move |socket| serve(edge, guest, socket)))
}

async fn serve(edge: Shared, guest: Guest, mut socket: WebSocket) {
    let first = tokio::time::timeout(HELLO, socket.recv()).await;
    let Ok(Some(Ok(Message::Text(text)))) = first else {
        return close(socket, "no `hello` came").await;
    };
    if let Some(error) = version::foreign_hello(&text) {
        tracing::warn!(%error, "a worker is refused");
        return refuse(socket, error).await;
    }
    let hello = match serde_json::from_str(&text) {
        Ok(Envelope { message: FromWorker::Hello(hello), .. }) => hello,
        Ok(_) => return close(socket, "the first message must be `hello`").await,
        Err(error) => return close(socket, &error.to_string()).await,
    };
    if let Err(error) = names::check("worker", &hello.worker.0) {
        return refuse(socket, error).await;
    }
    // From before it is let in, so that no revocation is missed.
    let revocations = edge.tokens.revocations();
    match let_in(&edge, &guest, &hello.worker).await {
        Ok(()) => {}
        Err(Denied::Unavailable(error)) => return close(socket, &error.to_string()).await,
        Err(Denied::Malformed(error) | Denied::Unknown(error) | Denied::Refused(error)) => {
            return refuse(socket, error).await;
        }
    }
    let connection = CONNECTIONS.fetch_add(1, Ordering::Relaxed);
    let (outbox, messages) = mpsc::channel(MESSAGES_WAITING);
    let (taken, seen) = watch::channel(0);
    let worker = hello.worker.clone();
    tracing::info!(%worker, host = hello.host, device = hello.device, "a worker connected");
    let hello = Box::<Hello>::new(hello);
    let connected = Input::Connected { hello, connection, outbox, taken };
    if edge.doors.inputs.send(connected).await.is_err() {
        return;
    }
    let why = talk(&edge, socket, (messages, seen, revocations), (&worker, connection)).await;
    tracing::info!(%worker, why, "a worker's connection ended");
    // The loop has ended: there is nobody to tell.
    drop(edge.doors.inputs.send(Input::Disconnected { worker, connection }).await);
}

/// Looks whether a worker may join, or is the one that joined before; and notes it.
async fn let_in(edge: &Shared, guest: &Guest, worker: &WorkerId) -> Result<(), Denied> {
    let now = millis(edge.clock.elapsed());
    let Guest { caller, session, remote } = guest;
    let malformed = |what: String| {
        Denied::Malformed(
            Explained::new(what)
                .expected("`w` and ten hexadecimal digits, and a secret that no other process has")
                .hint("install the same version of ptv2 on all machines"),
        )
    };
    let admitted = if !is_id(worker) {
        Err(malformed(format!("`{}` is no worker's id", escaped_to(&worker.0, 40))))
    } else if !SECRET.contains(&session.expose().len()) {
        Err(malformed(format!("the header `{SESSION_HEADER}` bears no secret of worker {worker}")))
    } else {
        edge.tokens.admit(worker, session.expose(), &caller.token, now).await
    };
    let action = if admitted.is_ok() { "worker joined" } else { "worker refused" };
    let event = AuditEvent {
        principal: Some(caller.principal.clone()),
        token: Some(caller.token.clone()),
        remote: remote.clone(),
        subject: Some(worker.to_string()),
        ..audit::new(action, now)
    };
    match admitted {
        Ok(Admitted::Newly) => edge.audit.done(event).await,
        // It only connected again.
        Ok(Admitted::Before) => {}
        Err(denied) => {
            let outcome = denied.error().what.clone();
            edge.audit.refused(AuditEvent { outcome, ..event }).await;
            return Err(denied);
        }
    }
    Ok(())
}

/// Whether a worker drew this id: it is shown to people, and written into logs.
fn is_id(worker: &WorkerId) -> bool {
    let digits = worker.0.strip_prefix('w').unwrap_or_default();
    digits.len() == 10 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

async fn talk(
    edge: &Shared,
    mut socket: WebSocket,
    (mut messages, mut taken, mut revocations): Sources,
    (worker, connection): (&WorkerId, u64),
) -> String {
    let mut signs = tokio::time::interval(edge.sign_of_life);
    signs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // What was read and the loop has no room for yet. Signs of life and orders go out meanwhile.
    let mut said = None;
    loop {
        tokio::select! {
            room = edge.doors.inputs.reserve(), if said.is_some() => match (room, said.take()) {
                (Ok(room), Some(said)) => room.send(said),
                _ => return "the coordinator stops".into(),
            },
            message = messages.recv() => {
                let Some(message) = message else {
                    close(socket, "the coordinator ended the session").await;
                    return "ended from here".into();
                };
                if let Err(why) = say(&mut socket, &message).await {
                    return why;
                }
            }
            // Only the last number counts, however many came since.
            Ok(()) = taken.changed() => {
                let seq = *taken.borrow_and_update();
                if let Err(why) = say(&mut socket, &ToWorker::Taken { seq }).await {
                    return why;
                }
            }
            Ok(()) = revocations.changed() => if !edge.tokens.is_admitted(worker) {
                close(socket, "the token that the worker joined by was revoked").await;
                return "its token was revoked".into();
            },
            _ = signs.tick() => {
                if let Err(why) = send(&mut socket, Message::Ping(Bytes::new())).await {
                    return why;
                }
            }
            received = socket.recv(), if said.is_none() => {
                let (seq, message) = match received {
                    Some(Ok(Message::Text(text))) => match serde_json::from_str(&text) {
                        Ok(Envelope { seq, message }) => (seq, message),
                        Err(error) => {
                            let why = format!("a message cannot be read: {error}");
                            close(socket, &why).await;
                            return why;
                        }
                    },
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                    Some(Ok(Message::Binary(_) | Message::Close(_))) | None => {
                        return "closed by the worker".into();
                    }
                    Some(Err(error)) => return error.to_string(),
                };
                let worker = worker.clone();
                let message = Box::new(message);
                said = Some(Input::Said { worker, connection, seq, message });
            }
            () = edge.shutdown.cancelled() => {
                close(socket, "the coordinator stops").await;
                return "the coordinator stops".into();
            }
        }
    }
}

/// Tells a worker that it is refused. It may have gone already.
async fn refuse(mut socket: WebSocket, error: Explained) {
    drop(say(&mut socket, &ToWorker::Refused { error }).await);
    close(socket, "refused").await;
}

async fn say(socket: &mut WebSocket, message: &ToWorker) -> Result<(), String> {
    let text = serde_json::to_string(message).map_err(|error| error.to_string())?;
    send(socket, Message::Text(text.into())).await
}

async fn send(socket: &mut WebSocket, message: Message) -> Result<(), String> {
    match tokio::time::timeout(SENDING, socket.send(message)).await {
        Ok(sent) => sent.map_err(|error| error.to_string()),
        Err(_) => Err("it took no message in time".into()),
    }
}

async fn close(mut socket: WebSocket, why: &str) {
    // A close frame's reason holds 123 bytes at most.
    let mut reason: String = why.chars().take(100).collect();
    while reason.len() > 123 {
        reason.pop();
    }
    let frame = CloseFrame { code: close_code::POLICY, reason: reason.into() };
    // The other side may have gone already.
    drop(socket.send(Message::Close(Some(frame))).await);
}
