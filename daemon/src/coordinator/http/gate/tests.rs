use super::*;
use axum::http::header::AUTHORIZATION;
use axum::routing::{get, post};
use ptv2_common::access::Scope;
use std::num::NonZeroU32;
use std::task::Poll;
use tokio::sync::mpsc;

/// The routes that a gate stands before: an answer, an echo, a stream, and one that takes long. Only the token
/// `good` is.
fn routes(http: &HttpConfig) -> Router {
    let gate = Gate::new(http);
    let check = async |mut request: Request, next: Next| {
        let token = request.headers().get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let Some(token) = token.filter(|token| token.starts_with(b"good")) else {
            return StatusCode::UNAUTHORIZED.into_response();
        };
        let caller = Caller::named(&String::from_utf8_lossy(token), Scope::Admin);
        request.extensions_mut().insert(caller);
        next.run(request).await
    };
    let never = || Body::from_stream(futures_util::stream::pending::<Result<Bytes, axum::Error>>());
    Router::new()
        .route("/answer", get(async || "answer"))
        .route("/echo", post(async |body: Bytes| body))
        .route("/{job}/stream", get(async move || never()))
        .route("/long", get(async || tokio::time::sleep(Duration::from_secs(3600)).await))
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&gate), known))
        .layer(axum::middleware::from_fn(check))
        .layer(axum::middleware::from_fn_with_state(gate, strangers))
}

fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

/// Asks the routes themselves, as the listener does.
async fn ask(routes: &Router, path: &str, token: &str, body: Body) -> Response {
    let method = if path == "/echo" { "POST" } else { "GET" };
    let request = Request::builder().method(method).uri(path).header(AUTHORIZATION, token);
    let mut request = request.body(body).unwrap();
    request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([10, 0, 0, 7], 1))));
    let service = hyper_util::service::TowerToHyperService::new(routes.clone());
    hyper::service::Service::call(&service, request).await.unwrap()
}

async fn status(routes: &Router, path: &str, token: &str) -> u16 {
    ask(routes, path, token, Body::empty()).await.status().as_u16()
}

fn retry_after(answer: &Response) -> Option<u64> {
    answer.headers().get(RETRY_AFTER)?.to_str().unwrap().parse().ok()
}

#[tokio::test]
async fn a_token_has_its_rate_and_others_have_theirs() {
    let http = HttpConfig {
        requests_per_second: count(1),
        requests_burst: count(3),
        ..HttpConfig::default()
    };
    let routes = routes(&http);
    for _ in 0..3 {
        assert_eq!(status(&routes, "/answer", "good 1").await, 200);
    }
    // On a slow machine there may be room for some more.
    let mut refused = ask(&routes, "/answer", "good 1", Body::empty()).await;
    for _ in 0..100 {
        if refused.status() == 429 {
            break;
        }
        refused = ask(&routes, "/answer", "good 1", Body::empty()).await;
    }
    assert_eq!((refused.status().as_u16(), retry_after(&refused)), (429, Some(1)));
    assert_eq!(status(&routes, "/answer", "good 2").await, 200);
}

#[tokio::test]
async fn strangers_are_held_up_and_hold_nobody_up() {
    let http = HttpConfig { refusals_per_minute: count(2), ..HttpConfig::default() };
    let routes = routes(&http);
    assert_eq!(status(&routes, "/answer", "bad").await, 401);
    assert_eq!(status(&routes, "/answer", "").await, 401);
    let refused = ask(&routes, "/answer", "bad", Body::empty()).await;
    assert_eq!(refused.status().as_u16(), 429);
    assert!(retry_after(&refused).is_some_and(|seconds| (1..=60).contains(&seconds)));
    assert_eq!(refused.headers().get(CONNECTION).unwrap(), "close");
    assert_eq!(status(&routes, "/answer", "good").await, 200, "from the same address");
}

#[tokio::test]
async fn followers_are_bounded_until_they_go() {
    let http = HttpConfig { streams_max: 2, streams_per_token: 1, ..HttpConfig::default() };
    let routes = routes(&http);
    let first = ask(&routes, "/a/stream", "good 1", Body::empty()).await;
    assert_eq!(status(&routes, "/a/stream", "good 1").await, 429);
    assert_eq!(status(&routes, "/answer", "good 1").await, 200);
    let _second = ask(&routes, "/a/stream", "good 2", Body::empty()).await;
    assert_eq!(status(&routes, "/a/stream", "good 3").await, 503);
    drop(first);
    assert_eq!(status(&routes, "/a/stream", "good 3").await, 200);
}

#[tokio::test]
async fn a_body_is_bounded_whether_its_length_is_told_or_not() {
    let http = HttpConfig { body_bytes_max: 10, ..HttpConfig::default() };
    let routes = routes(&http);
    let told = |length: usize| Body::from(vec![b'x'; length]);
    let parts = |length: usize| {
        let part = |_| Ok::<_, axum::Error>(Bytes::from_static(b"x"));
        Body::from_stream(futures_util::stream::iter((0..length).map(part)))
    };
    for (body, expected) in [(told(10), 200), (told(11), 413), (parts(10), 200), (parts(11), 413)] {
        let answer = ask(&routes, "/echo", "good", body).await;
        assert_eq!(answer.status().as_u16(), expected);
        if expected == 200 {
            let back = axum::body::to_bytes(answer.into_body(), 100).await.unwrap();
            assert_eq!(back.len(), 10);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_does_not_come_is_waited_for_no_longer() {
    let routes = routes(&HttpConfig::default());
    let (_sender, mut receiver) = mpsc::channel::<Result<Bytes, axum::Error>>(1);
    let never = futures_util::stream::poll_fn(move |context| receiver.poll_recv(context));
    let answer = ask(&routes, "/echo", "good", Body::from_stream(never)).await;
    assert_eq!(answer.status().as_u16(), 408);
    assert_eq!(status(&routes, "/long", "good").await, 503);
}

/// The HTTP library's reading may leave nothing of what a task may do at once.
#[tokio::test]
async fn a_body_has_its_time_although_reading_leaves_no_budget() {
    let http = HttpConfig { body_timeout: Duration::from_millis(10), ..HttpConfig::default() };
    let routes = routes(&http);
    let never = futures_util::stream::pending::<Result<Bytes, axum::Error>>();
    let mut answer = Box::pin(ask(&routes, "/echo", "good", Body::from_stream(never)));
    let starved = std::future::poll_fn(|context| {
        while let Poll::Ready(progress) = tokio::task::coop::poll_proceed(context) {
            progress.made_progress();
        }
        answer.as_mut().poll(context)
    });
    let answer = tokio::time::timeout(Duration::from_secs(20), starved).await;
    assert_eq!(answer.expect("an answer in time").status().as_u16(), 408);
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_together() {
    let http = HttpConfig { held_bytes_max: 100_000, ..HttpConfig::default() };
    let routes = routes(&http);
    let echo = async || ask(&routes, "/echo", "good", Body::from(vec![0; 60_000])).await;
    let first = echo().await;
    let second = echo().await;
    assert_eq!((first.status().as_u16(), second.status().as_u16()), (200, 503));
    assert_eq!(retry_after(&second), Some(1));
    drop(first);
    let all = async || ask(&routes, "/echo", "good", Body::from(vec![0; 100_000])).await;
    let whole = all().await;
    assert_eq!((whole.status().as_u16(), echo().await.status().as_u16()), (200, 503));
    assert_eq!(status(&routes, "/answer", "good").await, 200, "a small one is given all the same");
    drop(whole);
    assert_eq!(echo().await.status().as_u16(), 200);
}

/// The HTTP library takes what it is given: were that the whole answer, nobody would count what it holds.
#[tokio::test]
async fn an_answer_goes_out_in_parts_and_counts_until_the_last() {
    let http = HttpConfig { held_bytes_max: 1 << 20, ..HttpConfig::default() };
    let routes = routes(&http);
    let sent: Vec<u8> = (0..700_000_u32).map(|at| (at % 251) as u8).collect();
    let echo = async || ask(&routes, "/echo", "good", Body::from(sent.clone())).await;
    let body = echo().await.into_body();
    assert_eq!(HttpBody::size_hint(&body).exact(), Some(700_000));
    let mut parts = body.into_data_stream();
    let mut found = Vec::new();
    while found.len() < sent.len() {
        assert_eq!(echo().await.status().as_u16(), 503, "after {} bytes", found.len());
        let part = parts.next().await.unwrap().unwrap();
        assert!(part.len() <= 16 << 10);
        found.extend_from_slice(&part);
    }
    assert!(found == sent && parts.next().await.is_none());
    drop(parts);
    assert_eq!(echo().await.status().as_u16(), 200);
}

#[test]
fn tokens_that_asked_long_ago_are_forgotten() {
    // A token's room is full again after a microsecond: as good as one that never asked.
    let http = HttpConfig {
        requests_per_second: count(1_000_000),
        requests_burst: count(1),
        ..HttpConfig::default()
    };
    let gate = Gate::new(&http);
    for caller in 0..3 * CALLERS as u64 {
        assert!(gate.in_turn(caller).is_ok(), "{caller}");
    }
    assert!(gate.callers.len() <= CALLERS + 1, "{} are remembered", gate.callers.len());
}
