"""Tables for docs/quality.md, of the results that fit the present plan."""

import rows as superglue
from measure import table

from . import plan
from .results import Results, last_and_best, mean_sd

BEGIN, END = "<!-- quality: begin -->", "<!-- quality: end -->"


def percent(values):
    """Mean ± standard deviation in percent, of a single seed the value alone."""
    if not values:
        return "-"
    mean, deviation = mean_sd(values)
    return f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def fitting(records, who, backbone, setting):
    """The records of a contestant's setting, the newest of each seed."""
    seeds = {}
    for record in records:
        for seed in plan.SEEDS:
            run = plan.Run(who, backbone, setting, seed, record["run"]["precision"])
            if record["run"] == run.key() and "evaluations" in record:
                seeds[seed] = record
    return list(seeds.values())


def outcome(records, backbone, data):
    """Each task's accuracy on a backbone, last and best epoch, of all that were run on it."""
    tasks = plan.settings(backbone)
    chosen = {who: {one.task: fitting(records, who, backbone, one) for one in tasks} for who in plan.NAMES}
    there = [who for who in plan.NAMES if any(chosen[who].values())]
    head = ["task", "majority class"]
    head += [f"{plan.NAMES[who]}: {which}" for who in there for which in ("last", "best")]
    head.append("seeds")
    rows = []
    for one in tasks:
        cells = [superglue.TASKS[one.task][0], percent([superglue.majority(data, one.task, "val", one.max_val_rows)])]
        for who in there:
            values = [last_and_best(record) for record in chosen[who][one.task]]
            cells += [percent([last for last, _ in values]), percent([best for _, best in values])]
        cells.append(", ".join(str(len(chosen[who][one.task])) for who in there))
        rows.append(cells)
    return table.markdown(head, rows)


def f1(records, backbone):
    """CB's macro-F1, which one class of five rows decides."""
    setting = next(one for one in plan.settings(backbone) if one.task == "cb")
    parts = []
    for who, name in plan.NAMES.items():
        if found := fitting(records, who, backbone, setting):
            values = [last_and_best(record, "f1") for record in found]
            last, best = percent([last for last, _ in values]), percent([best for _, best in values])
            parts.append(f"{name} {last} at the last epoch, {best} at its best")
    return f"CB's macro-F1: {'; '.join(parts)}." if parts else None


def settings(data):
    """How each task was trained, and what of its rows was used."""
    names = [name for name, _ in plan.BACKBONES.values()]
    head = ["task", "training rows", "validation rows", *(f"epochs, {name}" for name in names)]
    head += ["batch", "rate", "P", "tokens at most"]
    rows = []
    for one, *more in zip(*map(plan.settings, plan.BACKBONES)):
        used = []
        for split, limit in (("train", one.max_train_rows), ("val", one.max_val_rows)):
            whole = len(superglue.raw(data, one.task, split))
            used.append(f"the first {limit} of {whole}" if limit and limit < whole else f"all {whole}")
        numbers = [one.epochs, *(other.epochs for other in more), one.batch_size, one.learning_rate]
        numbers += [one.pre_seq_len, one.max_seq_length]
        rows.append([superglue.TASKS[one.task][0], *used, *map(str, numbers)])
    return table.markdown(head, rows)


def refused(records):
    """What PEFT could not do, in its own words."""
    said = {}
    for record in records:
        if "refused" in record:
            said[(record["run"]["backbone"], record["refused"])] = record["versions"]
    return [
        f"PEFT {versions['peft']} refuses prefix tuning of {plan.BACKBONES[backbone][0]}: `{words}`"
        for (backbone, words), versions in said.items()
    ]


def counted(count, what):
    return f"{count} {what}" + ("" if count == 1 else "s")


def distinct(values, between=" / "):
    return between.join(sorted(set(values)))


def versions(record):
    """`rustc --version` says its name itself."""
    return ", ".join(f"{name} {value.removeprefix(name + ' ')}" for name, value in record["versions"].items())


def provenance(records):
    """When, on what and with which versions each contestant ran."""
    lines = []
    for who, name in plan.NAMES.items():
        for backbone, (title, _) in plan.BACKBONES.items():
            own = [record for one in plan.settings(backbone) for record in fitting(records, who, backbone, one)]
            if own:
                minutes = round(sum(record["seconds"] for record in own) / 60)
                said = distinct(map(versions, own))
                lines.append(
                    f"- {name} on {title}: {counted(len(own), 'run')} in {counted(minutes, 'minute')} beside other "
                    f"work, {distinct(record['finished'][:10] for record in own)}; "
                    f"{distinct(record['run']['precision'] for record in own)}, "
                    f"{distinct(counted(record['threads'], 'thread') for record in own)} of "
                    f"{distinct(record['machine']['processor'] for record in own)}; {said}."
                )
    return "\n".join(lines)


def document(records, data):
    """What stands between the markers."""
    parts = [BEGIN, "Accuracy on the validation rows in percent: mean ± standard deviation over the seeds."]
    for backbone, (title, folder) in plan.BACKBONES.items():
        if any(fitting(records, who, backbone, one) for who in plan.NAMES for one in plan.settings(backbone)):
            parts += [f"### {title} ({folder})", outcome(records, backbone, data)]
            parts += filter(None, [f1(records, backbone)])
    parts += [*refused(records), "### Settings", settings(data), "### Where and when", provenance(records), END]
    return "\n\n".join(parts)


def write(options):
    """Puts the tables into the document."""
    records = Results(options.results).all()
    table.write(options.docs, document(records, options.data), BEGIN, END)
