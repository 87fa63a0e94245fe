//! Server-sent events: a parser without input or output, and a reader that connects again.

use crate::failure::{Failure, Kind};
use crate::http::{self, Api, Patience};
use ptv2_common::error::Explained;
use serde::de::DeserializeOwned;

/// A line longer than this is no event of ptv2.
const LINE_BYTES_MAX: usize = 4 << 20;

/// One event as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its id.
    pub(crate) id: Option<String>,
    /// Its kind.
    pub(crate) event: Option<String>,
    /// Its lines, joined.
    pub(crate) data: String,
}

/// Turns bytes into messages, however the network cut them.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    message: Message,
    has_data: bool,
}

impl Parser {
    /// Takes bytes and returns the messages that they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Message>, Failure> {
        let mut messages = Vec::new();
        for &byte in bytes {
            let second_of_pair = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                b'\n' if second_of_pair => {}
                b'\n' | b'\r' => messages.extend(self.end_line()),
                _ if self.line.len() >= LINE_BYTES_MAX => {
                    let error = Explained::new("a line of the event stream is too long");
                    return Err(Failure::new(Kind::BadAnswer, error));
                }
                _ => self.line.push(byte),
            }
        }
        Ok(messages)
    }

    fn end_line(&mut self) -> Option<Message> {
        let line = std::mem::take(&mut self.line);
        let line = String::from_utf8_lossy(&line);
        if line.is_empty() {
            let message = std::mem::take(&mut self.message);
            let has_data = std::mem::take(&mut self.has_data);
            return (has_data || message.event.is_some()).then_some(message);
        }
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.message.id = Some(value.to_owned()),
            "event" => self.message.event = Some(value.to_owned()),
            "data" => {
                if self.has_data {
                    self.message.data.push('\n');
                }
                self.message.data.push_str(value);
                self.has_data = true;
            }
            // Comments, which begin with a colon, keep the connection alive and say nothing.
            _ => {}
        }
        None
    }
}

/// Reads a stream until the job is final, calling back for each item, across lost connections.
///
/// `after` is the number of the last item that is known already; it keeps up with the stream.
pub(crate) async fn follow<T: DeserializeOwned>(
    api: &Api,
    path: &[&str],
    mut after: Option<u64>,
    mut patience: Patience,
    mut on_item: impl FnMut(T) -> Result<(), Failure>,
) -> Result<(), Failure> {
    loop {
        let failure = match read_once(api, path, &mut after, &mut patience, &mut on_item).await {
            Ok(true) => return Ok(()),
            Ok(false) => {
                Failure::new(Kind::Unreachable, Explained::new("the coordinator closed the stream"))
            }
            Err(failure) => failure,
        };
        patience.bear(failure).await?;
    }
}

/// Reads one connection; says whether the stream's own end was reached.
async fn read_once<T: DeserializeOwned>(
    api: &Api,
    path: &[&str],
    after: &mut Option<u64>,
    patience: &mut Patience,
    on_item: &mut impl FnMut(T) -> Result<(), Failure>,
) -> Result<bool, Failure> {
    let mut answer = api.stream(path, *after).await?;
    let mut parser = Parser::default();
    while let Some(bytes) = answer.chunk().await.map_err(|error| http::unreachable(&error))? {
        patience.answered();
        for message in parser.feed(&bytes)? {
            if message.event.as_deref() == Some("end") {
                return Ok(true);
            }
            if let Some(item) = new_item(&message, after)? {
                on_item(item)?;
            }
        }
    }
    Ok(false)
}

/// Decodes a message, unless its number says that it was seen before.
fn new_item<T: DeserializeOwned>(
    message: &Message,
    after: &mut Option<u64>,
) -> Result<Option<T>, Failure> {
    let seq: Option<u64> = message.id.as_deref().and_then(|id| id.parse().ok());
    if let (Some(seq), Some(seen)) = (seq, *after)
        && seq <= seen
    {
        return Ok(None);
    }
    let item = serde_json::from_str(&message.data).map_err(|error| {
        let error = Explained::new(format!("an event cannot be read: {error}"))
            .hint("is the coordinator's version the same as ptv2ctl's?");
        Failure::new(Kind::BadAnswer, error)
    })?;
    *after = seq.or(*after);
    Ok(Some(item))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(id: Option<&str>, event: Option<&str>, data: &str) -> Message {
        Message { id: id.map(Into::into), event: event.map(Into::into), data: data.into() }
    }

    fn check(text: &str, expected: &[Message]) {
        assert_eq!(Parser::default().feed(text.as_bytes()).unwrap(), expected, "{text:?}");
        // The same, byte by byte.
        let mut parser = Parser::default();
        let cut: Vec<Message> =
            text.bytes().flat_map(|byte| parser.feed(&[byte]).unwrap()).collect();
        assert_eq!(cut, expected, "{text:?} in single bytes");
    }

    #[test]
    fn messages_are_what_stands_between_empty_lines() {
        check("id: 7\ndata: {\"a\":1}\n\n", &[message(Some("7"), None, "{\"a\":1}")]);
        check(
            "id:7\r\ndata:x\r\n\r\ndata: y\r\r",
            &[message(Some("7"), None, "x"), message(None, None, "y")],
        );
        check("data: a\ndata: b\n\n", &[message(None, None, "a\nb")]);
        check("event: end\ndata:\n\n", &[message(None, Some("end"), "")]);
        check("event: end\n\n", &[message(None, Some("end"), "")]);
    }

    #[test]
    fn comments_and_unfinished_messages_are_nothing() {
        check(":\n\n: still here\n\n", &[]);
        check("retry: 100\n\n", &[]);
        check("data: cut off\n", &[]);
        check(": hi\ndata: ä\n\n", &[message(None, None, "ä")]);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut parser = Parser::default();
        assert!(parser.feed(&vec![b'x'; LINE_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn what_was_seen_is_not_shown_again() {
        let mut after = Some(4);
        let mut seen = |id: &str| -> Option<u32> {
            new_item(&message(Some(id), None, "5"), &mut after).unwrap()
        };
        assert_eq!((seen("4"), seen("5"), seen("5")), (None, Some(5), None));
        assert!(new_item::<u32>(&message(None, None, "{"), &mut None).is_err());
    }

    proptest! {
        #[test]
        fn however_bytes_are_cut_they_are_the_same_messages(
            bytes in proptest::collection::vec(
                prop_oneof![
                    any::<u8>(),
                    proptest::sample::select(&b"\r\n\n:: iddataevent0"[..]),
                ],
                0..200,
            ),
            cut in 0_usize..200,
        ) {
            let whole = Parser::default().feed(&bytes).unwrap();
            let (first, rest) = bytes.split_at(cut.min(bytes.len()));
            let mut parser = Parser::default();
            let parts = [first, rest].map(|part| parser.feed(part).unwrap()).concat();
            prop_assert_eq!(&parts, &whole);
            for message in whole {
                drop(new_item::<serde_json::Value>(&message, &mut Some(3)));
            }
        }
    }
}
