use super::*;

fn cloud(location: &str) -> (Cloud, String, String) {
    match Place::parse(location).unwrap() {
        Place::Cloud { cloud, bucket, prefix } => (cloud, bucket, prefix.to_string()),
        Place::Folder(folder) => panic!("{}", folder.display()),
    }
}

#[test]
fn urls_name_folders_buckets_and_prefixes() {
    let folder = |location: &str| local_path(location).unwrap().display().to_string();
    assert_eq!(folder("/a/b c"), "/a/b c");
    assert_eq!(folder("file:///a/b%20c"), "/a/b c");
    let of = |cloud, bucket: &str, prefix: &str| (cloud, bucket.to_owned(), prefix.to_owned());
    assert_eq!(cloud("s3://b-1.x_y/team/runs/"), of(Cloud::S3, "b-1.x_y", "team/runs"));
    assert_eq!(cloud("s3://bucket"), of(Cloud::S3, "bucket", ""));
    assert_eq!(cloud("gs://bucket/p"), of(Cloud::Gcs, "bucket", "p"));
    assert_eq!(cloud("az://container/p/q"), of(Cloud::Azure, "container", "p/q"));
    // Names of folders go where they seem to: no prefix leads out of a bucket.
    assert_eq!(cloud("s3://bucket/a/../../b"), of(Cloud::S3, "bucket", "b"));
    assert_eq!(cloud("s3://bucket/%2e%2e/b"), of(Cloud::S3, "bucket", "b"));
}

#[test]
fn what_names_no_store_is_refused() {
    for location in [
        "relative/path",
        "",
        "http://host/bucket",
        "ftp://bucket/p",
        "s3://",
        "s3:///prefix",
        "s3://.hidden/p",
        "s3://buc ket/p",
        "s3://bucket:9000/p",
        "s3://buck%2Fet/p",
        "s3://bucket/a%00b",
        "file://host/share",
    ] {
        let error = Place::parse(location).unwrap_err();
        assert!(error.expected.is_some(), "{location}: {error:?}");
    }
    assert!(local_path("s3://bucket/p").unwrap_err().hint.unwrap().contains("folder"));
}

#[test]
fn a_url_with_credentials_is_refused_and_not_shown() {
    for location in [
        "s3://user:geheim@bucket/p",
        "s3://geheim@bucket/p",
        "az://container/p?sig=geheim",
        "gs://bucket/p#geheim",
        "https://user:geheim@host/bucket",
        "nonsense?sig=geheim",
    ] {
        let error = StoreAddress::from(location).open_in(&Environment::default()).unwrap_err();
        let said = format!("{error:?}");
        assert!(!said.contains("geheim"), "{said}");
    }
}

#[test]
fn an_endpoint_is_a_plain_address() {
    let check = |endpoint: &str, allow_http: bool| {
        let endpoint = Some(endpoint.to_owned());
        StoreSettings { endpoint, allow_http, ..StoreSettings::default() }.check()
    };
    assert!(check("https://minio.example:9000", false).is_ok());
    assert!(check("http://127.0.0.1:9000", true).is_ok());
    let plain = check("http://127.0.0.1:9000", false).unwrap_err();
    assert!(plain.hint.unwrap().contains("allow_http"));
    for endpoint in ["https://user:geheim@host", "https://host/?key=geheim", "geheim", "s3://b"] {
        let said = format!("{:?}", check(endpoint, true).unwrap_err());
        assert!(!said.contains("geheim"), "{said}");
    }
    let metadata = check("https://169.254.169.254", false).unwrap_err();
    assert!(metadata.what.contains("metadata address"), "{metadata:?}");
    let settings = StoreSettings { patience: Duration::ZERO, ..StoreSettings::default() };
    assert_eq!(settings.check().unwrap_err().place.unwrap(), "storage.patience");
}

#[test]
fn an_address_survives_the_way_to_a_worker() {
    let settings = StoreSettings {
        endpoint: Some("https://minio.example:9000".into()),
        patience: Duration::from_millis(1500),
        ..StoreSettings::default()
    };
    let address = StoreAddress { url: "s3://bucket/p".into(), settings };
    let json = serde_json::to_string(&address).unwrap();
    assert_eq!(serde_json::from_str::<StoreAddress>(&json).unwrap(), address);
    let short = r#"{"url":"/folder"}"#;
    assert_eq!(serde_json::from_str::<StoreAddress>(short).unwrap(), StoreAddress::from("/folder"));
}

/// In the words of every build: a workspace has all clouds, and `make lint` checks builds of one.
#[test]
fn a_build_without_a_cloud_says_which_feature_it_lacks() {
    for (cloud, feature) in [(Cloud::S3, "aws"), (Cloud::Gcs, "gcp"), (Cloud::Azure, "azure")] {
        let error = lacking(cloud);
        assert!(error.expected.unwrap().contains(&format!("`{feature}`")));
        assert!(error.hint.unwrap().contains(&format!("--features {feature}")));
    }
}
