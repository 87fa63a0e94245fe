//! A store's errors in few words. Servers answer with pages of XML, some of which name access keys.

use crate::error::Explained;
use object_store::Error;

/// The longest text that is passed on.
const LONGEST: usize = 600;
/// Where machines in a cloud are asked for credentials.
const METADATA: [&str; 3] = ["//169.254.169.254", "//169.254.170.2", "//metadata.google.internal"];

/// How a server says that it does not take who asks.
const REFUSED: [&str; 2] = ["status code: 401", "status code: 403"];

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A failure that no library has words for.
pub(super) fn failed(text: String) -> Error {
    Error::Generic { store: "artifact store", source: text.into() }
}

/// The same error in few words.
pub(super) fn few(mut error: Error) -> Error {
    if let Some(cause) = cause(&mut error) {
        *cause = told(&**cause);
    }
    error
}

/// What a server said, or the way to it.
fn cause(error: &mut Error) -> Option<&mut Cause> {
    match error {
        Error::Generic { source, .. }
        | Error::NotFound { source, .. }
        | Error::AlreadyExists { source, .. }
        | Error::Precondition { source, .. }
        | Error::NotModified { source, .. }
        | Error::PermissionDenied { source, .. }
        | Error::Unauthenticated { source, .. } => Some(source),
        Error::InvalidPath { .. }
        | Error::JoinError { .. }
        | Error::NotSupported { .. }
        | Error::NotImplemented { .. }
        | Error::UnknownConfigurationKey { .. }
        | _ => None,
    }
}

fn told(cause: &(dyn std::error::Error + Send + Sync + 'static)) -> Cause {
    let text = Explained::from_error(cause).what;
    if METADATA.iter().any(|place| text.contains(place)) {
        return "there are no credentials in this process's environment, and this machine's cloud \
                gives none"
            .into();
    }
    // The library knows these of some requests only.
    if REFUSED.iter().any(|status| text.contains(status)) {
        return format!("look at the credentials in this process's environment: {}", plain(&text))
            .into();
    }
    plain(&text).into()
}

/// Takes code and message out of an XML page, and cuts what is long.
fn plain(text: &str) -> String {
    let element = |name: &str| {
        let (_, rest) = text.split_once(&format!("<{name}>"))?;
        rest.split_once("</").map(|(inner, _)| inner.lines().next().unwrap_or(inner).trim())
    };
    let mut plain = match (text.split_once('<'), element("Code")) {
        (Some((before, _)), Some(code)) => {
            let before = before.trim_end_matches([' ', ':', '\u{feff}']);
            let message = element("Message").map_or_else(String::new, |words| format!(": {words}"));
            format!("{before}: {code}{message}")
        }
        (Some(_) | None, _) => text.to_owned(),
    };
    if let Some((end, _)) = plain.char_indices().nth(LONGEST) {
        plain.truncate(end);
        plain.push('…');
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_xml_becomes_its_code_and_message() {
        let page = "Error performing PUT http://h/b/k in 4ms - Server returned non-2xx status code: \
                    403 Forbidden: <?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error>\
                    <Code>SignatureDoesNotMatch</Code><Message>The signature\nRequestId:7</Message>\
                    <AWSAccessKeyId>AKGEHEIM</AWSAccessKeyId></Error>";
        let denied = Error::PermissionDenied { path: "k".into(), source: page.into() };
        for error in [denied, Error::Generic { store: "S3", source: page.into() }] {
            let said = few(error).to_string();
            assert!(
                said.ends_with("403 Forbidden: SignatureDoesNotMatch: The signature"),
                "{said}"
            );
            assert!(said.contains("look at the credentials") && !said.contains("GEHEIM"), "{said}");
        }
    }

    #[test]
    fn the_search_for_credentials_is_told_as_what_it_is() {
        let source = "Error performing PUT http://169.254.169.254/latest/api/token in 3s".into();
        let said = few(Error::Generic { store: "S3", source }).to_string();
        assert!(said.contains("no credentials in this process's environment"), "{said}");
    }

    #[test]
    fn long_texts_are_cut() {
        assert_eq!(plain(&"é".repeat(2000)).chars().count(), LONGEST + 1);
        assert_eq!(plain("a < b"), "a < b");
    }
}
