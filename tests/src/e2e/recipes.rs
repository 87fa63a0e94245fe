//! Each recipe is a job that `plan` accepts, on a backbone of the shape that it names.

use super::harness::{Cluster, root, superglue, text, tiny};
use ptv2_daemon::backbone::{Config, shapes};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;

/// What each recipe trains (specification, section 6: direct tables with a head, and the projection).
const TRAINED: [(&str, u64); 13] = [
    ("boolq-bert-large", 1_968_130),
    ("boolq-roberta-large", 395_266),
    ("cb-bert-large", 0),
    ("copa-bert-large", 787_457),
    ("copa-roberta-large", 394_241),
    ("multirc-bert-large", 0),
    ("record-bert-large", 0),
    ("rte-bert-large", 985_090),
    ("rte-roberta-large", 6_293_506),
    ("wic-bert-large", 25_762_306),
    ("wic-roberta-large", 395_266),
    ("wsc-bert-large", 985_090),
    ("wsc-roberta-large", 395_266),
];

/// A backbone of the large models' shape whose weights are a hole: `plan` looks at shapes and lengths.
fn large(folder: &Path, kind: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let roberta = kind == "roberta";
    let config = json!({
        "model_type": kind, "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16, "intermediate_size": 4096,
        "vocab_size": if roberta { 50265 } else { 28996 },
        "max_position_embeddings": if roberta { 514 } else { 512 },
        "type_vocab_size": if roberta { 1 } else { 2 },
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    std::fs::copy(tiny().join("tokenizer.json"), folder.join("tokenizer.json")).unwrap();
    let mut end = 0;
    let mut header = serde_json::Map::new();
    for (name, shape) in shapes(&Config::read(folder).unwrap()) {
        let start = end;
        end += 4 * shape.iter().product::<usize>();
        let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [start, end] });
        header.insert(name, entry);
    }
    let header = Value::Object(header).to_string();
    let mut file = std::fs::File::create(folder.join("model.safetensors")).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len((8 + header.len() + end) as u64).unwrap();
}

#[test]
fn every_recipe_is_accepted_and_trains_what_the_reference_trains() {
    let Some(data) = superglue() else { return };
    let cluster = Cluster::start(0, 1);
    let recipes = root().join("configs/superglue");
    let mut names: Vec<String> = std::fs::read_dir(&recipes)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, TRAINED.map(|(name, _)| name));
    for kind in ["bert", "roberta"] {
        large(&cluster.folder.path().join(kind), kind);
    }
    for (name, trained) in TRAINED {
        let kind = if name.contains("roberta") { "roberta" } else { "bert" };
        let file = recipes.join(format!("{name}.toml"));
        let sets = [
            format!("backbone.path={}", cluster.folder.path().join(kind).display()),
            format!("data.root={}", data.display()),
        ];
        let [backbone, root] = sets.each_ref().map(String::as_str);
        let file = file.to_str().unwrap();
        let plan = cluster.json(&["plan", file, "--set", backbone, "--set", root]);
        let found = plan["trainable_parameters"].as_u64().unwrap();
        assert!(found > 0 && (trained == 0 || found == trained), "{name}: {found}");
        let shown = text(&cluster.ctl(&["plan", file, "--set", backbone, "--set", root]).stdout);
        assert!(shown.contains(&found.to_string()), "{name}: {shown}");
    }
}
