"""Scaling, memory, time to the first step, and the coordinator's own cost: RTE on MiniLM-L6."""

import time

from .machine import TICKS_A_SECOND
from .ours import Daemon
from .processes import peak_bytes, stat, ticks
from .training import Peer, Series

# Workers, threads of each.
GROUPS = [(1, 1), (2, 1), (1, 2)]
# A start is short; few rows keep the evaluation behind it so.
START_STEPS, START_VAL_ROWS = 1, 32


class Rest:
    """What is measured on one workload besides training."""

    def __init__(self, options, counts, processes, watch, say, folder, workload):
        self.options, self.counts, self.processes = options, counts, processes
        self.watch, self.say, self.folder, self.workload = watch, say, folder, workload
        self.daemons = 0

    def daemon(self, workers, threads):
        self.daemons += 1
        state = self.folder / f"daemon-{self.daemons}"
        return Daemon(self.options, self.processes, state, workers, threads)

    def scaling(self):
        """Three daemons that stay up, idle but for their turn; steps of each group and precision."""
        daemons = {group: self.daemon(*group) for group in GROUPS}
        found = {(p, group): Series() for p in self.options.precisions for group in GROUPS}
        for turn in range(self.counts.scaling_rounds):
            self.say(f"scaling: round {turn + 1} of {self.counts.scaling_rounds}")
            for (precision, group), series in found.items():
                action = lambda: daemons[group].run(
                    self.workload,
                    precision,
                    self.counts.scaling_steps,
                    START_VAL_ROWS,
                    # The same rows for each group.
                    seed=11 + turn,
                    workers=group[0],
                )
                measured = self.watch.measure(f"scaling, {name_of(group)}, {precision}", action)
                series.add(measured.value.steps, measured.value.evaluation, measured.disturbed)
        for daemon in daemons.values():
            daemon.end()
        return {
            precision: {name_of(group): found[precision, group] for group in GROUPS}
            for precision in self.options.precisions
        }

    def start(self):
        """Seconds from the start of `ptv2ctl submit`, and of Python, to the end of the first step."""
        found = {}
        for precision in self.options.precisions:
            own = found[precision] = {name: [] for name in ["cold", "warm", "PEFT", "step"]}
            for attempt in range(self.counts.starts):
                self.say(f"time to the first step, {precision}: {attempt + 1} of {self.counts.starts}")
                self.starts_of(precision, own)
        return found

    def starts_of(self, precision, found):
        """One cold start, then a warm one on the same daemon, then the peer's."""
        daemons = []

        def cold():
            # A new one each time, a repeated try included: empty store, nothing loaded.
            for old in daemons:
                old.end()
            daemons[:] = [self.daemon(1, self.options.threads)]
            return self.submit(daemons[0], precision)

        def warm():
            # Another seed: rows whose shapes were not all met before.
            return self.submit(daemons[0], precision, seed=12)

        def peer():
            started = Peer(self.options, self.processes, self.workload, precision)
            started.end()
            return started

        for name, action in {"cold": cold, "warm": warm, "PEFT": peer}.items():
            measured = self.watch.measure(f"time to the first step, {name}, {precision}", action)
            if measured.disturbed:
                continue
            found[name].append(measured.value.first_step_after_s)
            if name == "warm":
                found["step"].append(measured.value.steps[0][0])
        daemons[0].end()

    def submit(self, daemon, precision, seed=11):
        return daemon.run(self.workload, precision, START_STEPS, START_VAL_ROWS, seed=seed)

    def memory(self):
        """Peak resident memory of processes that do one job and nothing else."""
        steps, val_rows = self.counts.memory_steps, self.counts.memory_val_rows
        found = {}
        for precision in self.options.precisions:
            self.say(f"memory, {precision}")
            daemon = self.daemon(1, self.options.threads)
            daemon.run(self.workload, precision, steps, val_rows)
            worker = sum(peak_bytes(pid) for pid in daemon.worker_pids())
            coordinator = peak_bytes(daemon.process.pid)
            daemon.end()
            peer = Peer(self.options, self.processes, self.workload, precision)
            # It has done one step already.
            peer.turn(max(1, steps - 1), val_rows)
            peak = peer.talker.ask(do="memory")["peak_bytes"]
            peer.end()
            found[precision] = {"worker": worker, "coordinator": coordinator, "PEFT": peak}
        return found

    def coordinator(self):
        """Share of a core that the coordinator's process uses while a job trains."""
        found = {}
        for precision in self.options.precisions:
            self.say(f"the coordinator's cost, {precision}")
            daemon = self.daemon(1, self.options.threads)
            # Tokenizing and the first load of the backbone are not training.
            self.submit(daemon, precision)
            measured = self.watch.measure(
                f"the coordinator's cost, {precision}", lambda: self.cost(daemon, precision)
            )
            found[precision] = dict(measured.value, disturbed=int(measured.disturbed))
            daemon.end()
        return found

    def cost(self, daemon, precision):
        used = lambda: ticks(stat(daemon.process.pid)) / TICKS_A_SECOND
        before, began = used(), time.monotonic()
        daemon.run(self.workload, precision, self.counts.coordinator_steps, START_VAL_ROWS)
        return {"processor_s": used() - before, "wall_s": time.monotonic() - began}


def name_of(group):
    return f"{group[0]}x{group[1]}"
