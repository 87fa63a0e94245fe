//! How long `status` takes with many jobs and many followers.

use super::http::{self, Request};
use super::probe::{high, now};
use crate::e2e::harness::{Cluster, coordinator_file, poll, superglue, tiny_cb};
use ptv2_common::spec::JobSpec;
use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

/// A test's own requests are not bounded.
const HTTP: &str = "[http]\nrequests_per_second = 100000\nrequests_burst = 100000\n\
    streams_per_token = 1000\n";
/// Requests of each kind.
const REQUESTS: usize = 1000;

/// Submits so many jobs, follows so many of them, and asks; a line for each kind of request.
pub(super) fn measure(jobs: usize, followers: usize) -> String {
    let Some(data) = superglue() else { return String::new() };
    let mut cluster = Cluster::new("ptv2d");
    let paths = (&*cluster.state(), &*cluster.store());
    cluster.serve_by(&(coordinator_file("127.0.0.1:0", paths, &data, "") + HTTP));
    let address = cluster.listen().parse().unwrap();
    let token = cluster.token();
    let spec = JobSpec::from_toml(&tiny_cb(&data, "resources.workers = 1")).unwrap();
    let began = now();
    let submit = Request::new("POST", "/v1/jobs").token(&token);
    let body = serde_json::json!({"spec": spec}).to_string();
    let submit = submit.json(&body);
    let ids: Vec<String> = (0..jobs)
        .map(|_| {
            let answer = http::ask(address, &submit).unwrap();
            assert_eq!(answer.status, 201, "{}", answer.text());
            answer.json()["id"].as_str().unwrap().to_owned()
        })
        .collect();
    let submitted = began.elapsed();
    let ask = |path: &str| {
        let answer = http::ask(address, &Request::new("GET", path).token(&token).bytes()).unwrap();
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        answer
    };
    poll("all jobs' rows", || {
        let waiting = ask("/v1/jobs?state=staging&limit=1").json();
        waiting.as_array()?.is_empty().then_some(())
    });
    let follow = |number: usize| {
        let path = format!("/v1/jobs/{}/events/stream", ids[number % ids.len()]);
        let mut stream = http::connect(address);
        stream.write_all(&Request::new("GET", &path).token(&token).bytes()).unwrap();
        assert_eq!(http::read(&mut stream).unwrap().status, 200);
        stream
    };
    let streams: Vec<TcpStream> = (0..followers).map(follow).collect();
    // Jobs that train beside them, one after the other.
    cluster.worker(1, &[]);
    let times = |path: &dyn Fn(usize) -> String, count: usize| {
        let took = (0..count).map(|number| {
            let began = now();
            ask(&path(number));
            began.elapsed()
        });
        let mut took: Vec<Duration> = took.collect();
        took.sort_unstable();
        (took[took.len() / 2], high(took))
    };
    let mut text = format!(
        "{jobs} jobs (submitted in {:.1} s), {} followers, one worker that trains\n\n\
         | request | p50 | p99 | max |\n|---|---|---|---|\n",
        submitted.as_secs_f64(),
        streams.len()
    );
    type Ask<'a> = (&'a str, &'a dyn Fn(usize) -> String, usize);
    let kinds: [Ask<'_>; 4] = [
        ("status of a job", &|number| format!("/v1/jobs/{}", ids[number % ids.len()]), REQUESTS),
        ("status of all jobs", &|_| "/v1/jobs".into(), REQUESTS / 10),
        ("metrics of a job", &|number| format!("/v1/jobs/{}/metrics", ids[number % 10]), REQUESTS),
        ("/healthz", &|_| "/healthz".into(), REQUESTS),
    ];
    for (name, path, count) in kinds {
        let (median, [longest, most]) = times(path, count);
        let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
        text += &format!("| {name} | {} | {} | {} |\n", ms(median), ms(most), ms(longest));
    }
    text
}
