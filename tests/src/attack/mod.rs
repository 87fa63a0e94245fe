//! Attacks on a coordinator that trains a job, one file a kind. Each is held to the same three things: what
//! comes back, what memory the coordinator takes more, and whether others are served meanwhile.
//!
//! The short form of each is an end-to-end test (`e2e/attack.rs`); all of it is `make test-attack`, whose
//! table lands in `target/attacks.md`.

mod ambiguous;
mod control;
mod files;
mod followers;
pub(crate) mod greedy;
mod groups;
mod hostile;
mod http;
mod logs;
mod names;
pub(crate) mod pours;
mod probe;
mod report;
mod routes;
pub(crate) mod sessions;
mod shown;
mod target;

pub(crate) use target::Target;

/// How much of an attack is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Effort {
    /// As much as `make test` has time for.
    Short,
    /// All.
    Full,
}

impl Effort {
    /// One number or the other.
    fn of(self, short: usize, full: usize) -> usize {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }
}

/// What a coordinator may take more memory for during any attack.
pub(crate) const GROWTH_MAX: u64 = 64 << 20;

/// Who may do what, and that nothing else can be done.
pub(crate) fn of_routes(target: &Target) {
    routes::scopes(target);
    routes::methods(target);
    routes::others(target);
}

/// Names that would lead elsewhere, in each place that takes one.
pub(crate) fn of_names(target: &Target, effort: Effort) {
    names::paths(target, effort);
    names::queries(target);
    names::specs(target, effort);
    names::other_bodies(target);
    names::headers(target);
    logs::check(&target.log(), logs::Format::Json);
    target.is_as_it_was();
}

/// Requests that are large, slow or ambiguous, messages of workers, and files that jobs name.
pub(crate) fn of_all_else(target: &Target, effort: Effort) -> report::Table {
    let mut table = report::Table::default();
    table.during("nothing", target, greedy::nothing);
    greedy::all(target, effort, &mut table);
    sessions::all(target, effort, &mut table);
    files::all(target, effort, &mut table);
    table.take_steps(target);
    logs::check(&target.log(), logs::Format::Json);
    target.is_as_it_was();
    table
}

/// Strangers at the door of a group that trains.
pub(crate) fn of_groups(effort: Effort) -> groups::Table {
    groups::all(effort)
}

/// What `ptv2ctl` shows of what others wrote, and what a text log keeps of it.
pub(crate) fn of_terminals() {
    shown::by_the_client();
    shown::in_a_text_log();
}

/// `status` with a thousand jobs and a hundred followers.
pub(crate) fn of_followers(jobs: usize, followers: usize) -> String {
    followers::measure(jobs, followers)
}
