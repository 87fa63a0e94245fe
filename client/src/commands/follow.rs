//! Following jobs: until they are final, until a time-out, or until Ctrl-C detaches.

use crate::cli::{FollowArgs, Output};
use crate::failure::{Failure, Kind, Outcome, in_words};
use crate::http::{Api, Patience};
use crate::progress::Progress;
use crate::{render, sse};
use ptv2_common::api::{Event, JobState, JobStatus, Reason};
use ptv2_common::error::Explained;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::sync::mpsc;

const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How long the last events may take once the status is final.
const LAST_EVENTS: Duration = Duration::from_secs(1);

/// Prints a job's events or log lines, and with `-f` goes on until the job is final.
pub(crate) async fn items<T: DeserializeOwned + Serialize>(
    api: &Api,
    output: Output,
    args: &FollowArgs,
    kind: &str,
    seq: fn(&T) -> u64,
    line: fn(&T) -> String,
) -> Result<(), Failure> {
    let path = ["jobs", &args.job, kind];
    let page =
        |after: u64| async move { api.get_with(&path, &[("after", after.to_string())]).await };
    let list = pages(page, seq).await?;
    if !args.follow {
        if matches!(output, Output::Json) {
            return render::json(&list);
        }
        return list.iter().try_for_each(|item| render::data(&line(item)));
    }
    let print = |item: T| match output {
        Output::Json => render::json_line(&item),
        Output::Table => render::data(&line(&item)),
    };
    // The id, because a name may come to be that of several jobs while this goes on.
    let id = api.get::<JobStatus>(&["jobs", &args.job]).await?.id;
    let after = list.iter().map(seq).max();
    list.into_iter().try_for_each(print)?;
    let path = ["jobs", &id, kind, "stream"];
    let work = sse::follow(api, &path, after, Patience::new(true), print);
    let again = format!("ptv2ctl {kind} -f {id}");
    detachable(std::slice::from_ref(&id), &again, work).await
}

/// A whole list, of which `page` gives what comes after a sequence number.
async fn pages<T, F: Future<Output = Result<Vec<T>, Failure>>>(
    page: impl Fn(u64) -> F,
    seq: fn(&T) -> u64,
) -> Result<Vec<T>, Failure> {
    let mut all = Vec::new();
    loop {
        let next = page(all.last().map_or(0, seq)).await?;
        // A page ends where it has much text, too: only an empty one is the last.
        if next.is_empty() {
            return Ok(all);
        }
        all.extend(next);
    }
}

/// Waits in silence until every job is final.
pub(crate) async fn finals(
    api: &Api,
    ids: &[String],
    timeout: Option<Duration>,
) -> Result<Vec<JobStatus>, Failure> {
    let again = format!("ptv2ctl wait {}", ids.join(" "));
    let work = async {
        let mut jobs = Vec::new();
        for id in ids {
            jobs.push(until_final(api, id).await?);
        }
        Ok(jobs)
    };
    let work = detachable(ids, &again, work);
    let Some(timeout) = timeout else { return work.await };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let waited = humantime::format_duration(timeout);
        let error = Explained::new(format!("{waited} passed and {}", goes_on(ids)))
            .hint(format!("wait again: {again}"));
        Err(Failure::new(Kind::TimedOut, error))
    })
}

/// Shows progress on stderr until the job is final.
pub(crate) async fn with_progress(api: &Api, id: &str) -> Result<JobStatus, Failure> {
    let ids = [id.to_owned()];
    let again = format!("ptv2ctl wait {id}, or ptv2ctl logs -f {id}");
    let mut progress = Progress::new();
    let job = detachable(&ids, &again, show(api, id, &mut progress)).await;
    progress.finish();
    job
}

/// The worst outcome of some jobs. Says on stderr why one failed.
pub(crate) fn worst(jobs: &[JobStatus]) -> Outcome {
    for job in jobs.iter().filter(|job| job.state == JobState::Failed) {
        let why = match &job.reason {
            Some(Reason::Failed { error }) => in_words(error),
            Some(_) | None => {
                job.reason_text.clone().unwrap_or_else(|| "no reason is known".into())
            }
        };
        render::note(&format!("error: job {} failed: {why}", job.id));
    }
    jobs.iter().map(|job| Outcome::of_state(job.state)).max().unwrap_or(Outcome::Done)
}

async fn until_final(api: &Api, id: &str) -> Result<JobStatus, Failure> {
    let mut patience = Patience::new(true);
    loop {
        let job: JobStatus = patience.get(api, &["jobs", id]).await?;
        if job.state.is_final() {
            return Ok(job);
        }
        tokio::time::sleep(POLL_INTERVAL).await;
    }
}

async fn show(api: &Api, id: &str, progress: &mut Progress) -> Result<JobStatus, Failure> {
    let (sender, mut events) = mpsc::unbounded_channel();
    let reader = tokio::spawn(read_events(api.clone(), id.to_owned(), sender));
    let shown = show_until_final(api, id, progress, &mut events).await;
    if shown.is_ok() {
        let rest = async {
            while let Some(event) = events.recv().await {
                progress.event(&event);
            }
        };
        // The status has the result; an event that comes too late is not waited for.
        let _in_time = tokio::time::timeout(LAST_EVENTS, rest).await.is_ok();
    }
    reader.abort();
    shown
}

async fn show_until_final(
    api: &Api,
    id: &str,
    progress: &mut Progress,
    events: &mut mpsc::UnboundedReceiver<Event>,
) -> Result<JobStatus, Failure> {
    let mut patience = Patience::new(true);
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(event) = events.recv() => progress.event(&event),
            _ = ticks.tick() => {
                let job: JobStatus = patience.get(api, &["jobs", id]).await?;
                progress.status(&job);
                if job.state.is_final() {
                    return Ok(job);
                }
            }
        }
    }
}

/// Feeds events to the view. What goes wrong here the status polling sees and says as well.
async fn read_events(api: Api, id: String, sender: mpsc::UnboundedSender<Event>) {
    let path = ["jobs", &id, "events", "stream"];
    let forward = |event: Event| {
        let closed = || Failure::new(Kind::Interrupted, Explained::new("no longer followed"));
        sender.send(event).map_err(|_| closed())
    };
    let _ended = sse::follow(&api, &path, None, Patience::new(false), forward).await.is_ok();
}

/// Does the work until Ctrl-C, which leaves the jobs alone.
async fn detachable<T>(
    ids: &[String],
    again: &str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::select! {
        done = work => done,
        _ = tokio::signal::ctrl_c() => {
            let error = Explained::new(format!("detached: {}", goes_on(ids)))
                .hint(format!("follow again: {again}"));
            Err(Failure::new(Kind::Interrupted, error))
        }
    }
}

fn goes_on(ids: &[String]) -> String {
    match ids {
        [id] => format!("job {id} goes on"),
        ids => format!("jobs {} go on", ids.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::api::LONGEST_LIST;
    use std::future::{Ready, ready};

    /// What the coordinator gives of so many items, numbered from 1.
    fn page(count: u64, after: u64) -> Ready<Result<Vec<u64>, Failure>> {
        let last = count.min(after + u64::from(LONGEST_LIST));
        ready(Ok((after + 1..=last).collect()))
    }

    #[tokio::test]
    async fn a_list_of_several_pages_is_whole() {
        let longest = u64::from(LONGEST_LIST);
        for count in [0, 1, longest - 1, longest, longest + 1, 2 * longest + 7] {
            let all = pages(|after| page(count, after), |item| *item).await.unwrap();
            assert!(all.iter().copied().eq(1..=count), "{count}: {} items", all.len());
        }
    }
}
