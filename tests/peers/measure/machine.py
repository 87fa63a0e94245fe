"""The machine: what it is, and whether others use it.

Times are worth writing down only when nothing else ran. Processor time of others is that of all
processors (/proc/stat, time stolen by the hypervisor included) minus that of this program and of all
that it started (/proc/PID/stat).
"""

import os
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from . import Problem
from .processes import descendants, ticks

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")
CORES = os.cpu_count()
# Shorter than this, a tick of the kernel's clock is too coarse to tell who used a processor.
WINDOW_S = 2.0
# Looking costs a few milliseconds of one processor.
LOOK_EVERY_S = 1.0
TRIES = 3


@dataclass
class Sample:
    """Processor time up to now, in ticks."""

    at: float
    all: int
    own: int


def sample():
    """Takes a sample."""
    line = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0]
    # user nice system idle iowait irq softirq steal; guests are in user.
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, line.split()[1:9])
    own = descendants(os.getpid()).values()
    used = sum(ticks(numbers, with_ended_children=True) for numbers in own)
    return Sample(time.monotonic(), user + nice + system + irq + softirq + steal, used)


def others_share(before, after):
    """Share of all processors that others used between two samples, over a window at least."""
    used = (after.all - before.all) - (after.own - before.own)
    seconds = max(after.at - before.at, WINDOW_S)
    return max(0.0, used / TICKS_A_SECOND / seconds / CORES)


@dataclass
class Measured:
    """What was measured, and the largest share that others had in any window of that time."""

    value: object
    others: float
    disturbed: bool


class Watch:
    """Watches what others do. Use `with`, and `measure` for whatever is timed."""

    def __init__(self, limit, say):
        self.limit, self.say = limit, say
        self.samples, self.lock = [], threading.Lock()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)
        self.disturbed = 0

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def look(self):
        while not self.over.wait(LOOK_EVERY_S):
            self.take()

    def take(self):
        with self.lock:
            # Taken under the lock, so that samples are in the order of their times.
            self.samples.append(sample())
            return self.samples[-1]

    def worst(self, begin, end):
        """The largest share of others in any window from one sample to another, or in all of it."""
        with self.lock:
            inside = [one for one in self.samples if begin.at <= one.at <= end.at]
            self.samples = self.samples[-1:]
        shares = [others_share(begin, end)]
        for index, before in enumerate(inside):
            later = (one for one in inside[index:] if one.at - before.at >= WINDOW_S)
            shares += [others_share(before, after) for after in [next(later, None)] if after]
        return max(shares)

    def quiet(self):
        """Refuses a busy machine."""
        before = self.take()
        time.sleep(WINDOW_S)
        share = others_share(before, self.take())
        if share > self.limit:
            raise Problem(
                f"the machine is busy: others used {share:.0%} of its {CORES} cores over the last "
                f"{WINDOW_S:.0f} s; expected at most {self.limit:.0%}",
                "end what runs besides, or wait; `top` shows it",
            )

    def measure(self, what, action):
        """Does what is timed, again where others disturbed it; what stays disturbed is marked."""
        for attempt in range(1, TRIES + 1):
            begin = self.take()
            value = action()
            others = self.worst(begin, self.take())
            if others <= self.limit:
                return Measured(value, others, False)
            self.say(f"{what}: others used {others:.0%} of the machine (attempt {attempt} of {TRIES})")
        self.disturbed += 1
        return Measured(value, others, True)


def first_value(path, key):
    """The first value of a key in a file of `key : value` lines."""
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return "unknown"


def describe():
    """What the machine is."""
    flags = first_value("/proc/cpuinfo", "flags").split()
    noted = [flag for flag in flags if flag.startswith(("avx2", "avx512", "avx_vnni", "amx"))]
    return {
        "processor": first_value("/proc/cpuinfo", "model name"),
        "family": first_value("/proc/cpuinfo", "cpu family"),
        "model": first_value("/proc/cpuinfo", "model"),
        "cores": CORES,
        "flags": noted,
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    }


def versions(root):
    """Of the compiler and of the working tree."""
    said = lambda *command: subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()
    changed = " with changes" if said("git", "status", "--porcelain", "--untracked-files=no") else ""
    commit = said("git", "rev-parse", "--short=12", "HEAD") or "unknown"
    return {"rustc": said("rustc", "--version") or "unknown", "commit": commit + changed}
