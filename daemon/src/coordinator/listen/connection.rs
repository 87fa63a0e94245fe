//! One connection: its handshake, its requests, its end.

use super::connections::{Busy, Place};
use super::patient::Patient;
use crate::config::HttpConfig;
use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// Bytes that the system may hold for a reader that is slow.
const SEND_BUFFER: usize = 256 << 10;
/// The first byte of a TLS handshake; no request in the clear begins with it.
const HANDSHAKE: u8 = 0x16;

/// What all connections share.
pub(super) struct Serving {
    pub(super) http: HttpConfig,
    pub(super) tls: Option<TlsAcceptor>,
    pub(super) routes: Router,
    /// Answers whoever speaks plain HTTP where TLS is spoken.
    pub(super) plain: Router,
    pub(super) shutdown: CancellationToken,
}

/// Serves one connection until it ends, has to make way, or the coordinator stops.
pub(super) async fn serve(
    serving: Arc<Serving>,
    stream: TcpStream,
    peer: SocketAddr,
    place: Arc<Place>,
) {
    settle(&stream, &serving.http);
    tokio::select! {
        () = speak(&serving, stream, peer, &place) => {}
        () = place.gives_way() => tracing::debug!(%peer, "an idle connection makes way"),
    }
}

fn settle(stream: &TcpStream, http: &HttpConfig) {
    let socket = socket2::SockRef::from(stream);
    // An answer is not held back for more of it; a peer that vanished is noticed as one that takes nothing.
    let settled = stream
        .set_nodelay(true)
        .and_then(|()| socket.set_tcp_user_timeout(Some(http.write_timeout)))
        .and_then(|()| socket.set_send_buffer_size(SEND_BUFFER));
    if let Err(error) = settled {
        tracing::debug!(%error, "a connection stays as the system made it");
    }
}

async fn speak(serving: &Serving, stream: TcpStream, peer: SocketAddr, place: &Arc<Place>) {
    let patience = serving.http.write_timeout;
    let Some(acceptor) = &serving.tls else {
        let stream = Patient::new(stream, patience, Arc::clone(place));
        return requests(serving, stream, &serving.routes, (peer, place)).await;
    };
    let handshake = async {
        let mut first = [0];
        let is_tls = stream.peek(&mut first).await? == 0 || first[0] == HANDSHAKE;
        let stream = Patient::new(stream, patience, Arc::clone(place));
        match is_tls {
            true => acceptor.accept(stream).await.map(Ok),
            false => Ok(Err(stream)),
        }
    };
    match tokio::time::timeout(serving.http.handshake_timeout, handshake).await {
        Ok(Ok(Ok(stream))) => requests(serving, stream, &serving.routes, (peer, place)).await,
        Ok(Ok(Err(stream))) => requests(serving, stream, &serving.plain, (peer, place)).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "a TLS handshake failed"),
        Err(_) => tracing::debug!(%peer, "a TLS handshake took too long"),
    }
}

async fn requests(
    serving: &Serving,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    routes: &Router,
    (peer, place): (SocketAddr, &Arc<Place>),
) {
    let routes = TowerToHyperService::new(routes.clone());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let busy = place.begin();
        let answer = routes.call(request);
        async move { answer.await.map(|answer| held(answer, busy)) }
    });
    let http = &serving.http;
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(http.head_timeout)
        .max_headers(http.headers_max)
        .max_header_size(http.head_bytes_max)
        .max_buf_size(http.head_bytes_max)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = serving.shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "a connection broke");
    }
}

/// The connection is at work until the answer is gone; a worker's session, until it ends.
fn held(answer: Response<Body>, busy: Busy) -> Response<Body> {
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        busy.stays();
        return answer;
    }
    answer.map(|body| Body::new(Held::new(body, busy)))
}

/// Bytes of a body that are given away at once.
pub(in crate::coordinator) const PART: usize = 16 << 10;

/// A body that keeps something until its last part has been sent. It goes out in copies of small parts: the
/// HTTP library would else take the whole of it for a reader who takes nothing.
pub(in crate::coordinator) struct Held<K> {
    body: Body,
    rest: Bytes,
    _kept: K,
}

impl<K> Held<K> {
    pub(in crate::coordinator) fn new(body: Body, kept: K) -> Self {
        Self { body, rest: Bytes::new(), _kept: kept }
    }
}

impl<K: Unpin> HttpBody for Held<K> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        while self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) if data.len() > PART => self.rest = data,
                Ok(data) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Err(frame) => return Poll::Ready(Some(Ok(frame))),
            }
        }
        let count = self.rest.len().min(PART);
        let part = Bytes::copy_from_slice(&self.rest.split_to(count));
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        let mut all = SizeHint::new();
        all.set_lower(hint.lower() + rest);
        if let Some(upper) = hint.upper() {
            all.set_upper(upper + rest);
        }
        all
    }
}
