"""From raw numbers to figures: medians, ratios, and which targets they meet."""

import json
import statistics
from dataclasses import dataclass

from . import operations
from .plan import PREFIX


@dataclass
class Figure:
    """A row of the table of targets."""

    what: str
    ours: str
    peer: str = ""
    ratio: str = ""
    target: str = ""
    met: bool | None = None
    disturbed: bool = False


@dataclass
class Spread:
    """Median, least and most."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values):
        return cls(statistics.median(values), min(values), max(values))


def rows_per_s(measured):
    """Spread of rows a second; None where nothing was measured."""
    return Spread.of([rows / seconds for seconds, rows, _ in measured]) if measured else None


def tokens_per_s(measured):
    return Spread.of([tokens / seconds for seconds, _, tokens in measured]) if measured else None


def number(value):
    """Three digits."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def at_least(what, ours, peer, target=None, unit=" rows/s"):
    """A figure whose ratio of ours to the peer's should be large."""
    if ours is None or peer is None:
        return Figure(what, "", disturbed=True)
    ratio = ours / peer
    return Figure(
        what,
        number(ours) + unit,
        number(peer) + unit,
        f"{ratio:.2f}",
        "" if target is None else f"≥ {target}",
        None if target is None else ratio >= target,
    )


def median_rate(series, kind):
    spread = rows_per_s(getattr(series, kind))
    return None if spread is None else spread.median


def of_workload(name, series, precisions):
    """ptv2 against its peers on one workload."""
    wanted = [
        ("training", "steps", "fp32", "PEFT fp32", 2.5),
        ("training", "steps", "bf16", "PEFT fp32", 6),
        ("training", "steps", "bf16", "PEFT bf16", 3.5),
        ("training", "steps", "fp32", "reference style", None),
        ("evaluation", "evaluations", "fp32", "PEFT fp32", None),
        ("evaluation", "evaluations", "bf16", "PEFT fp32", 6),
        ("evaluation", "evaluations", "bf16", "PEFT bf16", None),
    ]
    for word, kind, precision, peer, target in wanted:
        if f"ptv2 {precision}" in series and peer in series:
            ours, theirs = series[f"ptv2 {precision}"], series[peer]
            yield at_least(
                f"{name}: {word} {precision} / {peer}",
                median_rate(ours, kind),
                median_rate(theirs, kind),
                target,
            )


def of_share(workload, found, limit, threads, precisions):
    """Operations a second that the true tokens needed, by what torch's matrix products reach."""
    config = json.loads((workload.backbone / "config.json").read_text(encoding="utf-8"))
    shape = operations.Shape.of(config)
    for precision in precisions:
        series = found["series"][f"ptv2 {precision}"]
        most = limit[precision][str(threads)][0]
        for word, kind, split in [("training", "steps", "train"), ("evaluation", "evaluations", "val")]:
            rate = tokens_per_s(getattr(series, kind))
            if rate is None:
                continue
            shares = []
            for count in (operations.least, operations.plain):
                lengths = found["lengths"][split]
                needed = operations.per_token(count, shape, PREFIX, lengths, word == "training")
                shares.append(rate.median * needed / most)
            yield Figure(
                f"{workload.name}: {word} {precision}, share of the limit",
                f"{shares[0]:.0%} (plain count {shares[1]:.0%})",
                f"{most / 1e9:,.0f} GFLOP/s",
            )


def of_scaling(found):
    for precision, groups in found.items():
        one = groups["1x1"]
        for name, words in [("2x1", "2 workers of 1 thread"), ("1x2", "1 worker of 2 threads")]:
            yield at_least(
                f"scaling {precision}: {words} / 1 of 1",
                median_rate(groups[name], "steps"),
                median_rate(one, "steps"),
                1.9,
            )


def of_start(found):
    for precision, own in found.items():
        for name, target in [("warm", 0.3), ("cold", 3)]:
            what = f"submit to first step, {name}, {precision} / Python's start to it"
            if not (own[name] and own["PEFT"]):
                yield Figure(what, "", target=f"≤ {target} s", disturbed=True)
                continue
            seconds, peer = statistics.median(own[name]), statistics.median(own["PEFT"])
            step = statistics.median(own["step"] or [0])
            yield Figure(
                what,
                f"{seconds:.2f} s" + (f", the step {step:.2f} s of it" if name == "warm" else ""),
                f"{peer:.2f} s",
                f"{seconds / peer:.3f}",
                f"≤ {target} s",
                seconds <= target,
            )


def of_memory(found):
    mib = lambda count: f"{count / 2**20:,.0f} MiB"
    for precision, own in found.items():
        both = own["worker"] + own["coordinator"]
        ratio = both / own["PEFT"]
        yield Figure(
            f"peak memory of worker and coordinator, {precision} / PEFT {precision}",
            f"{mib(both)} ({mib(own['worker'])} the worker)",
            mib(own["PEFT"]),
            f"{ratio:.2f}",
            "≤ 0.6",
            ratio <= 0.6,
        )


def of_coordinator(found):
    for precision, own in found.items():
        share = own["processor_s"] / own["wall_s"]
        yield Figure(
            f"coordinator's share of a core while a job trains, {precision}",
            f"{share:.2%}",
            target="< 1 %",
            met=share < 0.01,
            disturbed=bool(own["disturbed"]),
        )


def all_of(results, options, workloads):
    """Every figure of what was measured, in the order of the table."""
    figures = []
    if training := results.get("training"):
        for workload in workloads:
            found = training["workloads"][workload.name]
            figures += of_workload(workload.name, found["series"], options.precisions)
        for workload in workloads:
            found = training["workloads"][workload.name]
            figures += of_share(workload, found, training["limit"], options.threads, options.precisions)
    makers = {
        "start": of_start,
        "memory": of_memory,
        "scaling": of_scaling,
        "coordinator": of_coordinator,
    }
    for part, maker in makers.items():
        if part in results:
            figures += maker(results[part])
    if found := results.get("callgrind"):
        count = found.get("instructions_per_step")
        if count is not None:
            figures.append(Figure("instructions of a step outside torch", f"{count:,.0f}"))
    return figures
