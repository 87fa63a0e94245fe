//! A proxy in front of a store's server that does harm on demand. It understands HTTP, so that it can answer
//! in the server's place, and lose an answer after the server has done what was asked.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, BodyStream, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use std::net::{SocketAddr, TcpStream as Socket};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

/// A black hole ends after this long, should nobody have healed it.
const LONGEST: Duration = Duration::from_secs(120);

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It is answered with this status, and the server hears nothing of it.
    Status(u16),
    /// The same with 503 and the words that S3 has for it.
    SlowDown,
    /// The connection is reset before the server hears of it.
    Reset,
    /// The connection is reset after so many bytes, of what is sent or else of what comes back.
    Cut(usize),
    /// It is passed on after this long.
    Late(Duration),
    /// Nothing ever comes back.
    BlackHole,
    /// The server does what is asked, and the connection is reset instead of its answer.
    AnswerLost,
}

/// Which requests a fault meets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    All,
    /// Those that write.
    Writes,
    /// The parts of an upload in parts.
    Parts,
    /// What makes an object of its parts.
    Ends,
}

impl Met {
    /// As S3 and Azure have them: `?partNumber=1&uploadId=…` and then `?uploadId=…`; `?comp=block&…` and then
    /// `?comp=blocklist`.
    fn meets(self, method: &hyper::Method, query: &str) -> bool {
        let has = |what: &str| query.split('&').any(|pair| pair.starts_with(what));
        match self {
            Self::All => true,
            Self::Writes => is_write(method),
            Self::Parts => {
                *method == hyper::Method::PUT
                    && (has("partNumber=") || query.split('&').any(|pair| pair == "comp=block"))
            }
            Self::Ends => {
                (*method == hyper::Method::POST && has("uploadId="))
                    || (*method == hyper::Method::PUT && has("comp=blocklist"))
            }
        }
    }
}

/// What happens, and to which requests.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rule {
    pub(crate) fault: Fault,
    pub(crate) met: Met,
    /// So many of them, and then no more.
    pub(crate) times: usize,
}

#[derive(Default)]
struct Rules {
    rule: Option<Rule>,
    hits: usize,
}

#[derive(Default)]
struct Shared {
    rules: Mutex<Rules>,
    healed: Notify,
}

impl Shared {
    /// What happens to a request of this method, with what its URL asks.
    fn fault(&self, method: &hyper::Method, query: &str) -> Option<Fault> {
        let mut rules = self.rules.lock().unwrap();
        let meets = |rule: &&mut Rule| rule.times > 0 && rule.met.meets(method, query);
        let rule = rules.rule.as_mut().filter(meets)?;
        rule.times -= 1;
        let fault = rule.fault;
        rules.hits += 1;
        Some(fault)
    }
}

fn is_write(method: &hyper::Method) -> bool {
    !matches!(*method, hyper::Method::GET | hyper::Method::HEAD)
}

/// The proxy. It ends when it is dropped.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    _runtime: Runtime,
}

impl Proxy {
    /// Listens on any free port, in front of this address, and does no harm yet.
    pub(crate) fn before(server: SocketAddr) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        runtime.spawn(accept(listener, server, Arc::clone(&shared)));
        Self { address, shared, _runtime: runtime }
    }

    /// Does this from now on.
    pub(crate) fn does(&self, rule: Rule) {
        *self.shared.rules.lock().unwrap() = Rules { rule: Some(rule), hits: 0 };
    }

    /// Does no harm any more.
    pub(crate) fn heals(&self) {
        self.shared.rules.lock().unwrap().rule = None;
        self.shared.healed.notify_waiters();
    }

    /// How many requests the last fault has met.
    pub(crate) fn hits(&self) -> usize {
        self.shared.rules.lock().unwrap().hits
    }
}

type Broken = Box<dyn std::error::Error + Send + Sync>;
type Body = BoxBody<Bytes, Broken>;

async fn accept(listener: TcpListener, server: SocketAddr, shared: Arc<Shared>) {
    while let Ok((near, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let Some((near, handle)) = with_handle(near) else { return };
            let handle = Arc::new(handle);
            let service = service_fn(|request| {
                pass(request, server, Arc::clone(&shared), Arc::clone(&handle))
            });
            let http = hyper::server::conn::http1::Builder::new();
            // An error is a fault that was asked for, or a client that went.
            drop(http.serve_connection(TokioIo::new(near), service).await);
        });
    }
}

/// The connection, and a second handle to its socket.
fn with_handle(near: TcpStream) -> Option<(TcpStream, Socket)> {
    near.set_nodelay(true).ok()?;
    let near = near.into_std().ok()?;
    let handle = near.try_clone().ok()?;
    Some((TcpStream::from_std(near).ok()?, handle))
}

/// Has a connection end by a reset as soon as it is let go.
fn reset(socket: &Socket) -> Broken {
    // An error means that the connection is gone already.
    drop(SockRef::from(socket).set_linger(Some(Duration::ZERO)));
    "reset".into()
}

async fn pass(
    request: Request<Incoming>,
    server: SocketAddr,
    shared: Arc<Shared>,
    near: Arc<Socket>,
) -> Result<Response<Body>, Broken> {
    let query = request.uri().query().unwrap_or_default();
    let Some(fault) = shared.fault(request.method(), query) else {
        return forward(request, server).await;
    };
    match fault {
        Fault::Status(status) => answer(request, status, "").await,
        Fault::SlowDown => {
            let page = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code>\
                        <Message>Please reduce your request rate.</Message></Error>";
            answer(request, 503, page).await
        }
        Fault::Reset => Err(reset(&near)),
        Fault::Cut(after) if is_write(request.method()) => {
            let mut sent = BodyStream::new(request.into_body());
            let mut bytes = 0;
            while bytes < after
                && let Some(frame) = sent.next().await
            {
                bytes += frame?.data_ref().map_or(0, Bytes::len);
            }
            Err(reset(&near))
        }
        Fault::Cut(after) => {
            let answer = forward(request, server).await?;
            Ok(answer.map(|body| cut(body, after, near)))
        }
        Fault::Late(time) => {
            tokio::time::sleep(time).await;
            forward(request, server).await
        }
        Fault::BlackHole => {
            drop(tokio::time::timeout(LONGEST, shared.healed.notified()).await);
            Err(reset(&near))
        }
        Fault::AnswerLost => {
            drop(forward(request, server).await?.into_body().collect().await);
            Err(reset(&near))
        }
    }
}

/// So many bytes of a body, and then a reset.
fn cut(body: Body, after: usize, near: Arc<Socket>) -> Body {
    let mut left = after;
    let parts = BodyStream::new(body).map(move |frame| {
        let Ok(mut data) = frame?.into_data() else { return Err(reset(&near)) };
        if left == 0 {
            return Err(reset(&near));
        }
        data.truncate(left);
        left -= data.len();
        Ok(Frame::data(data))
    });
    // What is shorter than the cut ends by a reset all the same.
    let end = stream::once(async { Err::<Frame<Bytes>, Broken>("cut".into()) });
    BodyExt::boxed(StreamBody::new(parts.chain(end)))
}

/// Answers in the server's place, once the request is here.
async fn answer(
    request: Request<Incoming>,
    status: u16,
    page: &str,
) -> Result<Response<Body>, Broken> {
    request.into_body().collect().await?;
    let page = Full::new(Bytes::copy_from_slice(page.as_bytes())).map_err(Into::into).boxed();
    Ok(Response::builder().status(status).body(page)?)
}

async fn forward(request: Request<Incoming>, server: SocketAddr) -> Result<Response<Body>, Broken> {
    let (parts, body) = request.into_parts();
    let bytes = body.collect().await?.to_bytes();
    let far = TokioIo::new(TcpStream::connect(server).await?);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(far).await?;
    tokio::spawn(connection);
    let answer = sender.send_request(Request::from_parts(parts, Full::new(bytes))).await?;
    Ok(answer.map(|body| body.map_err(Into::into).boxed()))
}
