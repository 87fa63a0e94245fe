//! Figures of docs/operations/keeping.md, which take longer than a test may.

use super::pulls::with_large_file;
use super::*;
use crate::e2e::harness::usage::usage;

/// The most memory that the coordinator has held, in KiB.
fn peak_kib(cluster: &Cluster) -> u64 {
    usage(cluster.daemon.as_ref().unwrap().pid()).unwrap().peak >> 10
}

/// A pull of 1 GiB grows neither side.
#[test]
#[ignore = "writes 3 GB; its figures stand in docs/operations/keeping.md"]
fn a_large_pull_grows_nobody() {
    let Some(data) = superglue() else { return };
    let (cluster, id) = with_large_file(&data, 1 << 30);
    let before = peak_kib(&cluster);
    let args = ["pull", &id, "--checkpoint", "last", "--format", "native", "--to", "large"];
    let log = cluster.folder.path().join("pull.log");
    let mut pulling = Process::telling(cluster.client().args(args), &log);
    let mut peak = 0;
    poll("the pull's end", || {
        // It may have ended.
        peak = peak.max(usage(pulling.pid()).map_or(0, |usage| usage.peak >> 10));
        pulling.ended()
    });
    let after = peak_kib(&cluster);
    println!("coordinator: {before} KiB, then {after} KiB; client: {peak} KiB");
    assert!(after - before < 65_536 && peak < 65_536);
}

/// 100,000 objects of nobody are collected, and the coordinator does not grow with them.
#[test]
#[ignore = "takes minutes; its figures stand in docs/operations/keeping.md"]
fn a_hundred_thousand_orphans_are_collected() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(1, 1);
    cluster.run(&tiny_cb(&data, ""), &[]);
    for number in 0..100_000 {
        old(&store(&cluster).join(format!("jobs/jffffffffff/data/{number:064x}")), b"abc");
    }
    let before = peak_kib(&cluster);
    for args in [&["gc", "--dry-run"][..], &["gc"]] {
        #[expect(clippy::disallowed_methods, reason = "a figure")]
        let began = std::time::Instant::now();
        let report = cluster.json(args);
        assert_eq!(report["objects"], 100_000, "{report:#}");
        let peak = peak_kib(&cluster);
        println!("{args:?}: {:.1} s, {before} KiB, then {peak} KiB", began.elapsed().as_secs_f64());
        assert!(peak - before < 65_536);
    }
}
