"""Tables for the terminal and for docs/performance.md."""

import datetime
from pathlib import Path

from . import Problem
from .figures import number, rows_per_s, tokens_per_s

BEGIN, END = "<!-- bench: begin -->", "<!-- bench: end -->"
HEAD = ["what", "ours", "peer", "ratio", "target", "met?"]
NOT_QUOTED = "not quoted"


def cells(figure):
    """A figure as the table's texts."""
    met = {True: "yes", False: "no", None: ""}[figure.met]
    if figure.disturbed:
        return [figure.what, NOT_QUOTED, "", "", figure.target, ""]
    return [figure.what, figure.ours, figure.peer, figure.ratio, figure.target, met]


def footnotes(results, figures):
    """What a reader must know of this table."""
    notes = []
    if any(figure.disturbed for figure in figures):
        notes.append(f"{NOT_QUOTED}: others used the machine each time that this was measured")
    if missing := results.get("callgrind", {}).get("missing"):
        notes.append(f"instructions of a step outside torch were not counted: {missing}")
    return notes


def plain(figures, notes):
    """The table of targets for a terminal."""
    rows = [HEAD, *map(cells, figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths)).rstrip() for row in rows]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines + ["", *notes] if notes else lines)


def markdown(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def spread(one):
    """Median, and the range around it."""
    return f"{number(one.median)} ({number(one.least)} to {number(one.most)})" if one else "-"


def rates(training):
    """Each contestant's rates on each workload."""
    head = ["workload", "who", "training rows/s", "true tokens/s", "steps", "evaluation rows/s", "passes"]
    rows = []
    for name, found in training["workloads"].items():
        for who, series in found["series"].items():
            tokens = tokens_per_s(series.steps)
            rows.append(
                [
                    name,
                    who,
                    spread(rows_per_s(series.steps)),
                    number(tokens.median) if tokens else "-",
                    str(len(series.steps)),
                    spread(rows_per_s(series.evaluations)),
                    str(len(series.evaluations)),
                ]
            )
    return markdown(head, rows)


def limits(training):
    """The rates of matrix products."""
    rows = []
    for precision, by_threads in training["limit"].items():
        for threads, (rate, shape) in sorted(by_threads.items()):
            rows.append([precision, threads, f"{rate / 1e9:,.0f}", shape])
    return markdown(["format", "threads", "GFLOP/s", "best shape"], rows)


def groups(scaling):
    rows = []
    for precision, found in scaling.items():
        for name, series in found.items():
            workers, threads = name.split("x")
            rows.append([precision, workers, threads, spread(rows_per_s(series.steps))])
    return markdown(["precision", "workers", "threads of each", "training rows/s"], rows)


def machine(results):
    """What it was measured on and with."""
    own, used = results["machine"], results["versions"]
    flags = ", ".join(own["flags"]) or "none of AVX2, AVX-512, AMX"
    return (
        f"{own['processor']} (family {own['family']}, model {own['model']}), {own['cores']} cores, "
        f"{own['memory_bytes'] / 2**30:.0f} GiB; {flags}.\n"
        f"torch {used['torch']}, transformers {used['transformers']}, PEFT {used['peft']}, "
        f"Python {used['python']}; {used['rustc']}; ptv2 {used['commit']}; {datetime.date.today()}."
    )


def document(results, figures, notes):
    """What stands between the markers of docs/performance.md."""
    minutes = sum(results["seconds"].values()) / 60
    parts = [
        BEGIN,
        f"Written by `make bench` in {minutes:.0f} minutes. A job: P = 20, batches of 32 rows, at most "
        f"128 tokens, dropout 0.1; ptv2 with one worker of {results['threads']} threads, its peers with as "
        "many. All take turns; the first step of a turn is dropped. Medians of all steps, with the least "
        "and the most.",
        machine(results),
        markdown(HEAD, map(cells, figures)),
        *notes,
        "### Rates",
        rates(results["training"]),
        "### Matrix products of torch",
        limits(results["training"]),
        "A share of the limit counts only what true tokens need; `tests/peers/measure/operations.py` says how.",
        "### Workers and threads",
        groups(results["scaling"]),
        END,
    ]
    return "\n\n".join(parts)


def place(docs, begin=BEGIN, end=END):
    """The document around the markers."""
    text = Path(docs).read_text(encoding="utf-8")
    before, begun, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not begun or not ended:
        raise Problem(f"{docs} lacks the lines `{begin}` and `{end}`", "the tables go between them")
    return before, after


def write(docs, text, begin=BEGIN, end=END):
    before, after = place(docs, begin, end)
    Path(docs).write_text(before + text + after, encoding="utf-8")
