use super::*;
use crate::coordinator::run::tests::record;
use ptv2_common::api::StepMetrics;
use std::time::Duration;

fn step(step: u64, loss: f64) -> MetricsRow {
    let (learning_rate, grad_norm, rows_per_s, tokens_per_s) = (1e-3, 1.0, 2.0, 3.0);
    MetricsRow::Step(StepMetrics {
        seed: None,
        step,
        epoch: 0,
        loss,
        learning_rate,
        grad_norm,
        rows_per_s,
        tokens_per_s,
    })
}

#[tokio::test]
async fn what_was_written_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.sqlite");
    let job = JobId("j1".into());
    let facts =
        [Fact::Submitted(Box::new(record("j1", "1"))), Fact::Cancelled { job: job.clone() }];
    {
        let (journal, before) = Journal::open(&path).unwrap();
        assert!(before.facts.is_empty() && before.reported.is_empty());
        let event = |kind: &str| Entry::Event {
            job: job.clone(),
            unix_ms: 5,
            kind: kind.into(),
            message: "m".into(),
        };
        let fact = |fact: &Fact| Entry::Fact { unix_ms: 5, fact: fact.clone() };
        let mut entries: Vec<Entry> = facts.iter().map(fact).collect();
        entries.extend([event("submitted"), event("cancelled")]);
        let metrics = [step(1, 0.5), step(2, 0.4), step(1, 0.6)];
        entries.extend(metrics.map(|row| Entry::Metrics { job: job.clone(), row }));
        let reported = |seq| Entry::Reported { worker: WorkerId("w1".into()), seq };
        entries.extend([reported(3), reported(4)]);
        journal.write(entries).await.unwrap();
    }
    let (journal, found) = Journal::open(&path).unwrap();
    assert_eq!(found.reported, [(WorkerId("w1".into()), 4)].into());
    assert_eq!(found.facts, facts.map(|fact| (Duration::from_millis(5), fact)));
    let events = journal.events(&job, 1).await.unwrap();
    assert_eq!(events.len(), 1);
    assert_eq!((events[0].seq, events[0].kind.as_str()), (2, "cancelled"));
    assert_eq!(journal.metrics(&job).await.unwrap(), [step(1, 0.6), step(2, 0.4)]);
    assert!(journal.logs(&job, 0).await.unwrap().is_empty());
}

#[test]
fn a_damaged_journal_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.sqlite");
    std::fs::write(&path, b"this is no database, however long it goes on").unwrap();
    let error = Journal::open(&path).unwrap_err();
    assert!(error.hint.unwrap().contains("move it away"));
}

/// A journal of the first version, whose facts bear no time.
#[test]
fn an_older_journal_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.sqlite");
    let fact = serde_json::to_string(&Fact::Cancelled { job: JobId("j1".into()) }).unwrap();
    let old = Connection::open(&path).unwrap();
    let tables = "CREATE TABLE facts (seq INTEGER PRIMARY KEY, fact TEXT NOT NULL); \
        PRAGMA user_version = 1";
    old.execute_batch(tables).unwrap();
    old.execute("INSERT INTO facts (fact) VALUES (?)", [fact]).unwrap();
    drop(old);
    let (_journal, past) = Journal::open(&path).unwrap();
    assert_eq!(past.facts, [(Duration::ZERO, Fact::Cancelled { job: JobId("j1".into()) })]);
    assert_eq!(Journal::open(&path).unwrap().1.facts.len(), 1, "it is read again");
}

/// What is decided on a network's file system is there after a restart, too, also where the file was once
/// written on a local disk; and nothing lies beside it that needs shared memory.
#[test]
fn a_journal_on_a_network_needs_no_shared_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.sqlite");
    let fact = Fact::Submitted(Box::new(record("j1", "1")));
    let entries = [Entry::Fact { unix_ms: 5, fact: fact.clone() }];
    let mode = |connection: &Connection| -> String {
        connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap()
    };
    let (mut local, _) = file::open(&path, disk::Disk::Local).unwrap();
    assert_eq!(mode(&local), "wal");
    file::write(&mut local, &entries).unwrap();
    drop(local);
    for number in 2..4 {
        let (mut network, past) = file::open(&path, disk::Disk::Network("nfs")).unwrap();
        assert_eq!(past.facts.len(), number - 1);
        assert_eq!(mode(&network), "delete");
        file::write(&mut network, &entries).unwrap();
        let beside = |end: &str| folder.path().join(format!("journal.sqlite-{end}")).exists();
        assert!(!beside("wal") && !beside("shm"));
    }
    // And back on a local disk.
    let (local, past) = file::open(&path, disk::Disk::Local).unwrap();
    assert_eq!((mode(&local).as_str(), past.facts.len()), ("wal", 3));
}

#[tokio::test]
async fn lines_are_cut_and_the_oldest_are_forgotten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.sqlite");
    let (journal, _) = Journal::open(&path).unwrap();
    let line = |job: &str, message: String| Entry::Log {
        job: JobId(job.into()),
        unix_ms: 5,
        level: LogLevel::Info,
        source: "w1".into(),
        message,
    };
    let long = "ä".repeat(20_000);
    let mut entries: Vec<Entry> = (0..10).map(|n| line("j1", n.to_string())).collect();
    entries.extend([line("j2", long), line("j2", "short".into())]);
    journal.write(entries).await.unwrap();
    let (one, two) = (JobId("j1".into()), JobId("j2".into()));
    let connection = Connection::open(&path).unwrap();
    file::prune(&connection, "logs", &one, 3).unwrap();
    file::prune(&connection, "logs", &two, 3).unwrap();
    let kept = journal.logs(&one, 0).await.unwrap();
    let kept: Vec<&str> = kept.iter().map(|line| line.message.as_str()).collect();
    assert_eq!(kept, ["7", "8", "9"]);
    let kept = journal.logs(&two, 0).await.unwrap();
    let lengths: Vec<usize> = kept.iter().map(|line| line.message.len()).collect();
    assert_eq!(lengths, [16 << 10, 5]);
    assert_eq!(journal.logs_page(&two, (0, 1)).await.unwrap().len(), 1);
}

/// Ten thousand lines of 16 KiB would be too much to give at once.
#[tokio::test]
async fn long_lines_come_in_pages_and_none_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, _) = Journal::open(&folder.path().join("journal.sqlite")).unwrap();
    let job = JobId("j1".into());
    let line = |number: usize| Entry::Log {
        job: job.clone(),
        unix_ms: 5,
        level: LogLevel::Info,
        source: "w1".into(),
        message: format!("{number:16384}"),
    };
    journal.write((0..200).map(line).collect::<Vec<_>>()).await.unwrap();
    let (mut after, mut sizes) = (0, Vec::new());
    loop {
        let page = journal.logs(&job, after).await.unwrap();
        let Some(last) = page.last() else { break };
        after = last.seq;
        sizes.push(page.len());
    }
    assert_eq!(sizes, [64, 64, 64, 8]);
}
