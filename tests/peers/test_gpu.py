"""What gpu.py does where a part cannot be measured, and the file that backbone.py writes; `make unit` runs it."""

import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import types
import unittest
from pathlib import Path
from unittest import mock

from measure import Problem

# Neither needs torch for what is tried here: `make unit` has none.
with mock.patch.dict(sys.modules, {} if "torch" in sys.modules else {"torch": types.ModuleType("torch")}):
    import backbone
    import gpu


class Numbers:
    """As much of a tensor of fp32 as is asked for."""

    def __init__(self, *values):
        self.shape, self.memory = (len(values),), (backbone.ctypes.c_float * len(values))(*values)

    def numel(self):
        return len(self.memory)

    def to(self, _kind):
        return self

    def contiguous(self):
        return self

    def data_ptr(self):
        return backbone.ctypes.addressof(self.memory)


class Safetensors(unittest.TestCase):
    def test_a_file_is_header_and_data(self):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(
            backbone, "torch", types.SimpleNamespace(float32=None)
        ):
            file = Path(folder) / "model.safetensors"
            backbone.save({"b": Numbers(1.0, 2.0), "a": Numbers(3.0)}, file)
            data = file.read_bytes()
        (length,) = struct.unpack("<Q", data[:8])
        self.assertEqual(length % 8, 0)
        header = json.loads(data[8 : 8 + length])
        self.assertEqual(header["a"], {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
        self.assertEqual(header["b"], {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]})
        self.assertEqual(struct.unpack("<3f", data[8 + length :]), (3.0, 1.0, 2.0))


class Turns(unittest.TestCase):
    def test_who_fails_leaves_the_other_its_turns(self):
        asked = []

        def theirs():
            asked.append(1)
            if len(asked) == 2:
                raise Problem("out of memory")
            return [7.0]

        pair = gpu.Pair()
        gpu.take_turns(pair, 3, lambda: [5.0], theirs)
        self.assertEqual((pair.own, pair.theirs, len(asked)), ([5.0] * 3, [7.0], 2))
        self.assertEqual(pair.problems, ["PEFT: out of memory"])

    def test_the_table_has_what_was_measured(self):
        options, plan = types.SimpleNamespace(device="cuda:0"), gpu.large()
        failed = gpu.Pair(problems=["ptv2: a\nb\nc|d"])
        found = {(20, 32): gpu.Pair([9.0] * 30, [3.0] * 30, 1 << 30), (128, 128): failed}
        hashes, rate = {(20, 32): {"x"}}, (1e15, "1x1x1")
        found[20, 32].versions = {"torch": "2.11.0", "peft": "0.21.2"}
        lines = [line for shape in found for line in gpu.rows_of(options, plan, shape, found[shape], hashes, rate)]
        text = "\n".join(lines + gpu.last_rows(options, found, None, rate))
        rates = "| P = 20, batch 32: rows/s (median of 30 steps) | 9.0 | 3.0, at most 1.0 GiB | 3.00 | ≥ 2.0 | yes |"
        self.assertIn(rates, text)
        self.assertIn("| P = 20, batch 32: hashes of 3 runs | 1 |  |  | 1 | yes |", text)
        self.assertIn("| P = 128, batch 128: rows/s (median of 0 steps) | none | none |", text)
        self.assertIn("| P = 128, batch 128: not measured to the end | ptv2: a … c/d |", text)
        self.assertIn("| versions |  | torch 2.11.0, peft 0.21.2 |", text)


class Script(unittest.TestCase):
    """`gpu-test.sh`, where all programs are stand-ins."""

    script = Path(__file__).parents[2] / "scripts/gpu-test.sh"
    good = "cuda:0   NVIDIA H100, 81559 MiB, driver 580.65.06, CUDA 13.0"
    bad = "cuda:1   of no use: NVIDIA's driver refuses cuDeviceGet: an error"
    torch = "torch    with CUDA 13.0; GPUs that it can compute on: 2"
    # Each check leaves its line; what stands for `dies` does it before.
    checks = """case "$*" in
        *--list*) printf '%s: test\\n' gpu::t00_a gpu::t10_b gpu::t11_c gpu::t20_d gpu::t90_e ;;
        *) for name; do case $name in
            gpu::t11_c) {dies} ;;
            gpu::*) echo "| $name | PASS | | |" >>"$PTV2_TEST_REPORT" ;;
        esac; done ;;
    esac"""

    def run_script(self, lines, dies="exit 101", **settings):
        """What the script says, and its report."""
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            for part in ("bin", "torch/lib", "repository"):
                (here / part).mkdir(parents=True)
            shutil.copyfile(self.script, here / "gpu-test.sh")
            (here / "VERSION").write_text("none\n")
            (here / "torch/lib/libtorch_cpu.so").touch()
            (here / "torch/version.py").write_text("__version__ = '2.11.0+cu130'\n")
            # The comparison, told its report by the last word; else, where PyTorch lies.
            python = f"""for last; do :; done
                case "$*" in *--report*) echo compared >>"$last" ;; *) echo {here}/torch ;; esac"""
            programs = {"python": python, "ptv2d": "cat $(dirname $0)/devices"}
            programs["ptv2-tests"] = self.checks.replace("{dies}", dies)
            for name, body in programs.items():
                (here / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
                (here / "bin" / name).chmod(0o755)
            (here / "bin/devices").write_text("".join(line + "\n" for line in lines))
            environment = dict(os.environ, PYTHON=str(here / "bin/python"), TMPDIR=folder, **settings)
            run = subprocess.run(
                ["bash", here / "gpu-test.sh"], env=environment, cwd=here, capture_output=True, text=True, check=False
            )
            report = here / "report.md"
            return run, report.read_text(encoding="utf-8") if report.exists() else ""

    def order(self, report):
        """The names of what came to an end, in the report's order."""
        words = ["t00_a", "t10_b", "t11_c", "t20_d", "compared", "t90_e"]
        return sorted((word for word in words if word in report), key=report.index)

    def test_only_the_device_that_is_asked_for_counts(self):
        good, bad, torch = self.good, self.bad, self.torch
        said = lambda device, *lines: self.run_script(lines, DEVICE=device)[0].stderr
        refused = "cannot be computed on"
        self.assertNotIn(refused, said("cuda:0", good, bad, torch))
        self.assertIn("cuda:1 " + refused, said("cuda:1", good, bad, torch))
        self.assertIn("cuda:2 " + refused, said("cuda:2", good, bad, torch))
        # The driver shows it, torch does not.
        self.assertIn("cuda:0 " + refused, said("cuda:0", good, torch.replace(": 2", ": 0")))
        self.assertIn("expected cpu or cuda:N", said("cuda:0x", good, torch))

    def test_checks_come_before_the_comparison_and_faults_after_it(self):
        run, report = self.run_script([], dies='echo "| $name | PASS | | |" >>"$PTV2_TEST_REPORT"', DEVICE="cpu")
        self.assertEqual((run.returncode, self.order(report).index("compared")), (0, 4), report)
        self.assertEqual(len(self.order(report)), 6, report)
        self.assertNotIn("FAIL", report)

    def test_a_check_that_ends_its_process_leaves_the_other_groups_theirs(self):
        run, report = self.run_script([], DEVICE="cpu")
        self.assertEqual(run.returncode, 1)
        self.assertEqual(self.order(report), ["t00_a", "t10_b", "t20_d", "compared", "t90_e"])
        self.assertIn("| group t1 | FAIL | 1 of its 2 checks did not come to an end | |", report)

    def test_what_is_killed_leaves_what_it_had(self):
        run, report = self.run_script([], dies="kill -9 $PPID", DEVICE="cpu")
        self.assertEqual(run.returncode, -9)
        self.assertEqual(self.order(report), ["t00_a", "t10_b"])

    def test_parts_are_run_alone(self):
        run, report = self.run_script([], DEVICE="cpu", COMPARE="only")
        self.assertEqual((run.returncode, self.order(report)), (0, ["compared"]))
        _, report = self.run_script([], DEVICE="cpu", COMPARE="no")
        self.assertEqual(self.order(report), ["t00_a", "t10_b", "t20_d", "t90_e"])
        run, _ = self.run_script([], DEVICE="cpu", COMPARE="maybe")
        self.assertIn("expected yes, no or only", run.stderr)
        run, _ = self.run_script([], DEVICE="cpu", COMPARE="only", ONLY="t0")
        self.assertIn("expected no ONLY beside it", run.stderr)


if __name__ == "__main__":
    unittest.main()
