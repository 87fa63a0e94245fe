//! A worker's WebSocket: messages in both directions until either side ends it.

use super::{Shared, version};
use crate::coordinator::driver::{Input, MESSAGES_WAITING};
use axum::extract::State;
use axum::extract::ws::{CloseFrame, Message, WebSocket, WebSocketUpgrade, close_code};
use axum::response::Response;
use bytes::Bytes;
use ptv2_common::ids::WorkerId;
use ptv2_common::names;
use ptv2_common::session::{Envelope, FromWorker, Hello, ToWorker};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{mpsc, watch};

/// Longest message, in bytes: a report of many steps.
const LONGEST_MESSAGE: usize = 4 << 20;
/// A worker must say who it is within this time.
const HELLO: Duration = Duration::from_secs(10);
/// A message must be taken by the network within this time.
const SENDING: Duration = Duration::from_secs(20);

/// Numbers connections, so that the end of an old one is not taken for that of a new one.
static CONNECTIONS: AtomicU64 = AtomicU64::new(1);

pub(super) async fn open(State(edge): State<Shared>, upgrade: WebSocketUpgrade) -> Response {
    upgrade.max_message_size(LONGEST_MESSAGE).on_upgrade(move |socket| serve(edge, socket))
}

async fn serve(edge: Shared, mut socket: WebSocket) {
    let hello = match tokio::time::timeout(HELLO, socket.recv()).await {
        Ok(Some(Ok(Message::Text(text)))) => match serde_json::from_str(&text) {
            Ok(Envelope { message: FromWorker::Hello(hello), .. }) => hello,
            Ok(_) => return close(socket, "the first message must be `hello`").await,
            Err(error) => {
                if let Some(error) = version::foreign_hello(&text) {
                    tracing::warn!(%error, "a worker is refused");
                    // It may have gone already.
                    drop(say(&mut socket, &ToWorker::Refused { error }).await);
                }
                return close(socket, &error.to_string()).await;
            }
        },
        Ok(_) | Err(_) => return close(socket, "no `hello` came").await,
    };
    if !names::is_name(&hello.worker.0) {
        return close(socket, "a worker's id is a name").await;
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
    let why = talk(&edge, socket, (messages, seen), (&worker, connection)).await;
    tracing::info!(%worker, why, "a worker's connection ended");
    // The loop has ended: there is nobody to tell.
    drop(edge.doors.inputs.send(Input::Disconnected { worker, connection }).await);
}

async fn talk(
    edge: &Shared,
    mut socket: WebSocket,
    (mut messages, mut taken): (mpsc::Receiver<ToWorker>, watch::Receiver<u64>),
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
