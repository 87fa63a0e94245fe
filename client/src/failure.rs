//! The one error type: what a person reads on stderr, and the exit code a script branches on.

use ptv2_common::api::{FETCHING, JobState, Problem};
use ptv2_common::error::Explained;

/// Why a command did not do what it was asked. Each kind has its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Wrong usage, a refused spec, a file of this machine that cannot be read or written.
    Refused,
    /// Nothing answered, or whoever answered is not ready: worth another try.
    Unreachable,
    /// What a job needs is on its way to the coordinator: worth asking again at once, since each answer
    /// takes its time.
    NotYet,
    /// An answer came, and it is of no use: another try would give the same.
    BadAnswer,
    /// No such job, checkpoint or worker, or several of that name.
    NotFound,
    /// No token, or one that is not accepted.
    NotPermitted,
    /// The time-out passed and the job goes on.
    TimedOut,
    /// Ctrl-C. Not an error: the message says what goes on without this process.
    Interrupted,
    /// Whoever read stdout has gone. Nobody is there to be told.
    OutputClosed,
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub(crate) struct Failure {
    /// What kind it is.
    pub(crate) kind: Kind,
    /// What a person needs to know; boxed so that results stay small.
    pub(crate) error: Box<Explained>,
}

/// What a command that did its work says of the job it was about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    /// Done, or the job succeeded.
    Done,
    /// The job was cancelled.
    Cancelled,
    /// The job failed: the worst, so the greatest.
    Failed,
}

impl Kind {
    /// The exit code that `--help` documents.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Refused => 2,
            Self::Unreachable | Self::NotYet | Self::BadAnswer => 3,
            Self::NotFound => 4,
            Self::NotPermitted => 6,
            Self::TimedOut => 7,
            // As a shell reports a process that the signal ended.
            Self::Interrupted => 130,
            Self::OutputClosed => 141,
        }
    }

    fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::NotPermitted,
            404 => Self::NotFound,
            408 | 429 | 502..=504 => Self::Unreachable,
            400..=499 => Self::Refused,
            _ => Self::BadAnswer,
        }
    }
}

impl Outcome {
    /// The outcome of a job in this state; one that is not final counts as done.
    pub(crate) fn of_state(state: JobState) -> Self {
        match state {
            JobState::Staging | JobState::Queued | JobState::Running | JobState::Succeeded => {
                Self::Done
            }
            JobState::Failed => Self::Failed,
            JobState::Cancelled => Self::Cancelled,
        }
    }

    /// The exit code that `--help` documents.
    pub(crate) fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Cancelled => 5,
        }
    }
}

impl Failure {
    pub(crate) fn new(kind: Kind, error: Explained) -> Self {
        Self { kind, error: Box::new(error) }
    }

    pub(crate) fn refused(error: Explained) -> Self {
        Self::new(Kind::Refused, error)
    }

    /// A file or folder of this machine that cannot be used.
    pub(crate) fn local(what: &str, place: &std::path::Path, error: &std::io::Error) -> Self {
        Self::refused(Explained::new(format!("{what}: {error}")).at(place.display().to_string()))
    }

    /// An answer with an error status, whose body may or may not be a [`Problem`].
    pub(crate) fn of_answer(status: u16, body: &[u8], url: &str) -> Self {
        let mut kind = Kind::of_status(status);
        let Ok(problem) = serde_json::from_slice::<Problem>(body) else {
            let error = Explained::new(format!("the answer is HTTP status {status}"))
                .at(url)
                .expected("an answer of a ptv2 coordinator")
                .hint("check --coordinator (or PTV2_COORDINATOR)");
            return Self::new(kind, error);
        };
        // A name that several jobs bear names no job, whatever status says so.
        if matches!(kind, Kind::Refused) && problem.error.what.contains("several jobs") {
            kind = Kind::NotFound;
        }
        if problem.code == FETCHING {
            kind = Kind::NotYet;
        }
        let mut error = problem.error;
        if matches!(kind, Kind::NotPermitted) && error.hint.is_none() {
            error.hint = Some("PTV2_TOKEN_FILE names the file with the coordinator's token".into());
        }
        Self::new(kind, error)
    }

    /// The text for stderr, without a newline at its end.
    pub(crate) fn message(&self) -> String {
        let prefix = match self.kind {
            Kind::Interrupted => "",
            Kind::OutputClosed => return String::new(),
            Kind::Refused
            | Kind::Unreachable
            | Kind::NotYet
            | Kind::BadAnswer
            | Kind::NotFound
            | Kind::NotPermitted
            | Kind::TimedOut => "error: ",
        };
        format!("{prefix}{}", in_words(&self.error))
    }
}

/// An explanation over several lines: what and where, what was expected, and a hint.
pub(crate) fn in_words(error: &Explained) -> String {
    let mut text = error.to_string();
    if let Some(expected) = &error.expected {
        text.push_str(&format!("\n  expected: {expected}"));
    }
    if let Some(hint) = &error.hint {
        text.push_str(&format!("\n\nhint: {hint}"));
    }
    text
}

impl From<Explained> for Failure {
    fn from(error: Explained) -> Self {
        Self::refused(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, what: &str) -> Failure {
        let problem =
            Problem { status, code: "some_code".into(), error: Explained::new(what).hint("look") };
        Failure::of_answer(status, &serde_json::to_vec(&problem).unwrap(), "http://there/v1")
    }

    fn check(status: u16, code: u8) {
        assert_eq!(answer(status, "it is wrong").kind.exit_code(), code, "HTTP status {status}");
    }

    #[test]
    fn an_http_status_has_its_exit_code() {
        for (status, code) in
            [(400, 2), (409, 2), (413, 2), (422, 2), (401, 6), (403, 6), (404, 4), (500, 3)]
        {
            check(status, code);
        }
        check(503, 3);
    }

    #[test]
    fn an_ambiguous_name_is_no_such_job() {
        assert_eq!(answer(409, "several jobs are named `rte`").kind.exit_code(), 4);
    }

    #[test]
    fn only_what_may_pass_is_tried_again() {
        assert_eq!(answer(503, "starting").kind, Kind::Unreachable);
        assert_eq!(answer(500, "broken").kind, Kind::BadAnswer);
    }

    #[test]
    fn a_backbone_on_its_way_is_asked_for_again() {
        let error = Explained::new("hf://a/b@main is being fetched: 3 of 9 MB");
        let problem = Problem { status: 503, code: FETCHING.into(), error };
        let body = serde_json::to_vec(&problem).unwrap();
        assert_eq!(Failure::of_answer(503, &body, "http://there/v1").kind, Kind::NotYet);
    }

    #[test]
    fn the_worst_outcome_is_the_greatest() {
        let worst = [JobState::Cancelled, JobState::Failed, JobState::Succeeded]
            .map(Outcome::of_state)
            .into_iter()
            .max();
        assert_eq!(worst.map(Outcome::exit_code), Some(1));
        assert_eq!(Outcome::of_state(JobState::Cancelled).exit_code(), 5);
        assert_eq!(Outcome::of_state(JobState::Succeeded).exit_code(), 0);
    }

    #[test]
    fn a_message_names_place_expectation_and_hint() {
        let error = Explained::new("`x` is 3").at("a.toml").expected("4").hint("write 4");
        assert_eq!(
            Failure::refused(error).message(),
            "error: `x` is 3 (a.toml)\n  expected: 4\n\nhint: write 4"
        );
    }

    #[test]
    fn an_answer_of_someone_else_is_understood() {
        let failure = Failure::of_answer(404, b"<html>", "http://there/v1");
        assert_eq!(failure.kind, Kind::NotFound);
        assert!(failure.message().contains("HTTP status 404 (http://there/v1)"));
    }
}
