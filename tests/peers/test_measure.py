"""The benchmark's own arithmetic, on cases worked by hand; `make unit` runs it."""

import tempfile
import unittest
from pathlib import Path

from measure import Problem, figures, machine, operations, ours, table
from measure.processes import ticks
from measure.training import Series, best_limits


class Operations(unittest.TestCase):
    shape = operations.Shape(hidden=2, inner=3, layers=1)

    def test_the_plain_count(self):
        # 5 tokens, 1 prefix position: 2·5·(4·4 + 2·6) = 280 linear, 4·5·6·2 = 240 of attention.
        self.assertEqual(operations.plain(self.shape, 1, 5, training=False), 280 + 240)
        self.assertEqual(operations.plain(self.shape, 1, 5, training=True), 2 * 280 + 3 * 240)

    def test_the_least_count(self):
        two = operations.Shape(hidden=2, inner=3, layers=2)
        # Last layer: keys and values of 5 tokens (80), all else of one (16 + 24), its attention (48).
        last = 80 + 16 + 24 + 48
        self.assertEqual(operations.least(two, 1, 5, training=False), 280 + 240 + last)
        # Backward, first layer: output, up and down of 5 (160), attention twice; last: all it computed.
        first_back, last_back = 160 + 2 * 240, 80 + 16 + 24 + 2 * 48
        self.assertEqual(
            operations.least(two, 1, 5, training=True), 280 + 240 + last + first_back + last_back
        )

    def test_per_token(self):
        count = lambda _shape, _prefix, tokens, _training: tokens * tokens
        self.assertEqual(operations.per_token(count, self.shape, 1, [1, 3], True), 10 / 4)


class Machine(unittest.TestCase):
    def test_others_are_what_is_not_ours(self):
        second = machine.TICKS_A_SECOND
        before = machine.Sample(0.0, 0, 0)
        after = machine.Sample(4.0, 4 * second, 3 * second)
        self.assertAlmostEqual(machine.others_share(before, after), 1 / 4 / machine.CORES)
        # A short time counts as a window.
        after = machine.Sample(0.1, second, 0)
        self.assertAlmostEqual(machine.others_share(before, after), 1 / 2 / machine.CORES)

    def test_a_process_has_its_ended_children(self):
        numbers = ["S"] + [str(n) for n in range(1, 20)]
        self.assertEqual(ticks(numbers), 11 + 12)
        self.assertEqual(ticks(numbers, with_ended_children=True), 11 + 12 + 13 + 14)

    def test_what_is_disturbed_is_repeated_and_marked(self):
        watch = machine.Watch(0.05, lambda _line: None)
        shares = iter([0.5, 0.01, 0.5, 0.5, 0.5])
        watch.take = lambda: machine.Sample(0.0, 0, 0)
        watch.worst = lambda _begin, _end: next(shares)
        done = []
        self.assertFalse(watch.measure("x", lambda: done.append(1)).disturbed)
        self.assertTrue(watch.measure("x", lambda: done.append(1)).disturbed)
        self.assertEqual((len(done), watch.disturbed), (5, 1))


class Ours(unittest.TestCase):
    plan = {"steps_per_epoch": 2, "train_rows": 40, "val_rows": 10}

    def test_the_last_batch_of_an_epoch_is_small(self):
        rows = [
            {"step": step, "loss": 1.0, "rows_per_s": 16.0, "tokens_per_s": 100.0} for step in (1, 2, 3)
        ]
        status = {"id": "j1", "plan": self.plan, "total_steps": 3}
        steps = ours.steps_of(status, rows)
        self.assertEqual(steps, [(2.0, 32, 200.0), (0.5, 8, 50.0), (2.0, 32, 200.0)])
        with self.assertRaises(Problem):
            ours.steps_of(status, rows[:2])

class Tables(unittest.TestCase):
    def test_a_target_is_met_or_not(self):
        self.assertTrue(figures.at_least("x", 5.0, 2.0, 2.5).met)
        self.assertFalse(figures.at_least("x", 4.9, 2.0, 2.5).met)
        self.assertTrue(figures.at_least("x", None, 2.0, 2.5).disturbed)

    def test_first_steps_and_disturbed_turns_are_left_out(self):
        series = Series()
        for seconds, disturbed in ((2.0, False), (4.0, False), (400.0, True)):
            series.add([(9.0, 32, 1), (seconds, 32, 1)], (seconds, 8, 1), disturbed)
        self.assertEqual(figures.median_rate(series, "steps"), 12.0)
        self.assertEqual((len(series.evaluations), series.disturbed), (2, 1))
        self.assertIsNone(figures.median_rate(Series(), "steps"))

    def test_the_best_limit_of_all_rounds(self):
        rounds = [{"fp32": {"1": [5.0, "a"]}}, {"fp32": {"1": [4.0, "b"]}}]
        self.assertEqual(best_limits(rounds), {"fp32": {"1": [5.0, "a"]}})

    def test_tables_replace_what_stands_between_the_markers(self):
        with tempfile.TemporaryDirectory() as folder:
            docs = Path(folder) / "docs.md"
            docs.write_text(f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n", encoding="utf-8")
            table.write(docs, f"{table.BEGIN}\nnew\n{table.END}")
            expected = f"before\n{table.BEGIN}\nnew\n{table.END}\nafter\n"
            self.assertEqual(docs.read_text(encoding="utf-8"), expected)
            docs.write_text("no markers", encoding="utf-8")
            with self.assertRaises(Problem):
                table.place(docs)


if __name__ == "__main__":
    unittest.main()
