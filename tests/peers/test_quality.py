"""The arithmetic, texts and tables of quality.py, on cases worked by hand; `make unit` runs it."""

import json
import tempfile
import tomllib
import unittest
from pathlib import Path
from types import SimpleNamespace

import rows
from compare import metrics, ours, plan, report
from compare.results import Results, last_and_best, mean_sd
from measure import Problem


class Texts(unittest.TestCase):
    def test_wic_has_two_templates(self):
        row = {"word": "run", "sentence1": "Run rogue.", "sentence2": "She ran."}
        asked = "Run rogue. She ran. Does run have the same meaning in both sentences?"
        self.assertEqual(rows.texts("wic", row), [asked])
        self.assertEqual(rows.texts("wic", row, 1), [("run: Run rogue.", "run: She ran.")])

    def test_wsc_names_the_pronoun_before_its_text(self):
        row = {"text": "Mark told Pete. He left.", "target": {"span1_text": "Mark", "span2_text": "He"}}
        self.assertEqual(rows.texts("wsc", row), [("He: Mark told Pete. He left.", "Mark")])

    def test_copa_has_a_pair_for_each_choice(self):
        row = {"premise": "It fell.", "question": "cause", "choice1": "x", "choice2": "y"}
        self.assertEqual(rows.texts("copa", row), [("It fell. because", "x"), ("It fell. because", "y")])

    def test_the_majority_class_of_the_first_rows(self):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "RTE/val.jsonl"
            path.parent.mkdir()
            labels = ["entailment", "not_entailment", "entailment", "entailment"]
            path.write_text("\n".join(json.dumps({"label": one}) for one in labels), encoding="utf-8")
            self.assertEqual(rows.majority(folder, "rte", "val"), 0.75)
            self.assertEqual(rows.majority(folder, "rte", "val", 2), 0.5)


class Metrics(unittest.TestCase):
    def test_cb_has_a_macro_f1(self):
        # The case of daemon/src/tasks/metrics.rs: F1 of the classes is 4/5, 2/3 and 0.
        found = metrics.scores("cb", [0, 0, 1, 1, 1, 1], [0, 0, 0, 1, 1, 2])
        self.assertAlmostEqual(found["accuracy"], 4 / 6)
        self.assertAlmostEqual(found["f1"], (4 / 5 + 2 / 3) / 3)
        self.assertEqual(metrics.scores("rte", [0, 1], [0, 0]), {"accuracy": 0.5})

    def test_a_class_that_never_occurs_does_not_count(self):
        self.assertEqual(metrics.macro_f1([0, 1], [0, 1]), 1.0)

    def test_mean_and_deviation_over_seeds(self):
        self.assertEqual(mean_sd([1.0, 2.0, 3.0]), (2.0, 1.0))
        self.assertEqual(mean_sd([0.5]), (0.5, None))

    def test_last_and_best_epoch(self):
        record = {"evaluations": [{"accuracy": 0.5}, {"accuracy": 0.7}, {"accuracy": 0.6}]}
        self.assertEqual(last_and_best(record), (0.6, 0.7))


def run_of(task, who=plan.OURS, backbone="minilm", seed=11):
    setting = next(one for one in plan.settings(backbone) if one.task == task)
    return plan.Run(who, backbone, setting, seed, "bf16")


class Runs(unittest.TestCase):
    def test_a_job_has_the_settings_of_its_run(self):
        run = run_of("boolq")
        job = tomllib.loads(ours.job_text(run, "/b", "/d"))
        self.assertEqual((job["task"], job["backbone"]), ("superglue/boolq", {"path": "/b", "precision": "bf16"}))
        self.assertEqual(job["data"]["max_train_rows"], run.setting.max_train_rows)
        self.assertEqual(job["training"]["learning_rate"], run.setting.learning_rate)
        self.assertNotIn("max_train_rows", tomllib.loads(ours.job_text(run_of("cb"), "/b", "/d"))["data"])

    def test_bert_reads_wic_as_a_pair(self):
        self.assertEqual((run_of("wic").template, run_of("wic", backbone="mpnet").template), (1, 0))
        self.assertEqual(run_of("wsc").template, 0)

    def test_the_larger_model_has_fewer_epochs(self):
        small, large = run_of("cb").setting, run_of("cb", backbone="mpnet").setting
        self.assertLess(large.epochs, small.epochs)
        self.assertEqual(large.batch_size, small.batch_size)

    def test_all_tasks_run_with_one_seed_before_the_next(self):
        chosen = SimpleNamespace(
            who=plan.PEFT, backbone="minilm", tasks=["rte", "cb"], seeds=[11, 7], precision="bf16"
        )
        found = [(run.seed, run.setting.task) for run in plan.runs(chosen)]
        self.assertEqual(found, [(11, "cb"), (11, "rte"), (7, "cb"), (7, "rte")])

    def test_a_job_that_failed_is_no_result(self):
        status = {"id": "j1", "state": "succeeded", "plan": {"trainable_parameters": 9}}
        lines = [{"step": 1, "loss": 1.0}, {"step": 1, "split": "val", "accuracy": 0.5, "rows_per_s": 3.0}]
        self.assertEqual(ours.record(status, lines), {"evaluations": [{"accuracy": 0.5}], "trainable": 9})
        with self.assertRaises(Problem):
            ours.record(status | {"state": "failed"}, lines)
        with self.assertRaises(Problem):
            ours.record(status, lines[:1])


class Report(unittest.TestCase):
    def result(self, run, *accuracies):
        more = {"seconds": 60.0, "finished": "2026-11-25T13:00:00", "threads": 1, "versions": {"torch": "2.11.0"}}
        more |= {"machine": {"processor": "P"}, "trainable": 1}
        self.results.add(run, {"evaluations": [{"accuracy": one, "f1": one} for one in accuracies]} | more)

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.results = Results(Path(folder.name) / "results.jsonl")
        self.data = Path(folder.name)
        for name, labels, _ in rows.TASKS.values():
            (self.data / name).mkdir()
            for split in ("train", "val"):
                lines = [json.dumps({"label": label}) for label in (labels[0], labels[0], labels[1])]
                (self.data / name / f"{split}.jsonl").write_text("\n".join(lines), encoding="utf-8")

    def test_what_is_there_is_found_again(self):
        run = run_of("cb")
        self.assertIsNone(self.results.of(run))
        self.result(run, 0.5)
        self.result(run, 0.6)
        self.assertEqual(self.results.of(run)["evaluations"][0]["accuracy"], 0.6)
        self.assertIsNone(self.results.of(run_of("cb", seed=7)))

    def test_a_row_has_mean_and_deviation_of_all_seeds(self):
        self.result(run_of("cb"), 0.9, 0.6)
        self.result(run_of("cb", seed=7), 0.7, 0.7)
        self.result(run_of("cb", who=plan.PEFT), 0.5)
        table = report.outcome(self.results.all(), "minilm", self.data).splitlines()
        head = "| task | majority class | ptv2: last | ptv2: best | PEFT: last | PEFT: best | seeds |"
        self.assertEqual(table[0], head)
        self.assertEqual(table[2], "| CB | 66.7 | 65.0 ± 7.1 | 80.0 ± 14.1 | 50.0 | 50.0 | 2, 1 |")
        self.assertEqual(table[3], "| COPA | 66.7 | - | - | - | - | 0, 0 |")

    def test_the_document_says_what_was_refused(self):
        self.result(run_of("cb"), 0.5)
        refusal = {"refused": "ValueError: no", "versions": {"peft": "0.21.2"}}
        self.results.add(run_of("cb", plan.PEFT, "mpnet"), refusal)
        text = report.document(self.results.all(), self.data)
        self.assertIn("PEFT 0.21.2 refuses prefix tuning of MPNet-base: `ValueError: no`", text)
        self.assertIn("- ptv2 on MiniLM-L6: 1 run in 1 minute beside other work, 2026-11-25; bf16, 1 thread of P", text)
        self.assertNotIn("### MPNet-base", text)


if __name__ == "__main__":
    unittest.main()
