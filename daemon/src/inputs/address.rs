//! The URL of a place in a store, as a job may name it or a root may allow it.

use ptv2_common::error::Explained;
use ptv2_common::hosts;
use std::fmt::{Display, Formatter};

/// The stores that inputs may lie in.
const SCHEMES: [&str; 3] = ["s3", "gs", "az"];
/// Letters of a URL at most.
const LENGTH_MAX: usize = 1024;
const EXPECTED: &str = "/absolute/path, file:///absolute/path, s3://bucket/prefix, gs://bucket/prefix or \
                        az://container/prefix, of letters, digits and . _ - = + , ~";

/// A place in a store, taken apart. Only what has one spelling is a URL here: no user, port, query,
/// percent sign, empty part or `..`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct StoreUrl {
    scheme: &'static str,
    bucket: String,
    parts: Vec<String>,
}

/// Whether a location is written as a URL of anything but a folder.
pub fn is_url(location: &str) -> bool {
    location.contains("://") && !location.starts_with('/') && !location.starts_with("file:")
}

impl StoreUrl {
    /// Takes a URL apart.
    ///
    /// # Errors
    /// Says what is refused of it, and which schemes there are. The place is the caller's.
    pub fn parse(text: &str) -> Result<Self, Explained> {
        // Not shown whole: what is refused may hold a secret.
        let refused = |what: &str| {
            Explained::new(what)
                .expected(EXPECTED)
                .hint("credentials come from the environment; an endpoint stands in `[storage]`")
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refused("it is no URL"))?;
        let Some(scheme) = SCHEMES.into_iter().find(|known| *known == scheme) else {
            let shown: String =
                scheme.chars().filter(char::is_ascii_alphanumeric).take(16).collect();
            return Err(refused(&format!("inputs are not read over `{shown}://`")));
        };
        if text.len() > LENGTH_MAX {
            return Err(refused(&format!("the URL has more than {LENGTH_MAX} letters")));
        }
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        let is_bucket = (1..=255).contains(&bucket.len())
            && bucket.starts_with(|c: char| c.is_ascii_alphanumeric())
            && bucket.bytes().all(|c| c.is_ascii_alphanumeric() || b"-._".contains(&c));
        if !is_bucket {
            return Err(refused("the URL names no bucket, or a user, a port or a query with it"));
        }
        hosts::check_host("the bucket", bucket).map_err(|error| error.expected(EXPECTED))?;
        let path = path.strip_suffix('/').unwrap_or(path);
        let parts: Vec<String> = match path {
            "" => Vec::new(),
            path => path.split('/').map(str::to_owned).collect(),
        };
        if !parts.iter().all(|part| is_part(part)) {
            return Err(refused("the URL has a part that is empty, climbs, or is not plain text"));
        }
        Ok(Self { scheme, bucket: bucket.to_owned(), parts })
    }

    /// Whether this place is the other one, or lies beneath it: by whole parts.
    pub fn is_beneath(&self, root: &Self) -> bool {
        self.scheme == root.scheme
            && self.bucket == root.bucket
            && self.parts.starts_with(&root.parts)
    }

    /// The store's kind: s3, gs or az.
    pub fn scheme(&self) -> &'static str {
        self.scheme
    }
}

fn is_part(part: &str) -> bool {
    !part.is_empty()
        && part != "."
        && part != ".."
        && part.bytes().all(|c| c.is_ascii_alphanumeric() || b"._-=+,~".contains(&c))
}

impl Display for StoreUrl {
    fn fmt(&self, f: &mut Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}", self.scheme, self.bucket)?;
        self.parts.iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> StoreUrl {
        StoreUrl::parse(text).unwrap()
    }

    #[test]
    fn a_url_has_one_spelling() {
        for text in ["s3://b", "gs://b-1.x/models", "az://c/a/b_c/d=1", "s3://B/..a/a.."] {
            assert_eq!(url(text).to_string(), text);
        }
        assert_eq!(url("s3://b/").to_string(), "s3://b");
        assert_eq!(url("s3://b/a/").to_string(), "s3://b/a");
    }

    #[test]
    fn tricks_are_refused() {
        for text in [
            "",
            "b",
            "https://b/a",
            "http://169.254.169.254/latest",
            "ftp://b",
            "S3://b",
            "s3:///a",
            "s3://",
            "s3://b//a",
            "s3://b/a//",
            "s3://b/../c",
            "s3://b/a/..",
            "s3://b/./a",
            "s3://b/%2e%2e/c",
            "s3://b/a%2fc",
            "s3://b%2fa",
            "s3://user@b/a",
            "s3://u:p@b/a",
            "s3://b:80/a",
            "s3://b/a?versionId=1",
            "s3://b/a#x",
            "s3://b?x/a",
            "s3://b\\a/c",
            "s3://b/a\\..\\c",
            "s3://b/a b",
            "s3://b/a\n",
            "s3://b/a\0",
            "s3://b/ü",
            "s3://b/\u{2024}\u{2024}/c",
            "s3://.b/a",
            "s3://[fe80::1]/a",
            "s3://169.254.169.254/a",
            "s3://2852039166/a",
            "s3://0xa9fea9fe/a",
            "s3://metadata.google.internal/a",
        ] {
            let error = StoreUrl::parse(text).unwrap_err();
            assert!(error.expected.is_some() && error.hint.is_some(), "{text:?}: {error:?}");
        }
        assert!(StoreUrl::parse(&format!("s3://b/{}", "a".repeat(1100))).is_err());
        let error = StoreUrl::parse("https://user:secret@b/a").unwrap_err();
        assert!(!format!("{error:?}").contains("secret"));
        assert!(error.expected.unwrap().contains("s3://bucket/prefix"));
    }

    #[test]
    fn a_place_lies_beneath_whole_parts() {
        let root = url("s3://b/models");
        for inside in ["s3://b/models", "s3://b/models/bert"] {
            assert!(url(inside).is_beneath(&root), "{inside}");
        }
        for outside in
            ["s3://b", "s3://b/models-2/x", "s3://b2/models", "gs://b/models", "s3://b/m"]
        {
            assert!(!url(outside).is_beneath(&root), "{outside}");
        }
        assert!(url("s3://b/x").is_beneath(&url("s3://b")));
    }

    #[test]
    fn folders_are_no_urls() {
        for location in ["/a", "file:///a", "/a://b", "a/b"] {
            assert!(!is_url(location), "{location}");
        }
        assert!(is_url("s3://b") && is_url("https://x/y"));
    }
}
