"""Results as lines of JSON, one a run: written as soon as a run is done, so that a stop loses no other."""

import json
import statistics


class Results:
    """The file of results. Others may add to it at the same time."""

    def __init__(self, path):
        self.path = path

    def all(self):
        """All records, in the order they were written."""
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def of(self, run):
        """The newest record of a run, if there is one."""
        key = run.key()
        found = [record for record in self.all() if record["run"] == key]
        return found[-1] if found else None

    def add(self, run, found):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps({"run": run.key()} | found) + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)


def last_and_best(record, metric="accuracy"):
    """The last epoch's value and the best epoch's."""
    values = [evaluation[metric] for evaluation in record["evaluations"]]
    return values[-1], max(values)


def mean_sd(values):
    """Mean and sample standard deviation; the latter is none for a single value."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None
