//! The model of ranks that share one machine: whatever all of them send goes through the same cores and the same
//! memory, so it takes processor time by the messages and the bytes of all ranks together. The clock shows at least
//! that time by the number of cores.

use crate::work::Work;

/// What sending and receiving a message and a byte takes of one core, both ends together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Constants {
    /// µs for each message, whatever its length.
    pub(crate) message: f64,
    /// µs for each byte.
    pub(crate) byte: f64,
}

/// A reduction and the time that it took.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) work: Work,
    /// Processor time of all ranks, in µs of one core.
    pub(crate) time: f64,
    /// By the clock, in µs.
    pub(crate) clock: f64,
}

impl Constants {
    /// Processor time of all ranks, in µs of one core.
    pub(crate) fn time(self, work: &Work) -> f64 {
        self.message * work.messages() as f64 + self.byte * work.sent() as f64
    }

    /// The constants from which the points differ least, each by its share. `None` for points that
    /// do not tell the two apart.
    pub(crate) fn fitted<'a>(points: impl IntoIterator<Item = &'a Point>) -> Option<Self> {
        let (mut mm, mut mb, mut bb, mut m1, mut b1) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for Point { work, time, .. } in points {
            let (message, byte) = (work.messages() as f64 / time, work.sent() as f64 / time);
            mm += message * message;
            mb += message * byte;
            bb += byte * byte;
            m1 += message;
            b1 += byte;
        }
        let determinant = mm * bb - mb * mb;
        if determinant <= 1e-9 * mm * bb {
            return None;
        }
        let (message, byte) = (m1 * bb - b1 * mb, b1 * mm - m1 * mb);
        Some(Self { message: message / determinant, byte: byte / determinant })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fit_finds_what_made_the_points() {
        let made = Constants { message: 17.0, byte: 4e-4 };
        let point = |(values, world)| {
            let work = Work::new(values, 8, world);
            Point { time: made.time(&work), clock: 0.0, work }
        };
        let points: Vec<Point> = [(100, 2), (100, 4), (1_000_000, 2)].map(point).into();
        let found = Constants::fitted(&points).unwrap();
        assert!((found.message / made.message - 1.0).abs() < 1e-6, "{found:?}");
        assert!((found.byte / made.byte - 1.0).abs() < 1e-6, "{found:?}");
        assert_eq!(Constants::fitted(&points[..1]), None);
    }
}
