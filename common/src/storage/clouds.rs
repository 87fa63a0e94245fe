//! Stores in clouds, each with the credentials that its own tools would take from the environment.

use super::address::{Cloud, StoreSettings};
use super::guarded::Guarded;
use super::{Environment, Store};
use crate::error::Explained;
use crate::hosts;
use object_store::{BackoffConfig, RetryConfig};
use std::time::Duration;

/// The library's own bound on a whole request, which must not end the reading of a large object. Waiting
/// is bounded part by part instead; see `Bounded`.
const REQUEST: &str = "24h";
/// Pauses between repeated requests: the first, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Opens a bucket; `None` when this build lacks the cloud.
pub(super) fn open(
    cloud: Cloud,
    bucket: &str,
    settings: &StoreSettings,
    environment: &Environment,
) -> Option<Result<Store, Explained>> {
    // Tests and tools may open a store before their process has said what TLS is computed by.
    crate::tls::install_provider();
    match cloud {
        #[cfg(feature = "aws")]
        Cloud::S3 => Some(aws::open(bucket, settings, environment)),
        #[cfg(feature = "gcp")]
        Cloud::Gcs => Some(gcp::open(bucket, settings, environment)),
        #[cfg(feature = "azure")]
        Cloud::Azure => Some(azure::open(bucket, settings, environment)),
        #[cfg(not(feature = "aws"))]
        Cloud::S3 => None,
        #[cfg(not(feature = "gcp"))]
        Cloud::Gcs => None,
        #[cfg(not(feature = "azure"))]
        Cloud::Azure => None,
    }
}

/// Gives a builder every variable whose name it knows.
fn taught<B, K: std::str::FromStr>(
    builder: B,
    prefix: &str,
    environment: &Environment,
    with: impl Fn(B, K, &str) -> B,
) -> B {
    environment.keys(prefix).fold(builder, |builder, (name, value)| match name.parse() {
        Ok(key) => with(builder, key, value),
        Err(_) => builder,
    })
}

/// Refuses an endpoint in effect that is where clouds hand out credentials. Where a machine's own credentials
/// are looked for is no endpoint of a store.
fn check_endpoints(from: &str, found: &[Option<String>]) -> Result<(), Explained> {
    let what = format!("the store's endpoint ({from})");
    found.iter().flatten().try_for_each(|url| hosts::check_url(&what, url))
}

fn retries(settings: &StoreSettings) -> RetryConfig {
    let (init_backoff, max_backoff) = PAUSES;
    RetryConfig {
        backoff: BackoffConfig { init_backoff, max_backoff, base: 2.0 },
        max_retries: usize::try_from(settings.retries).unwrap_or(usize::MAX),
        retry_timeout: settings.patience,
    }
}

fn refused(error: &object_store::Error, environment: &Environment, hint: &str) -> Explained {
    Explained::new(environment.hidden(&Explained::from_error(error).what)).hint(hint)
}

#[cfg(feature = "aws")]
mod aws {
    use super::{
        Environment, Explained, Guarded, REQUEST, Store, StoreSettings, check_endpoints, refused,
        retries, taught,
    };
    use object_store::ClientConfigKey;
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey as Key, S3ConditionalPut};
    use std::sync::Arc;

    pub(super) fn open(
        bucket: &str,
        settings: &StoreSettings,
        environment: &Environment,
    ) -> Result<Store, Explained> {
        let builder = AmazonS3Builder::new()
            .with_config(Key::Client(ClientConfigKey::Timeout), REQUEST)
            // One object a request: not every server knows the other way.
            .with_disable_bulk_delete(true);
        let mut builder =
            taught(builder, "AWS_", environment, |to, key, value| to.with_config(key, value))
                .with_bucket_name(bucket)
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                .with_retry(retries(settings));
        if let Some(region) = &settings.region {
            builder = builder.with_region(region);
        }
        if settings.allow_http {
            builder = builder.with_config(Key::Client(ClientConfigKey::AllowHttp), "true");
        }
        if !settings.path_style {
            builder = builder.with_virtual_hosted_style_request(true);
        }
        if let Some(endpoint) = &settings.endpoint {
            // This one goes before every other that the environment may name.
            builder = builder.with_config(Key::S3Endpoint, host(endpoint, bucket, settings));
        }
        let found = [Key::S3Endpoint, Key::Endpoint, Key::StsEndpoint]
            .map(|key| builder.get_config_value(&key));
        check_endpoints("AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_STS", &found)?;
        builder.with_http_connector(Guarded).build().map(|store| Arc::new(store) as Store).map_err(
            |error| {
                let hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY for this process";
                refused(&error, environment, hint)
            },
        )
    }

    /// The endpoint with the bucket in its name, where it is to stand there.
    fn host(endpoint: &str, bucket: &str, settings: &StoreSettings) -> String {
        match endpoint.split_once("://") {
            Some((scheme, host)) if !settings.path_style => format!("{scheme}://{bucket}.{host}"),
            Some(_) | None => endpoint.to_owned(),
        }
    }
}

#[cfg(feature = "azure")]
mod azure {
    use super::{
        Environment, Explained, Guarded, REQUEST, Store, StoreSettings, check_endpoints, refused,
        retries, taught,
    };
    use object_store::ClientConfigKey;
    use object_store::azure::{AzureConfigKey as Key, MicrosoftAzureBuilder};
    use std::sync::Arc;

    /// The library reads this one itself, where an emulator is asked for.
    const EMULATOR: &str = "AZURITE_BLOB_STORAGE_URL";

    pub(super) fn open(
        container: &str,
        settings: &StoreSettings,
        environment: &Environment,
    ) -> Result<Store, Explained> {
        let builder = MicrosoftAzureBuilder::new()
            .with_config(Key::Client(ClientConfigKey::Timeout), REQUEST);
        let mut builder =
            taught(builder, "AZURE_", environment, |to, key, value| to.with_config(key, value))
                .with_container_name(container)
                .with_retry(retries(settings));
        if settings.allow_http {
            builder = builder.with_config(Key::Client(ClientConfigKey::AllowHttp), "true");
        }
        if let Some(endpoint) = &settings.endpoint {
            // As an emulator it would take its address from AZURITE_BLOB_STORAGE_URL alone.
            builder = builder
                .with_use_emulator(false)
                .with_endpoint(endpoint.trim_end_matches('/').to_owned());
        }
        let found = [Key::Endpoint, Key::AuthorityHost].map(|key| builder.get_config_value(&key));
        check_endpoints("AZURE_STORAGE_ENDPOINT, AZURE_STORAGE_AUTHORITY_HOST", &found)?;
        check_endpoints(EMULATOR, &[environment.get(EMULATOR).map(str::to_owned)])?;
        builder.with_http_connector(Guarded).build().map(|store| Arc::new(store) as Store).map_err(|error| {
            let hint = "set AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY (or another \
                        credential of Azure's tools) for this process";
            refused(&error, environment, hint)
        })
    }
}

#[cfg(feature = "gcp")]
mod gcp {
    use super::{
        Environment, Explained, Guarded, REQUEST, Store, StoreSettings, check_endpoints, refused,
        retries, taught,
    };
    use object_store::ClientConfigKey;
    use object_store::gcp::{
        GoogleCloudStorage, GoogleCloudStorageBuilder, GoogleConfigKey as Key,
    };
    use std::sync::Arc;

    pub(super) fn open(
        bucket: &str,
        settings: &StoreSettings,
        environment: &Environment,
    ) -> Result<Store, Explained> {
        build(bucket, settings, environment).map(|store| Arc::new(store) as Store)
    }

    pub(super) fn build(
        bucket: &str,
        settings: &StoreSettings,
        environment: &Environment,
    ) -> Result<GoogleCloudStorage, Explained> {
        let builder = GoogleCloudStorageBuilder::new()
            .with_config(Key::Client(ClientConfigKey::Timeout), REQUEST)
            // The library's default for this cloud would be to allow it.
            .with_config(Key::Client(ClientConfigKey::AllowHttp), settings.allow_http.to_string());
        let mut builder =
            taught(builder, "GOOGLE_", environment, |to, key, value| to.with_config(key, value))
                .with_bucket_name(bucket)
                .with_retry(retries(settings));
        if let Some(endpoint) = &settings.endpoint {
            builder = builder.with_base_url(endpoint.trim_end_matches('/'));
        }
        let found = [builder.get_config_value(&Key::BaseUrl), named_by_account(&builder)];
        check_endpoints("GOOGLE_BASE_URL, or `gcs_base_url` of the service account", &found)?;
        builder.with_http_connector(Guarded).build().map_err(|error| {
            let hint = "set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account's key";
            refused(&error, environment, hint)
        })
    }

    /// A service account's key may name a server, too. One that cannot be read is the library's to refuse.
    fn named_by_account(builder: &GoogleCloudStorageBuilder) -> Option<String> {
        let file = builder.get_config_value(&Key::ServiceAccount);
        let text = match builder.get_config_value(&Key::ServiceAccountKey) {
            Some(text) => text,
            None => std::fs::read_to_string(file?).ok()?,
        };
        let key: serde_json::Value = serde_json::from_str(&text).ok()?;
        key.get("gcs_base_url")?.as_str().map(str::to_owned)
    }
}

#[cfg(all(test, feature = "gcp", feature = "aws", feature = "azure"))]
mod tests;
