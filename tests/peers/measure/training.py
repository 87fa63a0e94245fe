"""Training and evaluation, ptv2 against its peers: all in turn, so that a slow minute meets all of them."""

from dataclasses import dataclass, field

from .ours import Daemon
from .processes import Talker


@dataclass
class Series:
    """What one contestant's turns measured: lists of (seconds, rows, tokens). Turns that others
    disturbed are counted and left out."""

    steps: list = field(default_factory=list)
    evaluations: list = field(default_factory=list)
    disturbed: int = 0

    def add(self, steps, evaluation, disturbed):
        if disturbed:
            self.disturbed += 1
            return
        # The first step of a turn meets cold caches, and in ptv2 a backbone that was just loaded.
        self.steps += steps[1:]
        self.evaluations.append(evaluation)


class Peer:
    """transformers and PEFT in a process that waits between its turns."""

    def __init__(self, options, processes, workload, precision, padding="longest"):
        command = [options.python, options.root / "tests/peers/peer.py", workload.backbone]
        command += [workload.task, options.data, "--precision", precision]
        command += ["--padding", padding, "--threads", options.threads]
        self.talker = Talker(processes, command)
        self.first_step_after_s = self.talker.ready["first_step_at"] - self.talker.started_at

    def turn(self, steps, val_rows):
        """Some steps and one evaluation."""
        found = self.talker.ask(do="train", steps=steps)
        evaluated = self.talker.ask(do="evaluate", rows=val_rows)
        steps = list(zip(found["seconds"], found["rows"], found["tokens"]))
        return steps, (evaluated["seconds"], evaluated["rows"], evaluated["tokens"])

    def end(self):
        self.talker.end()


def peers_of(options, processes, workload):
    """The contestants besides ptv2, by name."""
    found = {f"PEFT {p}": Peer(options, processes, workload, p) for p in options.precisions}
    # The reference's scripts: fp32, each row padded to 128 tokens.
    found["reference style"] = Peer(options, processes, workload, "fp32", "128")
    return found


class Training:
    """Runs all workloads on one daemon."""

    def __init__(self, options, counts, processes, watch, say):
        self.options, self.counts, self.processes = options, counts, processes
        self.watch, self.say = watch, say
        self.limits = []

    def run(self, folder, workloads):
        """Gives, for each workload, its sequence lengths and each contestant's series; and the limit."""
        daemon = Daemon(self.options, self.processes, folder / "training", 1, self.options.threads)
        limit = Talker(
            self.processes,
            [self.options.python, self.options.root / "tests/peers/limit.py", self.options.threads],
        )
        found = {one.name: self.workload(one, daemon, limit) for one in workloads}
        daemon.end()
        limit.end()
        return {"workloads": found, "limit": best_limits(self.limits)}

    def workload(self, workload, daemon, limit):
        self.say(f"{workload.name}: starting the peers")
        peers = peers_of(self.options, self.processes, workload)
        talker = next(iter(peers.values())).talker
        lengths = talker.ask(do="lengths", rows=workload.val_rows)
        versions = talker.ask(do="versions")
        series = {f"ptv2 {p}": Series() for p in self.options.precisions}
        series |= {name: Series() for name in peers}
        measured = self.watch.measure(
            "the limit", lambda: limit.ask(do="limit", seconds=self.counts.limit_s)
        )
        self.limits.append(measured.value)
        for turn in range(workload.rounds):
            self.say(f"{workload.name}: round {turn + 1} of {workload.rounds}")
            for name, one in series.items():
                measured = self.watch.measure(
                    f"{workload.name}, {name}",
                    lambda: self.turn(workload, name, turn, daemon, peers),
                )
                one.add(*measured.value, measured.disturbed)
        for peer in peers.values():
            peer.end()
        return {"series": series, "lengths": lengths, "versions": versions}

    def turn(self, workload, name, turn, daemon, peers):
        """One contestant's turn: its steps and its evaluation."""
        if name in peers:
            return peers[name].turn(workload.steps, workload.val_rows)
        precision = name.removeprefix("ptv2 ")
        # Another seed is another order of rows: rounds meet different batches, as the peers' do.
        run = daemon.run(workload, precision, workload.steps, workload.val_rows, seed=11 + turn)
        return run.steps, run.evaluation


def best_limits(measured):
    """The best of several answers of limit.py, by number format and threads."""
    best = {}
    for one in measured:
        for precision, by_threads in one.items():
            for threads, rate in by_threads.items():
                own = best.setdefault(precision, {})
                own[threads] = max(own.get(threads, [0, ""]), rate)
    return best
