//! Files that a job names: too large, too deep, no regular files, links that lead elsewhere, and pickles. Each
//! is refused with a message, before it is read as a whole.

use super::greedy::again;
use super::http::{self, Answer, Request};
use super::report::Table;
use super::{Effort, Target};
use crate::e2e::harness::{copy_tiny, poll};
use ptv2_common::access::Scope;
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

/// A gigabyte, which no line and no configuration has.
const GB: u64 = 1 << 30;
/// Bytes of a line, of which many are in one file.
const LONG: usize = 1 << 20;

const ROW: &str = r#"{"premise": "A cat.", "hypothesis": "It.", "label": "entailment", "idx": 0}"#;

/// A job's files in a folder of their own.
struct Place {
    folder: PathBuf,
    task: String,
}

impl Place {
    fn new(target: &Target, name: &str) -> Self {
        let folder = target.place.join(name.replace(' ', "-"));
        // It may have been made before.
        drop(std::fs::remove_dir_all(&folder));
        copy_tiny(&folder.join("model"));
        for task in ["RTE", "MultiRC", "ReCoRD"] {
            std::fs::create_dir_all(folder.join("data").join(task)).unwrap();
        }
        for split in ["train", "val"] {
            std::fs::write(folder.join(format!("data/RTE/{split}.jsonl")), ROW).unwrap();
        }
        Self { folder, task: "superglue/rte".into() }
    }

    fn rows(&self) -> PathBuf {
        self.folder.join("data/RTE/train.jsonl")
    }

    fn model(&self, file: &str) -> PathBuf {
        self.folder.join("model").join(file)
    }

    fn spec(&self) -> Value {
        let adapter = self.folder.join("adapter");
        let adapter = adapter.exists().then(|| adapter.display().to_string());
        json!({"task": self.task, "backbone": {"path": self.folder.join("model")},
            "data": {"root": self.folder.join("data"), "max_seq_length": 24},
            "method": {"pre_seq_len": 5}, "init": {"adapter": adapter},
            "training": {"epochs": 1, "batch_size": 2, "learning_rate": 0.01}})
    }

    fn ask(&self, target: &Target, path: &str) -> Answer {
        let body = json!({"spec": self.spec()}).to_string();
        let request = Request::new("POST", path).token(target.token(Scope::Submit));
        http::ask(target.address, &request.json(&body)).expect("an answer in time")
    }
}

/// A file that begins so and is so long, and takes no room on the disk.
fn sparse(path: &Path, beginning: &[u8], length: u64) {
    let mut file = File::create(path).unwrap();
    file.write_all(beginning).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.set_len(length).unwrap();
}

/// A safetensors file of this header, with nothing after it.
fn weights(path: &Path, header: &str) {
    let length = (header.len() as u64).to_le_bytes();
    std::fs::write(path, [&length[..], header.as_bytes()].concat()).unwrap();
}

fn tensor(shape: &str, end: u64) -> String {
    format!("{{\"a\": {{\"dtype\": \"F32\", \"shape\": {shape}, \"data_offsets\": [0, {end}]}}}}")
}

/// A special file, made by the system's own program.
fn special(path: &Path, kind: &[&str]) {
    drop(std::fs::remove_file(path));
    let made = Command::new("mknod").arg(path).args(kind).status().unwrap();
    assert!(made.success());
}

/// A pickle that would make a file if anything opened it as such.
fn pickle(proof: &Path) -> Vec<u8> {
    format!("cos\nsystem\n(S'touch {}'\ntR.", proof.display()).into_bytes()
}

/// How a place is spoiled.
type Spoil = Box<dyn Fn(&mut Place, &Target)>;

fn case(
    name: &'static str,
    spoil: impl Fn(&mut Place, &Target) + 'static,
) -> (&'static str, Spoil) {
    (name, Box::new(spoil))
}

/// All of this file, each a row of the table.
pub(super) fn all(target: &Target, effort: Effort, table: &mut Table) {
    let good = Place::new(target, "good").ask(target, "/v1/plan");
    assert_eq!(good.status, 200, "the job to be spoiled is valid: {}", good.text());
    let mut cases = large();
    if effort == Effort::Full {
        cases.extend([deep(), bombs(), no_files(), links()].into_iter().flatten());
    }
    cases.extend(pickles());
    let mut places = Vec::new();
    for (name, spoil) in cases {
        let mut place = Place::new(target, name);
        spoil(&mut place, target);
        table.during(name, target, || refused(&place, target, name));
        places.push((name, place));
    }
    table.during("all of these files, again and again", target, || {
        let all = || places.iter().for_each(|(name, place)| drop(refused(place, target, name)));
        format!("{} times the same", again(all))
    });
    let untouched = target.place.join("proof");
    assert!(!untouched.exists(), "a pickle was opened");
    if effort == Effort::Full {
        table.during("a link that changes while it is read", target, || swapped(target));
        table.during("200 rows of a megabyte", target, || long_rows(target));
    }
}

fn refused(place: &Place, target: &Target, name: &str) -> String {
    let answer = place.ask(target, "/v1/plan");
    target.is_harmless(&answer, name);
    assert_eq!(answer.status, 422, "{name}: {answer:?}");
    let problem = answer.json();
    let what = problem["what"].as_str().unwrap();
    assert!(problem["hint"].is_string() || problem["expected"].is_string(), "{problem}");
    let folder = place.folder.display().to_string();
    let shown: String = what.replace(&folder, "…").chars().take(90).collect();
    format!("422: {}", shown.replace('|', "/"))
}

fn large() -> Vec<(&'static str, Spoil)> {
    let header = |length: u64| {
        move |place: &mut Place, _: &Target| {
            sparse(&place.model("model.safetensors"), &length.to_le_bytes(), length.min(GB) + 8);
        }
    };
    vec![
        case("a line of 1 GB", |place, _| sparse(&place.rows(), b"{\"premise\": \"", GB - 1)),
        case("a config of 1 GB", |place, _| sparse(&place.model("config.json"), b"{\"a\": \"", GB)),
        case("a tokenizer of 1 GB", |place, _| sparse(&place.model("tokenizer.json"), b"{\"", GB)),
        case("an index of weights of 1 GB", |place, _| {
            std::fs::remove_file(place.model("model.safetensors")).unwrap();
            sparse(&place.model("model.safetensors.index.json"), b"{\"weight_map\": {\"", GB);
        }),
        case("an adapter of 1 GB", |place, _| {
            std::fs::create_dir(place.folder.join("adapter")).unwrap();
            let length = 90_000_000_u64.to_le_bytes();
            sparse(&place.folder.join("adapter/adapter_model.safetensors"), &length, GB);
            sparse(&place.folder.join("adapter/adapter_config.json"), b"{\"a\": \"", GB);
        }),
        case("a task file of 1 GB", |place, _| {
            place.task = place.folder.join("own.toml").display().to_string();
            sparse(Path::new(&place.task), b"name = \"", GB);
        }),
        case("a header of 2^63 bytes", header(1 << 63)),
        case("a header of 90 MB", header(90_000_000)),
        case("a tensor of 10^9 elements", |place, _| {
            weights(&place.model("model.safetensors"), &tensor("[1000000000]", 4_000_000_000));
        }),
        case("a tensor of 2^128 elements", |place, _| {
            let shape = "[4294967296, 4294967296, 4294967296, 4294967296]";
            weights(&place.model("model.safetensors"), &tensor(shape, 0));
        }),
        case("a tensor of a million dimensions", |place, _| {
            let shape = format!("[{}1]", "1,".repeat(1_000_000));
            weights(&place.model("model.safetensors"), &tensor(&shape, 4));
        }),
    ]
}

fn deep() -> Vec<(&'static str, Spoil)> {
    let nested = || "[".repeat(100_000);
    vec![
        case("a row that is nested deep", move |place, _| {
            std::fs::write(place.rows(), nested()).unwrap();
        }),
        case("a config that is nested deep", move |place, _| {
            std::fs::write(place.model("config.json"), format!("{{\"a\": {}", nested())).unwrap();
        }),
        case("a tokenizer that is nested deep", move |place, _| {
            let text = format!("{{\"model\": {}", "{\"a\": ".repeat(100_000));
            std::fs::write(place.model("tokenizer.json"), text).unwrap();
        }),
        case("a header that is nested deep", move |place, _| {
            weights(&place.model("model.safetensors"), &format!("{{\"a\": {}", nested()));
        }),
        case("a task file that is nested deep", move |place, _| {
            place.task = place.folder.join("own.toml").display().to_string();
            std::fs::write(&place.task, format!("labels = {}", nested())).unwrap();
        }),
    ]
}

/// Small files that would become large.
fn bombs() -> Vec<(&'static str, Spoil)> {
    let own = |place: &mut Place, first: &str, rows: &str| {
        place.task = place.folder.join("own.toml").display().to_string();
        let task = format!("name = \"own\"\nfirst = \"{first}\"\nlabels = [0, 1]\n");
        std::fs::write(&place.task, task).unwrap();
        for split in ["train", "val"] {
            std::fs::write(place.folder.join(format!("data/{split}.jsonl")), rows).unwrap();
        }
    };
    vec![
        case("a passage for each of 50,000 answers", |place, _| {
            place.task = "superglue/multirc".into();
            let answer = json!({"text": "a", "idx": 0, "label": 1});
            let row = json!({"idx": 0, "passage": {"text": "x ".repeat(200_000), "questions": [
                {"question": "q", "idx": 0, "answers": vec![answer; 20_000]}]}});
            for split in ["train", "val"] {
                let file = place.folder.join(format!("data/MultiRC/{split}.jsonl"));
                std::fs::write(file, row.to_string()).unwrap();
            }
        }),
        case("an example for each of 10^8 pairs", |place, _| {
            place.task = "superglue/record".into();
            let text: String = (0..20_000).map(|at| format!("e{at:05} ")).collect();
            let entity = |at: usize| json!({"start": 7 * at, "end": 7 * at + 5});
            let query = json!({"query": "@placeholder", "idx": 0,
                "answers": [{"start": 0, "end": 5, "text": "e00000"}]});
            let entities: Vec<Value> = (0..10_000).map(entity).collect();
            let row = json!({"idx": 0, "passage": {"text": text, "entities": entities},
                "qas": vec![query; 10_000]});
            for split in ["train", "val"] {
                let file = place.folder.join(format!("data/ReCoRD/{split}.jsonl"));
                std::fs::write(file, row.to_string()).unwrap();
            }
        }),
        case("a cell that is named 100,000 times", move |place, _| {
            let row = json!({"a": "x".repeat(100_000), "label": 0});
            own(place, &"{a}".repeat(100_000), &row.to_string());
        }),
    ]
}

/// What is no regular file: to open it would wait for ever, or never end.
fn no_files() -> Vec<(&'static str, Spoil)> {
    let queue = |file: fn(&Place) -> PathBuf| {
        move |place: &mut Place, _: &Target| {
            special(&file(place), &["p"]);
        }
    };
    vec![
        case("rows that are a pipe", queue(Place::rows)),
        case("a config that is a pipe", queue(|place| place.model("config.json"))),
        case("weights that are a pipe", queue(|place| place.model("model.safetensors"))),
        case("a tokenizer that is a pipe", queue(|place| place.model("tokenizer.json"))),
        case("rows that are a device without end", |place, _| {
            special(&place.rows(), &["c", "1", "5"]);
        }),
        case("a config that is a device without end", |place, _| {
            special(&place.model("config.json"), &["c", "1", "5"]);
        }),
        case("rows that are a folder", |place, _| {
            std::fs::remove_file(place.rows()).unwrap();
            std::fs::create_dir(place.rows()).unwrap();
        }),
        case("a task file that is a pipe", |place, _| {
            place.task = place.folder.join("own.toml").display().to_string();
            special(Path::new(&place.task), &["p"]);
        }),
    ]
}

fn link(path: &Path, to: impl AsRef<Path>) {
    drop(std::fs::remove_file(path));
    symlink(to, path).unwrap();
}

fn links() -> Vec<(&'static str, Spoil)> {
    vec![
        case("rows that are a link out", |place, target| {
            link(&place.rows(), target.cluster.folder.path().join("canary.txt"));
        }),
        case("rows that are a link that climbs", |place, _| {
            link(&place.rows(), "../../../../canary.txt");
        }),
        case("a config that is a link out", |place, _| {
            link(&place.model("config.json"), "/etc/passwd");
        }),
        case("a tokenizer that is a link to the token", |place, target| {
            link(&place.model("tokenizer.json"), target.cluster.state().join("token"));
        }),
        case("weights that are a link to the journal", |place, target| {
            link(&place.model("model.safetensors"), target.cluster.state().join("journal.sqlite"));
        }),
        case("data that is a link out", |place, target| {
            let data = place.folder.join("data");
            std::fs::remove_dir_all(&data).unwrap();
            link(&data, target.cluster.folder.path());
        }),
        case("a link that leads in a circle", |place, _| {
            link(&place.rows(), place.rows().with_file_name("two"));
            link(&place.rows().with_file_name("two"), place.rows());
        }),
    ]
}

/// Whatever runs when it is opened: nothing opens it.
fn pickles() -> Vec<(&'static str, Spoil)> {
    let of = |target: &Target| pickle(&target.place.join("proof"));
    vec![
        case("weights that are a pickle", move |place, target| {
            std::fs::remove_file(place.model("model.safetensors")).unwrap();
            std::fs::write(place.model("pytorch_model.bin"), of(target)).unwrap();
        }),
        case("weights that are called otherwise", move |place, target| {
            std::fs::write(place.model("model.safetensors"), of(target)).unwrap();
        }),
        case("rows that are a pickle", move |place, target| {
            std::fs::write(place.rows(), of(target)).unwrap();
        }),
        case("rows that are an array of objects", move |place, target| {
            let head = b"\x93NUMPY\x01\x00\x4e\x00{'descr': '|O', 'fortran_order': False, ";
            std::fs::write(place.rows(), [&head[..], &of(target)].concat()).unwrap();
        }),
        case("an adapter that is a pickle", move |place, target| {
            let adapter = place.folder.join("adapter");
            std::fs::create_dir(&adapter).unwrap();
            for file in ["adapter_model.bin", "adapter_model.pt", "training_args.bin"] {
                std::fs::write(adapter.join(file), of(target)).unwrap();
            }
            std::fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
        }),
        case("a tokenizer that is a pickle", move |place, target| {
            std::fs::write(place.model("tokenizer.json"), of(target)).unwrap();
        }),
    ]
}

/// A link that leads in and out in turns: what lies outside is never read.
fn swapped(target: &Target) -> String {
    let place = Place::new(target, "swapped");
    let (data, kept) = (place.folder.join("data"), place.folder.join("kept"));
    std::fs::rename(&data, &kept).unwrap();
    let outside = target.cluster.folder.path().join("outside/RTE");
    std::fs::create_dir_all(&outside).unwrap();
    for split in ["train", "val"] {
        let secret = ROW.replace("entailment", &target.canary);
        std::fs::write(outside.join(format!("{split}.jsonl")), secret).unwrap();
    }
    let over = AtomicBool::new(false);
    let (mut ins, mut outs) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                for to in [&kept, outside.parent().unwrap()] {
                    let next = place.folder.join("next");
                    link(&next, to);
                    std::fs::rename(&next, &data).unwrap();
                }
            }
        });
        for _ in 0..300 {
            let answer = place.ask(target, "/v1/plan");
            target.is_harmless(&answer, "swapped");
            *(if answer.status == 200 { &mut ins } else { &mut outs }) += 1;
        }
        over.store(true, Ordering::Relaxed);
    });
    std::fs::remove_dir_all(outside.parent().unwrap()).unwrap();
    format!("{ins} times what lies inside, {outs} refused")
}

/// Rows that are long and valid: staged or refused, they are never in memory all at once.
fn long_rows(target: &Target) -> String {
    let place = Place::new(target, "long");
    let mut file = File::create(place.rows()).unwrap();
    for _ in 0..200 {
        let row = ROW.replace("A cat.", &"a b ".repeat(LONG / 4 - 64));
        writeln!(file, "{row}").unwrap();
    }
    let answer = place.ask(target, "/v1/jobs");
    target.is_harmless(&answer, "long rows");
    if answer.status == 422 {
        return format!("422: {}", answer.json()["what"].as_str().unwrap());
    }
    assert_eq!(answer.status, 201, "{answer:?}");
    let path = format!("/v1/jobs/{}", answer.json()["id"].as_str().unwrap());
    let state = poll("the rows", || {
        let state = target.get(&path).json()["state"].as_str()?.to_owned();
        (state != "staging").then_some(state)
    });
    let cancel = Request::new("POST", &format!("{path}/cancel")).token(target.token(Scope::Submit));
    target.ask(&cancel.json("{}"));
    state.to_string()
}
