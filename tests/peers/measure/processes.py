"""Processes that the benchmark starts: their output, their processor time, their end."""

import ctypes
import json
import os
import signal
import subprocess
import time
from pathlib import Path

from . import Problem

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
LIBC = ctypes.CDLL(None)
# A process may take this long to end when asked.
ENDING_S = 10


def stat(pid):
    """The numbers of /proc/PID/stat from `state` (index 0) on; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The program's name is in parentheses and may hold anything.
    return text.rpartition(")")[2].split()


def descendants(root):
    """All that `root` started and that is still there, by pid, and `root` itself, with their stat."""
    found = {int(name): stat(name) for name in os.listdir("/proc") if name.isdigit()}
    children = {}
    for pid, numbers in found.items():
        if numbers is not None:
            children.setdefault(int(numbers[1]), []).append(pid)
    tree, waiting = {}, [root]
    while waiting:
        pid = waiting.pop()
        if found.get(pid) is not None:
            tree[pid] = found[pid]
            waiting += children.get(pid, [])
    return tree


def children(pid):
    """The processes that `pid` itself started."""
    return [one for one, numbers in descendants(pid).items() if int(numbers[1]) == pid]


def ticks(numbers, with_ended_children=False):
    """Processor time in clock ticks, user and system."""
    return sum(int(number) for number in numbers[11 : 15 if with_ended_children else 13])


def peak_bytes(pid):
    """The most memory that a process ever held."""
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    line = next(line for line in text.splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


class Processes:
    """Starts processes and sees to it that they and all that they started are gone at the end."""

    def __init__(self, folder):
        self.folder = folder
        self.running = []
        self.started = 0
        # What a process leaves behind when it ends becomes a child of this one, and is found.
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def start(self, command, **more):
        """Starts a process; standard error goes to a file, whose path is the process's `log`."""
        self.started += 1
        log = self.folder / f"{self.started:03d}-{Path(command[0]).name}.log"
        with log.open("wb") as sink:
            # A session of its own: Ctrl-C in the terminal is for this program, which then ends them.
            process = subprocess.Popen(
                [str(part) for part in command],
                stderr=sink,
                start_new_session=True,
                preexec_fn=lambda: LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0),
                **more,
            )
        process.log = log
        self.running.append(process)
        return process

    def end(self, process):
        """Ends one process: asks it, then kills it."""
        if process in self.running:
            self.running.remove(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
        if process.poll() is None:
            process.terminate()
        try:
            process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def end_all(self):
        """Ends everything, and what it left behind."""
        for process in reversed(self.running[:]):
            self.end(process)
        deadline = time.monotonic() + ENDING_S
        while time.monotonic() < deadline:
            left = [pid for pid in descendants(os.getpid()) if pid != os.getpid()]
            if not left:
                return
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                    os.waitpid(pid, os.WNOHANG)
                except (ProcessLookupError, ChildProcessError):
                    pass
            time.sleep(0.05)


def last_words(process):
    """The end of what a process wrote to standard error."""
    lines = process.log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join("  " + line for line in lines[-15:])


class Talker:
    """A process that answers one JSON line for each JSON line (peer.py, limit.py)."""

    def __init__(self, processes, command):
        self.processes, self.name = processes, " ".join(Path(str(part)).name for part in command)
        self.started_at = time.time()
        # Everything lies in local folders; nothing is to be asked for anywhere else.
        environment = dict(os.environ, HF_HUB_OFFLINE="1")
        self.process = processes.start(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.ready = self.answer()

    def answer(self):
        line = self.process.stdout.readline()
        if not line:
            status = self.process.wait()
            what = f"`{self.name}` ended with status {status}; it last said:"
            raise Problem(f"{what}\n{last_words(self.process)}")
        return json.loads(line)

    def ask(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()
        return self.answer()

    def end(self):
        self.processes.end(self.process)
