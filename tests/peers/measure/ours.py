"""ptv2 as its users run it: a daemon of its own, and jobs that go through `ptv2ctl`."""

import json
import os
import subprocess
import time
from dataclasses import dataclass

from . import Problem
from .plan import BATCH
from .processes import children, last_words

START_S = 60
JOB = """\
# What does not change from job to job; the rest is given by --set.
[method]
kind = "prefix"
pre_seq_len = 20
hidden_dropout_prob = 0.1

[data]
max_seq_length = 128

[training]
batch_size = 32
learning_rate = 5e-3
schedule = "constant"
# Only the evaluation at the end.
eval_every = 1000000

[checkpoint]
# Only the one at the end.
every = 1000000
"""


@dataclass
class Run:
    """A job that is done. Steps and evaluation are (seconds, rows, tokens)."""

    steps: list
    evaluation: tuple
    first_step_after_s: float


class Daemon:
    """`ptv2d local` with a state folder of its own."""

    def __init__(self, options, processes, state, workers, threads, more=()):
        self.options, self.processes, self.state = options, processes, state
        self.threads = threads
        self.job_file = state.parent / f"{state.name}.toml"
        self.job_file.write_text(JOB, encoding="utf-8")
        allowed = [options.data, options.small, options.base]
        command = [options.bin / "ptv2d", "local", "--workers", workers, "--threads", threads]
        command += ["--state", state, "--listen", "127.0.0.1:0"]
        command += [part for root in allowed for part in ("--allow", root.resolve())]
        command += more
        self.process = processes.start(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        self.environment = dict(os.environ, PTV2_TOKEN_FILE=str(state / "token"))
        self.environment["PTV2_COORDINATOR"] = self.once(self.address)
        self.once(lambda: len(self.ctl("workers")) == workers)

    def address(self):
        file = self.state / "address"
        return file.read_text(encoding="ascii").strip() if file.exists() else None

    def once(self, true):
        """Waits for the daemon until something holds."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                break
            if found := true():
                return found
            time.sleep(0.02)
        raise Problem(f"`ptv2d local` did not start within {START_S} s:\n{last_words(self.process)}")

    def ctl(self, *arguments):
        """What a command of `ptv2ctl` prints, as JSON."""
        command = [self.options.bin / "ptv2ctl", *arguments, "--output", "json"]
        command = [str(part) for part in command]
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Problem(f"`{' '.join(command[1:4])} …` ended with {done.returncode}:\n{done.stderr}")
        return json.loads(done.stdout)

    def run(self, workload, precision, steps, val_rows, seed=11, workers=1):
        """Submits a job, follows it to its end, and reads what it measured."""
        settings = {
            "task": f"superglue/{workload.task}",
            "backbone.path": workload.backbone.resolve(),
            "backbone.precision": precision,
            "data.root": self.options.data.resolve(),
            "data.max_val_rows": val_rows,
            "training.max_steps": steps,
            "training.seed": seed,
            "resources.workers": workers,
        }
        status, rows, first_step = self.follow(settings)
        return Run(steps_of(status, rows), evaluation_of(status, rows), first_step)

    def follow(self, settings):
        """Submits a job and follows it to its end: its status, its metrics, seconds from submit to the first step."""
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        submitted_at = time.time()
        status = self.ctl("submit", self.job_file, *sets, "--follow")
        if status["state"] != "succeeded":
            raise Problem(f"a job ended as {status['state']}: {status.get('reason_text')}")
        rows = self.ctl("metrics", status["id"])
        # `first_step_s` counts from the moment of this event, when the job had been checked.
        events = self.ctl("events", status["id"])
        accepted = next(one for one in events if one["kind"] == "submitted")["unix_ms"] / 1000
        return status, rows, accepted + status["timings"]["first_step_s"] - submitted_at

    def worker_pids(self):
        return children(self.process.pid)

    def end(self):
        self.processes.end(self.process)


def steps_of(status, rows):
    """Each step's seconds, rows and tokens, from its rates."""
    plan, batch = status["plan"], BATCH
    found = []
    for row in rows:
        if "loss" in row:
            # The last batch of an epoch may hold fewer rows.
            start = (row["step"] - 1) % plan["steps_per_epoch"] * batch
            count = min(batch, plan["train_rows"] - start)
            seconds = count / row["rows_per_s"]
            found.append((seconds, count, row["tokens_per_s"] * seconds))
    if len(found) != status["total_steps"]:
        raise Problem(f"{status['id']} has {len(found)} steps in its metrics of {status['total_steps']}")
    return found


def evaluation_of(status, rows):
    """The last evaluation's seconds, rows and tokens."""
    row = [row for row in rows if "split" in row][-1]
    seconds = status["plan"]["val_rows"] / row["rows_per_s"]
    return seconds, status["plan"]["val_rows"], row["tokens_per_s"] * seconds
