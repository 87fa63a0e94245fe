//! Pulls over connections that break, hold and spoil.

use super::tap::{At, Tap, hold};
use super::*;

const SIZE: usize = 24 << 20;
const MIB: u64 = 1 << 20;

/// A coordinator with a job that has a large file among those of its last checkpoint.
pub(super) fn with_large_file(data: &Path, size: usize) -> (Cluster, String) {
    let cluster = Cluster::start(1, 1);
    let status = cluster.run(&tiny_cb(data, ""), &[]);
    let id = status["id"].as_str().unwrap().to_owned();
    let (_, key) = checkpoints(&cluster, &id).pop().unwrap();
    let path = store(&cluster).join(key);
    let mut manifest = manifest(&path);
    // No two parts of it are alike.
    let mut number = 7_u64;
    let large: Vec<u8> = std::iter::repeat_with(|| {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        number.to_be_bytes()
    })
    .take(size / 8)
    .flatten()
    .collect();
    let sha256 = ptv2_common::storage::sha256(&large);
    std::fs::write(store(&cluster).join(format!("jobs/{id}/data/{sha256}")), &large).unwrap();
    let file = serde_json::json!({ "name": "large", "bytes": large.len(), "sha256": sha256 });
    manifest["files"].as_array_mut().unwrap().push(file);
    // As an earlier version wrote it.
    manifest.as_object_mut().unwrap().remove("seal").unwrap();
    std::fs::write(&path, serde_json::to_vec_pretty(&manifest).unwrap()).unwrap();
    (cluster, id)
}

/// A pull of the last checkpoint in its own form, through a proxy.
fn pull(cluster: &Cluster, tap: &Tap, (id, to): (&str, &str)) -> std::process::Command {
    let mut command = cluster.client();
    command.env("PTV2_COORDINATOR", tap.url());
    command.args(["pull", id, "--checkpoint", "last", "--format", "native", "--to", to]);
    command
}

/// The files of a pulled folder: names and hashes.
fn files(cluster: &Cluster, folder: &str) -> Vec<(String, String)> {
    let entries = std::fs::read_dir(cluster.folder.path().join(folder)).unwrap().flatten();
    let file = |entry: std::fs::DirEntry| {
        let bytes = std::fs::read(entry.path()).unwrap();
        (entry.file_name().into_string().unwrap(), ptv2_common::storage::sha256(&bytes))
    };
    let mut files: Vec<(String, String)> = entries.map(file).collect();
    files.sort();
    files
}

fn leftovers(cluster: &Cluster) -> Vec<String> {
    let entries = std::fs::read_dir(cluster.folder.path()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(".ptv2-")).collect()
}

#[test]
fn a_pull_goes_on_where_it_broke() {
    let Some(data) = superglue() else { return };
    let (mut cluster, id) = with_large_file(&data, SIZE);
    let listen = cluster.listen();
    let direct =
        ["pull", &id, "--checkpoint", "last", "--format", "native", "--to", "direct", "--direct"];
    assert!(cluster.ctl(&direct).status.success());
    let expected = files(&cluster, "direct");
    assert_eq!(expected.len(), 3);
    let once = SIZE as u64 + MIB;

    // Cut off twice, then the coordinator dies and comes back.
    let (held, told, go) = hold();
    let script = vec![(3 * MIB, At::Cut), (9 * MIB + 5, At::Cut), (15 * MIB, held)];
    let tap = Tap::new(&listen, script);
    let to = cluster.folder.path().join("pull.log");
    let mut pulling = Process::telling(&mut pull(&cluster, &tap, (&id, "broken")), &to);
    told.recv().unwrap();
    cluster.daemon = None;
    go.send(()).unwrap();
    cluster.serve(1, 1, &listen);
    let code = poll("the pull's end", || pulling.ended());
    let said = std::fs::read_to_string(&to).unwrap();
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("trying again") && said.contains("answers again"), "{said}");
    assert_eq!(files(&cluster, "broken"), expected);
    assert!(tap.carried() < once, "{} bytes for {SIZE}", tap.carried());
    println!("| cut twice, coordinator killed | {} | {} |", SIZE, tap.carried());

    // The client dies; the next one goes on from what it had.
    let (held, told, go) = hold();
    let tap = Tap::new(&listen, vec![(10 * MIB, held)]);
    let pulling = Process::telling(&mut pull(&cluster, &tap, (&id, "again")), &to);
    told.recv().unwrap();
    let part = cluster.folder.path().join(".ptv2-pull-again/parts");
    let has_come = || objects_bytes(&part) > 9 * MIB;
    poll("what has come", || has_come().then_some(()));
    drop(pulling);
    go.send(()).unwrap();
    let run = ends(&mut pull(&cluster, &tap, (&id, "again")));
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert_eq!(files(&cluster, "again"), expected);
    assert!(tap.carried() < once + 2 * MIB, "{} bytes for {SIZE}", tap.carried());
    println!("| client killed, pulled again | {} | {} |", SIZE, tap.carried());
    assert!(leftovers(&cluster).is_empty(), "{:?}", leftovers(&cluster));

    // A wrong byte on the way is refused, and not gone on from.
    let tap = Tap::new(&listen, vec![(12 * MIB, At::Flip)]);
    let run = ends(&mut pull(&cluster, &tap, (&id, "wrong")));
    let said = text(&run.stderr);
    assert_eq!(run.status.code(), Some(3), "{said}");
    let large = &expected.iter().find(|(name, _)| name == "large").unwrap().1;
    assert!(said.contains("`large` is damaged") && said.contains(large), "{said}");
    assert!(!cluster.folder.path().join("wrong").exists());
    let run = ends(&mut pull(&cluster, &tap, (&id, "wrong")));
    assert!(run.status.success(), "{}", text(&run.stderr));
    assert_eq!(files(&cluster, "wrong"), expected);
}

fn objects_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|file| file.len()).sum()
}
