//! A simulated worker's session: dialled, kept alive and dialled again as the real worker does it.

use super::board::Board;
use super::device::Device;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use ptv2_common::access::SESSION_HEADER;
use ptv2_common::ids::WorkerId;
use ptv2_common::session::{Envelope, Fingerprint, FromWorker, Hello, PROTOCOL, ToWorker};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes, http};
use tokio_tungstenite::{WebSocketStream, client_async};

/// The real worker's pauses between two attempts to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// It gives up a welcome after this long.
const CONNECTING: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<TcpStream>;
type Sink = SplitSink<Socket, Message>;

/// How a simulated worker reaches the coordinator.
#[derive(Debug, Clone)]
pub(super) struct Dial {
    /// Where it listens.
    pub(super) coordinator: SocketAddr,
    /// The workers' token.
    pub(super) token: String,
}

/// A simulated worker. Dropping the task that runs it is its sudden death.
pub(super) struct Worker {
    number: usize,
    hello: Hello,
    dial: Dial,
    board: Arc<Board>,
    device: Device,
    /// Reports that were sent and not taken, and when they were sent first.
    sent: VecDeque<(u64, Instant)>,
    /// Whether its death resets the connection; else the connection just ends.
    resets: bool,
}

impl Worker {
    /// The worker of a number.
    pub(super) fn new(number: usize, dial: Dial, board: Arc<Board>) -> Self {
        let worker = id(number);
        let port = u16::try_from(1024 + number % 60_000).unwrap_or(u16::MAX);
        let hello = Hello {
            protocol: PROTOCOL,
            worker: worker.clone(),
            host: format!("node-{:04}:{number}", number / 8),
            version: ptv2_common::VERSION.to_owned(),
            fingerprint: Fingerprint {
                device: "AuthenticAMD family 25 model 17".into(),
                instruction_set: "AVX512".into(),
                libtorch: "2.11.0".into(),
                ptv2: ptv2_common::VERSION.to_owned(),
                settings: "simulated".into(),
            },
            device: "cpu".into(),
            threads: 1,
            reduce_address: SocketAddr::from(([127, 0, 0, 1], port)),
            launch: None,
            slurm: None,
            visible_device: None,
            attached: None,
        };
        let device = Device::new(worker, Arc::clone(&board));
        Self { number, hello, dial, board, device, sent: VecDeque::new(), resets: number % 2 == 1 }
    }

    /// Lives until it is dropped, or told to end; says why it ended.
    pub(super) async fn live(mut self) -> String {
        let mut pause = FIRST_PAUSE;
        loop {
            let secret = format!("{:064}", self.number);
            let dialled = connect(self.dial.clone(), secret, self.resets);
            if let Ok(socket) = working(&mut self.device, dialled).await {
                pause = FIRST_PAUSE;
                if let Err(refused) = self.talk(socket).await {
                    return refused;
                }
            }
            let jitter = pause.mul_f64(fastrand::f64() / 4.0);
            working(&mut self.device, tokio::time::sleep(pause - jitter)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// One session, until its connection ends.
    ///
    /// # Errors
    /// When the worker is to end for good.
    async fn talk(&mut self, socket: Socket) -> Result<(), String> {
        let (mut sink, mut stream) = socket.split();
        let hello = Hello { attached: self.device.attached(), ..self.hello.clone() };
        if !self.send(&mut sink, None, FromWorker::Hello(hello)).await {
            return Ok(());
        }
        let Some(text) = first_text(&mut stream).await else { return Ok(()) };
        let (beat, timeout) = match serde_json::from_str(&text) {
            Ok(ToWorker::Welcome { heartbeat_interval_ms, heartbeat_timeout_ms, .. }) => {
                (heartbeat_interval_ms.max(10), Duration::from_millis(heartbeat_timeout_ms))
            }
            other => return Err(format!("not welcomed: {other:?}")),
        };
        let connection = Connection::new(&self.board);
        let mut beats = tokio::time::interval(Duration::from_millis(beat));
        beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        self.device.reports.again();
        let mut heard = Instant::now();
        loop {
            let now = Instant::now();
            while let Some(Envelope { seq, message }) = self.device.reports.send() {
                if let Some(seq) = seq
                    && self.sent.back().is_none_or(|(last, _)| seq > *last)
                {
                    self.sent.push_back((seq, now));
                }
                if !self.send(&mut sink, seq, message).await {
                    return Ok(());
                }
            }
            tokio::select! {
                _ = beats.tick() => {
                    let heartbeat = self.device.heartbeat(Instant::now());
                    if !self.send(&mut sink, None, heartbeat).await {
                        return Ok(());
                    }
                }
                received = stream.next() => {
                    heard = Instant::now();
                    match received {
                        Some(Ok(Message::Text(text))) => self.hear(&text)?,
                        Some(Ok(Message::Close(_)) | Err(_)) | None => break,
                        Some(Ok(_)) => {}
                    }
                }
                () = tokio::time::sleep_until(heard + timeout) => {
                    self.board.missed();
                    break;
                }
                () = self.device.due(now) => self.device.advance(Instant::now()),
            }
        }
        drop(connection);
        Ok(())
    }

    /// Takes a message of the coordinator.
    fn hear(&mut self, text: &str) -> Result<(), String> {
        let message = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let (traffic, now) = (&self.board.traffic, Instant::now());
        match &message {
            ToWorker::Start(start) => {
                traffic.starts.add(text.len());
                self.board.told(start, text.len());
            }
            ToWorker::Taken { seq } => {
                traffic.orders.add(text.len());
                self.device.reports.taken(*seq);
                while let Some((_, sent)) = self.sent.pop_front_if(|(own, _)| *own <= *seq) {
                    self.board.taken(now - sent);
                }
            }
            ToWorker::Refused { error } => return Err(error.to_string()),
            ToWorker::Drain => return Err("drained".into()),
            ToWorker::Welcome { .. }
            | ToWorker::Warm(_)
            | ToWorker::Stop { .. }
            | ToWorker::Release { .. } => traffic.orders.add(text.len()),
        }
        self.device.obey(message, now);
        Ok(())
    }

    /// Sends a message; whether the connection took it.
    async fn send(&self, sink: &mut Sink, seq: Option<u64>, message: FromWorker) -> bool {
        let traffic = &self.board.traffic;
        let count = match &message {
            FromWorker::Heartbeat { .. } => &traffic.heartbeats,
            FromWorker::Progress { .. } => &traffic.progress,
            FromWorker::Hello(_)
            | FromWorker::Ready { .. }
            | FromWorker::Running { .. }
            | FromWorker::Left { .. }
            | FromWorker::CheckpointReport { .. }
            | FromWorker::Log { .. }
            | FromWorker::Finished { .. }
            | FromWorker::JobFailed { .. }
            | FromWorker::Damaged { .. }
            | FromWorker::Draining => &traffic.others,
        };
        let text = serde_json::to_string(&Envelope { seq, message }).unwrap();
        count.add(text.len());
        sink.send(Message::Text(text.into())).await.is_ok()
    }
}

/// A connection that is counted for as long as it is there.
struct Connection(Arc<Board>);

impl Connection {
    fn new(board: &Arc<Board>) -> Self {
        board.connected();
        Self(Arc::clone(board))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.disconnected();
    }
}

/// The first message that says something: a sign of life may come before it.
async fn first_text(stream: &mut SplitStream<Socket>) -> Option<Utf8Bytes> {
    loop {
        match tokio::time::timeout(CONNECTING, stream.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => return Some(text),
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
            Ok(Some(_) | None) | Err(_) => return None,
        }
    }
}

/// The name of a worker.
pub(super) fn id(number: usize) -> WorkerId {
    WorkerId(format!("w{number:010x}"))
}

/// Lets the device go on while something else is waited for.
async fn working<T>(device: &mut Device, other: impl Future<Output = T>) -> T {
    tokio::pin!(other);
    loop {
        tokio::select! {
            done = &mut other => return done,
            () = device.due(Instant::now()) => device.advance(Instant::now()),
        }
    }
}

async fn connect(dial: Dial, secret: String, resets: bool) -> Result<Socket, String> {
    let stream = TcpStream::connect(dial.coordinator).await.map_err(|error| error.to_string())?;
    if resets {
        stream.set_zero_linger().map_err(|error| error.to_string())?;
    }
    let url = format!("ws://{}/v1/session", dial.coordinator);
    let mut request = url.into_client_request().map_err(|error| error.to_string())?;
    let bearer = http::HeaderValue::from_str(&format!("Bearer {}", dial.token));
    let bearer = bearer.map_err(|error| error.to_string())?;
    request.headers_mut().insert(http::header::AUTHORIZATION, bearer);
    let secret = http::HeaderValue::from_str(&secret).map_err(|error| error.to_string())?;
    request.headers_mut().insert(SESSION_HEADER, secret);
    let (socket, _) = client_async(request, stream).await.map_err(|error| error.to_string())?;
    Ok(socket)
}
