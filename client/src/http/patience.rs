//! How long a coordinator is borne that does not answer.

use super::Api;
use crate::failure::{Failure, Kind};
use crate::render;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::Instant;

/// How long one is borne that does not answer, or that asks to be asked later.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);
const FIRST_DELAY: Duration = Duration::from_millis(200);
const LONGEST_DELAY: Duration = Duration::from_secs(3);

/// Bears a coordinator that does not answer, for a minute after its last sign of life.
#[derive(Debug)]
pub(crate) struct Patience {
    silent_since: Option<Instant>,
    delay: Duration,
    says_so: bool,
}

impl Patience {
    /// Tells a person on stderr, or leaves that to another.
    pub(crate) fn new(says_so: bool) -> Self {
        Self { silent_since: None, delay: FIRST_DELAY, says_so }
    }

    /// Notes a sign of life.
    pub(crate) fn answered(&mut self) {
        if self.silent_since.take().is_some() && self.says_so {
            render::note("the coordinator answers again");
        }
        self.delay = FIRST_DELAY;
    }

    /// Waits before another try, or gives the failure back: it is of another kind, or a minute is over.
    pub(crate) async fn bear(&mut self, failure: Failure) -> Result<(), Failure> {
        if failure.kind != Kind::Unreachable {
            return Err(failure);
        }
        let now = Instant::now();
        let since = *self.silent_since.get_or_insert_with(|| {
            if self.says_so {
                render::note(&format!(
                    "{failure}; trying again for up to {} s",
                    PATIENCE.as_secs()
                ));
            }
            now
        });
        if now.duration_since(since) > PATIENCE {
            return Err(failure);
        }
        tokio::time::sleep(self.delay).await;
        self.delay = (self.delay * 2).min(LONGEST_DELAY);
        Ok(())
    }

    /// Gets an answer, with this patience.
    pub(crate) async fn get<T: DeserializeOwned>(
        &mut self,
        api: &Api,
        path: &[&str],
    ) -> Result<T, Failure> {
        loop {
            match api.get(path).await {
                Ok(answer) => {
                    self.answered();
                    return Ok(answer);
                }
                Err(failure) => self.bear(failure).await?,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::error::Explained;

    #[tokio::test(start_paused = true)]
    async fn patience_ends_after_a_minute_of_silence() {
        let failure = Failure::new(Kind::Unreachable, Explained::new("nobody there"));
        let mut patience = Patience::new(false);
        let start = Instant::now();
        while patience.bear(failure.clone()).await.is_ok() {}
        let waited = start.elapsed();
        assert!(waited >= PATIENCE && waited < PATIENCE + 2 * LONGEST_DELAY, "{waited:?}");
        patience.answered();
        assert!(patience.bear(failure).await.is_ok());
    }

    #[tokio::test]
    async fn patience_is_only_for_silence() {
        let failure = Failure::new(Kind::NotFound, Explained::new("no such job"));
        assert!(Patience::new(false).bear(failure).await.is_err());
    }
}
