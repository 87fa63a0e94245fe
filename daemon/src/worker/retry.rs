//! Trying again while the store fails.

use super::held::Exit;
use crate::checkpoint::read::Unread;
use ptv2_common::error::Explained;
use std::time::Duration;

/// Why something was not read.
pub(super) enum Failure {
    /// The store fails: trying again may help.
    Store(Explained),
    /// Trying again cannot help.
    Final(Explained),
}

impl From<Unread> for Failure {
    fn from(unread: Unread) -> Self {
        match unread {
            Unread::Store(error) => Self::Store(error),
            Unread::Damaged(error) => Self::Final(error),
        }
    }
}

impl From<Explained> for Failure {
    fn from(error: Explained) -> Self {
        Self::Final(error)
    }
}

/// Pauses between attempts: each twice as long as the one before up to a bound, and up to a quarter
/// shorter by chance, so that many who failed together do not come back together.
#[derive(Debug, Clone)]
pub(super) struct Pauses {
    next: Duration,
    longest: Duration,
}

impl Default for Pauses {
    fn default() -> Self {
        Self::between(Duration::from_millis(500), Duration::from_secs(15))
    }
}

impl Pauses {
    /// Begins with one pause and ends with another.
    pub(super) fn between(first: Duration, longest: Duration) -> Self {
        Self { next: first, longest }
    }

    /// The next pause.
    pub(super) fn next(&mut self) -> Duration {
        // Without chance the pauses are merely even.
        let chance = getrandom::u32().map_or(0.0, |random| f64::from(random) / f64::from(u32::MAX));
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause - pause.mul_f64(chance / 4.0)
    }
}

/// How often a thread that waits looks whether it still should.
const LOOK: Duration = Duration::from_millis(50);

/// Tries until it succeeds, or cannot, or is not wanted any more. `failed` hears of each failure.
///
/// # Errors
/// What no further attempt can mend; or that the group is to be left.
pub(super) fn patiently<T>(
    mut pauses: Pauses,
    mut attempt: impl FnMut() -> Result<T, Failure>,
    mut failed: impl FnMut(&Explained),
    is_over: impl Fn() -> bool,
) -> Result<T, Exit> {
    loop {
        match attempt() {
            Ok(found) => return Ok(found),
            Err(Failure::Final(error)) => return Err(error.into()),
            Err(Failure::Store(error)) => failed(&error),
        }
        let mut left = pauses.next();
        while !left.is_zero() {
            if is_over() {
                return Err(Exit::Left);
            }
            pause(left.min(LOOK));
            left = left.saturating_sub(LOOK);
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "a store that fails has no event to wait for")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn quick() -> Pauses {
        Pauses::between(Duration::from_millis(1), Duration::from_millis(2))
    }

    #[test]
    fn a_store_that_comes_back_costs_a_pause() {
        let (attempts, told) = (Cell::new(0), Cell::new(0));
        let attempt = || {
            attempts.set(attempts.get() + 1);
            match attempts.get() {
                1..=3 => Err(Failure::Store(Explained::new("away"))),
                _ => Ok(7),
            }
        };
        let found = patiently(quick(), attempt, |_| told.set(told.get() + 1), || false);
        assert!(matches!(found, Ok(7)));
        assert_eq!((attempts.get(), told.get()), (4, 3));
    }

    #[test]
    fn what_is_final_or_unwanted_is_not_tried_again() {
        let bad = || Err::<(), _>(Failure::Final(Explained::new("damaged")));
        assert!(matches!(patiently(quick(), bad, |_| (), || false), Err(Exit::Job(_))));
        let away = || Err::<(), _>(Failure::Store(Explained::new("away")));
        assert!(matches!(patiently(quick(), away, |_| (), || true), Err(Exit::Left)));
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut pauses = Pauses::between(Duration::from_secs(1), Duration::from_secs(4));
        let within = |pause: Duration, seconds: f64| {
            let found = pause.as_secs_f64();
            assert!((seconds * 0.75..=seconds).contains(&found), "{found} of {seconds}");
        };
        for seconds in [1.0, 2.0, 4.0, 4.0] {
            within(pauses.next(), seconds);
        }
    }
}
