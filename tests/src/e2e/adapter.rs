//! Adapters between ptv2 and PEFT, in both directions.

use super::harness::{Cluster, root, superglue, text, tiny_cb};
use crate::parity::{NO_DROPOUT, Reference, check, folder, largest_error, network, setting};
use ptv2_daemon::checkpoint::peft;
use ptv2_daemon::numerics::state::le_bytes;
use safetensors::{Dtype, tensor::TensorView};

/// The adapter that PEFT saved when the goldens were made gives PEFT's logits here.
#[test]
fn an_adapter_of_peft_gives_its_logits() {
    let reference = Reference::open("reference.safetensors");
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let values = peft::import(&folder().join("peft"), &setting.layout, None).unwrap();
    let logits =
        network("backbone", &setting).logits(&values, &reference.slice("", 1, 0..6)).unwrap();
    check("logits", largest_error(&logits, &reference.floats("logits")), 1e-4);
}

/// The other direction needs Python: `make test-peft` runs this, then PEFT on what it leaves in
/// target/peft-check: a pulled adapter, and our logits of the goldens' rows with it.
#[test]
#[ignore = "one half of `make test-peft`"]
fn a_pulled_adapter_for_peft() {
    let Some(data) = superglue() else { return };
    let out = root().join("target/peft-check");
    let cluster = Cluster::start(1, 1);
    let status = cluster.run(&tiny_cb(&data, ""), &["--set", "training.learning_rate=0.1"]);
    let adapter = out.join("adapter");
    let id = status["id"].as_str().unwrap();
    let run = cluster.ctl(&[
        "pull",
        id,
        "--checkpoint",
        "last",
        "--force",
        "--to",
        adapter.to_str().unwrap(),
    ]);
    assert!(run.status.success(), "{}", text(&run.stderr));
    let setting = setting(5, 3, 1, NO_DROPOUT);
    let values = peft::import(&adapter, &setting.layout, None).unwrap();
    let reference = Reference::open("reference.safetensors");
    let logits =
        network("backbone", &setting).logits(&values, &reference.slice("", 1, 0..6)).unwrap();
    let bytes = le_bytes(&logits);
    let view = TensorView::new(Dtype::F32, vec![6, 3], &bytes).unwrap();
    let file = safetensors::serialize([("logits", view)], None).unwrap();
    std::fs::write(out.join("logits.safetensors"), file).unwrap();
}
