//! Which checkpoint of a store's listing is meant. Pure.

use ptv2_common::ids::Generation;
use ptv2_common::manifest::{self, CheckpointManifest, Which, counts};

/// What a store holds of a job.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// Every manifest with its key.
    pub(super) checkpoints: Vec<(String, CheckpointManifest)>,
    /// Every generation whose start is known, with the step it started from.
    pub(super) starts: Vec<(Generation, u64)>,
}

/// Chooses among the manifests that count, of the run with a seed where one is given.
pub(super) fn choose(
    listing: Listing,
    which: Which,
    seed: Option<u64>,
) -> Option<(String, CheckpointManifest)> {
    let Listing { mut checkpoints, starts } = listing;
    checkpoints.retain(|(_, manifest)| counts(manifest.step, manifest.generation, &starts));
    checkpoints.sort_by_key(|(_, manifest)| (manifest.step, manifest.generation));
    let place = manifest::choose(&checkpoints, which, seed)?;
    Some(checkpoints.swap_remove(place))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ptv2_common::manifest::FORMAT;
    use serde_json::json;

    fn manifest(step: u64, generation: u64, is_best: bool) -> (String, CheckpointManifest) {
        let value = json!({
            "format": FORMAT,
            "job": {
                "format": 1, "id": "j0123456789", "name": "a",
                "spec": {
                    "task": "superglue/rte", "backbone": {"path": "/m"}, "data": {"root": "/d"},
                    "training": {"epochs": 1, "learning_rate": 0.1}
                },
                "data_sha256": {}, "spec_sha256": "", "submitted_unix_ms": 0,
                "backbone": {
                    "directory": "/m", "config_sha256": "", "weights_sha256": "",
                    "tokenizer_sha256": "", "hidden_size": 1, "layers": 1, "heads": 1
                },
                "plan": {
                    "train_rows": 1, "val_rows": 1, "steps_per_epoch": 1, "total_steps": 1,
                    "slices": 1, "trainable_parameters": 1, "prefix_parameters": 1,
                    "gradient_bytes": 1, "checkpoint_bytes": 1, "positions_used": 1,
                    "positions_available": 1
                },
                "labels": [], "choices": 1, "best_metric": "accuracy"
            },
            "step": step, "epoch": 1, "generation": generation, "generation_start_step": 0,
            "nonce": "", "tuned_sha256": "", "features": "", "best": null, "is_best": is_best,
            "files": []
        });
        (format!("{step}-{generation}"), serde_json::from_value(value).unwrap())
    }

    fn check(starts: &[(u64, u64)], which: Which, expected: Option<&str>) {
        let listing = Listing {
            // Generation 1 was cut off after step 20 and went on writing; 2 started from 20.
            checkpoints: vec![
                manifest(10, 1, true),
                manifest(20, 1, false),
                manifest(30, 1, true),
                manifest(40, 1, false),
                manifest(30, 2, false),
                manifest(35, 2, false),
            ],
            starts: starts
                .iter()
                .map(|(generation, start)| (Generation(*generation), *start))
                .collect(),
        };
        let chosen = choose(listing, which, None).map(|(key, _)| key);
        assert_eq!(chosen.as_deref(), expected, "{which:?} with {starts:?}");
    }

    #[test]
    fn a_manifest_beyond_a_later_start_does_not_count() {
        let starts = [(1, 0), (2, 20)];
        check(&starts, Which::Last, Some("35-2"));
        check(&starts, Which::Best, Some("10-1"));
        check(&starts, Which::Step(20), Some("20-1"));
        check(&starts, Which::Step(30), Some("30-2"));
        check(&starts, Which::Step(40), None);
    }

    #[test]
    fn without_a_later_generation_all_count() {
        check(&[(1, 0)], Which::Last, Some("40-1"));
        check(&[(1, 0)], Which::Best, Some("30-1"));
    }

    #[test]
    fn a_start_from_zero_discards_all_before() {
        check(&[(3, 0)], Which::Last, None);
    }
}
