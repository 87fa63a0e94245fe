//! Followers, counted in all and for each token.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Those that are open.
pub(super) struct Streams {
    open: Mutex<BTreeMap<u64, usize>>,
    in_all: usize,
    of_token: usize,
}

/// One follower. It counts until this is dropped.
pub(super) struct Stream {
    streams: Arc<Streams>,
    token: u64,
}

/// Why there may be no further one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NoStream {
    /// All together are too many.
    InAll,
    /// Those of the token are.
    OfToken,
}

impl Streams {
    pub(super) fn new(in_all: usize, of_token: usize) -> Arc<Self> {
        Arc::new(Self { open: Mutex::default(), in_all, of_token })
    }

    /// Counts one more of a token.
    pub(super) fn begin(self: &Arc<Self>, token: u64) -> Result<Stream, NoStream> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.get(&token).is_some_and(|count| *count >= self.of_token) {
            return Err(NoStream::OfToken);
        }
        if open.values().sum::<usize>() >= self.in_all {
            return Err(NoStream::InAll);
        }
        *open.entry(token).or_default() += 1;
        Ok(Stream { streams: Arc::clone(self), token })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut open = self.streams.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.token) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.token);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn followers_are_counted_while_they_are_there() {
        let streams = Streams::new(3, 2);
        let (first, _second) = (streams.begin(1).unwrap(), streams.begin(1).unwrap());
        assert_eq!(streams.begin(1).err(), Some(NoStream::OfToken));
        let third = streams.begin(2).unwrap();
        assert_eq!(streams.begin(2).err(), Some(NoStream::InAll));
        drop(first);
        drop(third);
        assert!(streams.begin(2).is_ok());
        assert_eq!(streams.open.lock().unwrap().len(), 1, "a token without followers is forgotten");
    }
}
