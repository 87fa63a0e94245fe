"""Instructions of a training step outside of torch, counted by valgrind, which does not time them.

valgrind knows no AVX-512, so dropout's masks are counted as an AVX2 processor computes them.
"""

import os
import re
import shutil
import subprocess

from . import Problem

COUNTED = re.compile(r"Collected\s*:\s*(\d+)")


def instructions(program, steps, folder):
    """Instructions of a whole run."""
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind.out"]
    done = subprocess.run(
        [*command, program, str(steps)],
        # The allocator would give memory back by the clock.
        env={**os.environ, "MIMALLOC_PURGE_DELAY": "-1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    found = COUNTED.search(done.stderr)
    if done.returncode != 0 or found is None:
        last = "\n".join(done.stderr.splitlines()[-10:])
        raise Problem(f"`{program.name} {steps}` under valgrind ended with {done.returncode}:\n{last}")
    return int(found.group(1))


def run(options, counts, folder, say):
    """Instructions a step, from the difference of two runs; or why there are none."""
    program = options.bin / "examples/step_without_torch"
    if shutil.which("valgrind") is None:
        return {"missing": "valgrind is not installed (Debian package valgrind)"}
    say("instructions of a step")
    few, many = counts.callgrind_steps
    low, high = instructions(program, few, folder), instructions(program, many, folder)
    return {"instructions_per_step": (high - low) / (many - few), "steps": [few, many]}
