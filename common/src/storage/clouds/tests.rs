use super::*;
use crate::storage::StoreAddress;
use object_store::signer::Signer;

fn at(url: &str, settings: StoreSettings) -> StoreAddress {
    StoreAddress { url: url.into(), settings }
}

/// A key that was made for this test and opens nothing.
fn service_account() -> String {
    let key = include_str!("key-for-tests.pem").replace('\n', "\\n");
    format!(
        r#"{{"type": "service_account", "private_key": "{key}", "private_key_id": "k1",
            "client_email": "ptv2@project.iam.gserviceaccount.com"}}"#
    )
}

#[test]
fn each_cloud_opens_with_credentials_of_the_environment() {
    let environment = Environment::of(&[
        ("AWS_ACCESS_KEY_ID", "AKID"),
        ("AWS_SECRET_ACCESS_KEY", "geheim"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
        ("AZURE_STORAGE_ACCOUNT_KEY", "Z2VoZWlt"),
        ("GOOGLE_SERVICE_ACCOUNT_KEY", &service_account()),
        ("AWS_UNKNOWN_TO_THE_LIBRARY", "x"),
    ]);
    for url in ["s3://bucket/p", "az://container/p", "gs://bucket/p"] {
        let store = at(url, StoreSettings::default()).open_in(&environment).unwrap();
        let said = format!("{store:?} {store}");
        assert!(!said.contains("geheim") && !said.contains("Z2VoZWlt"), "{url}: {said}");
        assert!(!said.contains("PRIVATE KEY"), "{url}");
    }
}

#[test]
fn what_is_wrong_with_credentials_is_said_without_them() {
    for (url, variables, named) in [
        ("s3://bucket", [("AWS_SECRET_ACCESS_KEY", "geheim-1")], "AWS_ACCESS_KEY_ID"),
        ("az://container", [("AZURE_STORAGE_ACCOUNT_KEY", "geheim-2")], "ACCOUNT_NAME"),
        ("az://container", [("AZURE_STORAGE_SAS_TOKEN", "geheim-3")], "ACCOUNT_NAME"),
        ("gs://bucket", [("GOOGLE_SERVICE_ACCOUNT_KEY", "\"geheim-4\"")], "GOOGLE_APPLICATION"),
        ("gs://bucket", [("GOOGLE_APPLICATION_CREDENTIALS", "/no/file")], "GOOGLE_APPLICATION"),
    ] {
        let opened = at(url, StoreSettings::default()).open_in(&Environment::of(&variables));
        let error = opened.unwrap_err();
        assert!(error.hint.as_ref().unwrap().contains(named), "{error:?}");
        assert_eq!(error.place.as_deref(), Some(url), "{error:?}");
        assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
    }
}

/// The parts of this cloud that need no server: no server for tests answers as it does.
#[tokio::test]
async fn a_url_of_google_is_signed() {
    crate::tls::install_provider();
    let key = service_account();
    let environment = Environment::of(&[("GOOGLE_SERVICE_ACCOUNT_KEY", key.as_str())]);
    let store = gcp::build("bucket", &StoreSettings::default(), &environment).unwrap();
    let path = object_store::path::Path::from("prefix/jobs/j1");
    let method = "GET".parse().unwrap();
    let signed = store.signed_url(method, &path, Duration::from_secs(60)).await.unwrap();
    let signed = signed.to_string();
    assert!(
        signed.starts_with("https://storage.googleapis.com/bucket/prefix/jobs/j1?"),
        "{signed}"
    );
    assert!(signed.contains("X-Goog-Algorithm=GOOG4-RSA-SHA256"), "{signed}");
    assert!(signed.contains("ptv2%40project.iam.gserviceaccount.com"), "{signed}");
    let (_, signature) = signed.split_once("X-Goog-Signature=").unwrap();
    assert_eq!(hex::decode(signature).unwrap().len(), 256, "{signed}");
}

/// What a request to a store is addressed to: nobody listens there, and the error names it.
async fn addressed(
    url: &str,
    settings: StoreSettings,
    more: &[(&str, &str)],
) -> Result<String, Explained> {
    let mut variables = vec![("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "geheim")];
    variables.extend_from_slice(more);
    let settings = StoreSettings { retries: 0, ..settings };
    let store = at(url, settings).open_in(&Environment::of(&variables))?;
    let found = crate::storage::get(&store, "k").await;
    Ok(found.map_or_else(|error| error.to_string(), |_| "somebody listens".into()))
}

#[tokio::test]
async fn endpoint_and_style_are_as_set() {
    let settings = |endpoint: &str, path_style| StoreSettings {
        endpoint: Some(endpoint.into()),
        allow_http: true,
        path_style,
        ..StoreSettings::default()
    };
    let in_path =
        addressed("s3://bucket/p", settings("http://127.0.0.1:1/", true), &[]).await.unwrap();
    assert!(in_path.contains("http://127.0.0.1:1/bucket/p/k"), "{in_path}");
    let in_host =
        addressed("s3://bucket/p", settings("http://localhost:1", false), &[]).await.unwrap();
    assert!(in_host.contains("http://bucket.localhost:1/p/k"), "{in_host}");
    let by_environment =
        [("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:2"), ("AWS_ALLOW_HTTP", "true")];
    let found =
        addressed("s3://bucket/p", StoreSettings::default(), &by_environment).await.unwrap();
    assert!(found.contains("http://127.0.0.1:2/bucket/p/k"), "{found}");
    // The configuration goes before the environment.
    let both = settings("http://127.0.0.1:1", true);
    let found = addressed("s3://bucket/p", both, &by_environment).await.unwrap();
    assert!(found.contains("http://127.0.0.1:1/bucket/p/k"), "{found}");
}

#[test]
fn an_endpoint_of_the_environment_is_no_metadata_service() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("account.json");
    let key = service_account();
    let key = key.replacen('{', r#"{"gcs_base_url": "http://metadata.google.internal","#, 1);
    std::fs::write(&file, &key).unwrap();
    for (url, name, value) in [
        ("s3://bucket", "AWS_ENDPOINT_URL", "http://169.254.169.254"),
        ("s3://bucket", "AWS_ENDPOINT_URL_S3", "http://2852039166/latest"),
        ("s3://bucket", "AWS_ENDPOINT_URL_STS", "https://[fd00:ec2::254]"),
        ("az://container", "AZURE_STORAGE_ENDPOINT", "https://168.63.129.16"),
        ("az://container", "AZURE_AUTHORITY_HOST", "https://metadata.azure.internal"),
        ("az://container", "AZURITE_BLOB_STORAGE_URL", "http://169.254.169.254:10000"),
        ("gs://bucket", "GOOGLE_BASE_URL", "http://metadata.google.internal."),
        ("gs://bucket", "GOOGLE_SERVICE_ACCOUNT_KEY", &key),
        ("gs://bucket", "GOOGLE_SERVICE_ACCOUNT", file.to_str().unwrap()),
    ] {
        let environment = Environment::of(&[
            ("AWS_ACCESS_KEY_ID", "AKID"),
            ("AWS_SECRET_ACCESS_KEY", "geheim"),
            ("AZURE_STORAGE_ACCOUNT_NAME", "account"),
            ("AZURE_STORAGE_ACCOUNT_KEY", "Z2VoZWlt"),
            (name, value),
        ]);
        let opened = at(url, StoreSettings::default()).open_in(&environment);
        let error = opened.err().unwrap_or_else(|| panic!("{name} was not looked at"));
        assert!(error.what.contains("metadata address") && error.hint.is_some(), "{error:?}");
        assert_eq!(error.place.as_deref(), Some(url), "{error:?}");
    }
}

#[tokio::test]
async fn a_redirect_leads_to_no_metadata_service() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (target, said) in [
        ("http://169.254.169.254/latest/meta-data", "169.254.169.254, a link-local or metadata"),
        ("http://metadata.google.internal/", "metadata.google.internal, a link-local or metadata"),
        ("http://127.0.0.1:1/elsewhere", "onnect"),
    ] {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let settings = StoreSettings {
            endpoint: Some(format!("http://{}", listener.local_addr().unwrap())),
            allow_http: true,
            ..StoreSettings::default()
        };
        let answers = tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let head = format!("HTTP/1.1 307 Elsewhere\r\nlocation: {target}\r\n");
                let rest = "content-length: 0\r\n\r\n";
                stream.write_all(format!("{head}{rest}").as_bytes()).await.unwrap();
            }
        });
        let found = addressed("s3://bucket", settings, &[]).await.unwrap();
        answers.abort();
        assert!(found.contains(said), "{target}: {found}");
    }
}
