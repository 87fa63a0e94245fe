"""ptv2's side: each run is a job file that goes through `ptv2ctl` to a daemon of its own."""

from types import SimpleNamespace

from measure import Problem, machine
from measure.ours import Daemon


def job_text(run, backbone, data):
    """The job file of a run. What is not named here has its default, as in PEFT's part."""
    setting = run.setting
    limits = {"max_train_rows": setting.max_train_rows, "max_val_rows": setting.max_val_rows}
    lines = [
        f'task = "superglue/{setting.task}"',
        "[backbone]",
        f'path = "{backbone}"',
        f'precision = "{run.precision}"',
        "[data]",
        f'root = "{data}"',
        f"template_id = {run.template}",
        f"max_seq_length = {setting.max_seq_length}",
        *(f"{name} = {rows}" for name, rows in limits.items() if rows is not None),
        "[method]",
        'kind = "prefix"',
        f"pre_seq_len = {setting.pre_seq_len}",
        "hidden_dropout_prob = 0.1",
        "[training]",
        f"epochs = {setting.epochs}",
        f"batch_size = {setting.batch_size}",
        f"learning_rate = {setting.learning_rate}",
        f"seed = {run.seed}",
    ]
    return "\n".join(lines) + "\n"


def record(status, rows):
    """What a job's status and metrics say, as a record."""
    evaluations = [
        {name: row[name] for name in ("accuracy", "f1") if name in row} for row in rows if "split" in row
    ]
    if status["state"] != "succeeded" or not evaluations:
        raise Problem(f"{status['id']} is {status['state']} with {len(evaluations)} evaluations")
    return {"evaluations": evaluations, "trainable": status["plan"]["trainable_parameters"]}


class Ours:
    """`ptv2d local` with one worker."""

    def __init__(self, options, processes):
        self.options = options
        folder = processes.folder
        daemon = SimpleNamespace(
            bin=options.bin, data=options.data, small=options.backbone_folder, base=options.backbone_folder
        )
        self.daemon = Daemon(daemon, processes, folder / "state", 1, options.threads)
        self.job_file = folder / "job.toml"
        self.versions = machine.versions(options.root)

    def run(self, run):
        """The record of a run."""
        text = job_text(run, self.options.backbone_folder, self.options.data)
        self.job_file.write_text(text, encoding="utf-8")
        status = self.daemon.ctl("submit", self.job_file, "--wait")
        rows = self.daemon.ctl("metrics", status["id"])
        return record(status, rows) | {"versions": self.versions}
