use super::*;
use tokio::task::JoinHandle;

fn check(base: &str, path: &[&str], expected: &str) {
    assert_eq!(address(&Url::parse(base).unwrap(), path).unwrap().as_str(), expected);
}

#[test]
fn names_are_escaped() {
    check("http://h:1", &["jobs", "a/b?c"], "http://h:1/v1/jobs/a%2Fb%3Fc");
    check("http://h:1/behind/", &["workers"], "http://h:1/behind/v1/workers");
    assert!(address(&Url::parse("http://h").unwrap(), &["jobs", ".."]).is_err());
}

#[test]
fn a_missing_token_says_where_it_is_looked_for() {
    let failure = read_token(Path::new("/nowhere/token")).unwrap_err();
    assert_eq!(failure.kind.exit_code(), 6);
    let message = failure.message();
    assert!(message.contains("PTV2_TOKEN_FILE") && message.contains(".ptv2/token"));
}

#[test]
fn a_token_is_trimmed() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "abc\n").unwrap();
    assert_eq!(read_token(&file).unwrap().to_str().unwrap(), "Bearer abc");
    std::fs::write(&file, " \n").unwrap();
    assert_eq!(read_token(&file).unwrap_err().kind, Kind::NotPermitted);
}

/// Answers one connection after the other with these texts.
async fn answer(listener: tokio::net::TcpListener, answers: &'static [&'static str]) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for answer in answers {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        let rest = "connection: close\r\ncontent-length: 2\r\n\r\n[]";
        stream.write_all(format!("HTTP/1.1 {answer}{rest}").as_bytes()).await.unwrap();
    }
}

/// A client of a coordinator that answers so. The folder holds its token.
async fn client(answers: &'static [&'static str]) -> (tempfile::TempDir, Api, JoinHandle<()>) {
    use clap::Parser;
    tls::install_provider();
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "abc").unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let args = ["ptv2ctl", "--coordinator", &url, "--token-file", token.to_str().unwrap()];
    let cli = crate::cli::Cli::parse_from(args.into_iter().chain(["workers"]));
    let api = Api::new(&cli.global).unwrap();
    (folder, api, tokio::spawn(answer(listener, answers)))
}

#[tokio::test]
async fn one_that_is_asked_too_much_is_asked_again_when_it_says() {
    let answers = &["429 Too Many\r\nretry-after: 1\r\n", "200 OK\r\n", "503 Busy\r\n"];
    let (_folder, api, answered) = client(answers).await;
    let began = Instant::now();
    let found: Vec<u8> = api.get(&["workers"]).await.unwrap();
    assert!(found.is_empty() && began.elapsed() >= Duration::from_secs(1));
    let failure = api.get::<Vec<u8>>(&["workers"]).await.unwrap_err();
    assert_eq!(failure.kind, Kind::Unreachable, "told no time, the caller decides");
    answered.await.unwrap();
}

#[tokio::test]
async fn a_coordinator_of_another_version_is_told_once() {
    const SAME: &str = concat!("200 OK\r\nptv2-version: ", env!("CARGO_PKG_VERSION"), "\r\n");
    let answers = &["200 OK\r\n", SAME, "200 OK\r\nptv2-version: 99.0.0\r\n"];
    let (_folder, api, answered) = client(answers).await;
    for was_told in [false, false, true] {
        api.get::<Vec<u8>>(&["workers"]).await.unwrap();
        assert_eq!(api.versions_differ.load(Ordering::Relaxed), was_told);
    }
    answered.await.unwrap();

    let headers = |version: &'static str| {
        HeaderMap::from_iter([(VERSION_HEADER.parse().unwrap(), HeaderValue::from_static(version))])
    };
    assert_eq!(api.compare_versions(&headers("99.0.0")), None, "it was told before");
    api.versions_differ.store(false, Ordering::Relaxed);
    assert_eq!(api.compare_versions(&headers(ptv2_common::VERSION)), None);
    let note = api.compare_versions(&headers("99.0.0")).unwrap();
    for part in [ptv2_common::VERSION, "99.0.0", "install the same version"] {
        assert!(note.contains(part), "{note}");
    }
}
