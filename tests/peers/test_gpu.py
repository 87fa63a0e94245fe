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
        ours = types.SimpleNamespace(hashes={(20, 32): {"x"}}, first_step_s=None)
        lines = gpu.table(options, plan, found, ours, (1e15, "1x1x1"))
        text = "\n".join(lines)
        rates = "| P = 20, batch 32: rows/s (median of 30 steps) | 9.0 | 3.0, at most 1.0 GiB | 3.00 | ≥ 2.0 | yes |"
        self.assertIn(rates, text)
        self.assertIn("| P = 20, batch 32: hashes of 3 runs | 1 |  |  | 1 | yes |", text)
        self.assertIn("| P = 128, batch 128: rows/s (median of 0 steps) | none | none |", text)
        self.assertIn("| P = 128, batch 128: not measured to the end | ptv2: a … c/d |", text)


class Devices(unittest.TestCase):
    """Which GPU `gpu-test.sh` takes, where all programs are stand-ins."""

    script = Path(__file__).parents[2] / "scripts/gpu-test.sh"

    def said(self, device, *lines):
        with tempfile.TemporaryDirectory() as folder:
            here = Path(folder)
            for part in ("bin", "torch/lib", "repository"):
                (here / part).mkdir(parents=True)
            shutil.copyfile(self.script, here / "gpu-test.sh")
            (here / "VERSION").write_text("none\n")
            (here / "torch/lib/libtorch_cpu.so").touch()
            (here / "torch/version.py").write_text("__version__ = '2.11.0+cu130'\n")
            programs = {"python": f"echo {here}/torch", "ptv2d": "cat $(dirname $0)/devices", "ptv2-tests": "exit 0"}
            for name, body in programs.items():
                (here / "bin" / name).write_text(f"#!/bin/sh\n{body}\n")
                (here / "bin" / name).chmod(0o755)
            (here / "bin/devices").write_text("".join(line + "\n" for line in lines))
            environment = dict(os.environ, PYTHON=str(here / "bin/python"), DEVICE=device)
            run = subprocess.run(
                ["bash", here / "gpu-test.sh"], env=environment, cwd=here, capture_output=True, text=True, check=False
            )
        return run.stderr

    def test_only_the_one_that_is_asked_for_counts(self):
        good = "cuda:0   NVIDIA H100, 81559 MiB, driver 580.65.06, CUDA 13.0"
        bad = "cuda:1   of no use: NVIDIA's driver refuses cuDeviceGet: an error"
        torch = "torch    with CUDA 13.0; GPUs that it can compute on: 2"
        refused = "cannot be computed on"
        self.assertNotIn(refused, self.said("cuda:0", good, bad, torch))
        self.assertIn("cuda:1 " + refused, self.said("cuda:1", good, bad, torch))
        self.assertIn("cuda:2 " + refused, self.said("cuda:2", good, bad, torch))
        # The driver shows it, torch does not.
        self.assertIn("cuda:0 " + refused, self.said("cuda:0", good, torch.replace(": 2", ": 0")))
        self.assertIn("expected cpu or cuda:N", self.said("cuda:0x", good, torch))


if __name__ == "__main__":
    unittest.main()
