"""What is trained, with which settings. The counts are meant for an hour of one core for PEFT's part."""

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

CACHE = Path(os.environ.get("PTV2_CACHE", Path.home() / ".cache/ptv2"))
SEEDS = [11, 44, 7]
# Key: name in tables, folder below the cache.
BACKBONES = {"minilm": ("MiniLM-L6", "all-MiniLM-L6-v2"), "mpnet": ("MPNet-base", "all-mpnet-base-v2")}
OURS, PEFT, PEFT_NEAR_ZERO = "ptv2", "peft", "peft-near-zero"
NAMES = {OURS: "ptv2", PEFT: "PEFT", PEFT_NEAR_ZERO: "PEFT, first values as ptv2's"}


@dataclass(frozen=True)
class Setting:
    """How a task is trained: the same for all contestants. None of a limit means all rows."""

    task: str
    epochs: int
    learning_rate: float
    batch_size: int = 16
    pre_seq_len: int = 16
    max_train_rows: int | None = None
    max_val_rows: int | None = None
    max_seq_length: int = 128


# In the order of running: what stops early leaves a balanced table.
SETTINGS = [
    Setting("cb", epochs=15, learning_rate=1e-2),
    Setting("copa", epochs=12, learning_rate=1e-2),
    Setting("wsc", epochs=8, learning_rate=1e-2),
    Setting("rte", epochs=4, learning_rate=1e-2, max_train_rows=800),
    Setting("wic", epochs=4, learning_rate=1e-2, max_train_rows=1000),
    Setting("boolq", epochs=3, learning_rate=1e-2, max_train_rows=800, max_val_rows=400),
]
# A step of the larger model costs eight times as much.
FEWER_EPOCHS = {"mpnet": {"cb": 8, "copa": 6, "wsc": 4, "rte": 3, "wic": 3, "boolq": 2}}


def settings(backbone):
    """How each task is trained on a backbone."""
    fewer = FEWER_EPOCHS.get(backbone, {})
    return [replace(one, epochs=fewer.get(one.task, one.epochs)) for one in SETTINGS]


@dataclass(frozen=True)
class Run:
    """One training: who, on what, with which seed."""

    who: str
    backbone: str
    setting: Setting
    seed: int
    precision: str

    @property
    def template(self):
        """The text template: BERT reads WiC's sentences as a pair, others as one text."""
        return 1 if self.setting.task == "wic" and self.backbone == "minilm" else 0

    def key(self):
        """What a result is found again by: all that decides it."""
        return asdict(self) | {"template_id": self.template}


def runs(options):
    """The chosen runs: all tasks with one seed, then with the next."""
    chosen = [one for one in settings(options.backbone) if one.task in options.tasks]
    return [
        Run(options.who, options.backbone, setting, seed, options.precision)
        for seed in options.seeds
        for setting in chosen
    ]
