"""PEFT's side: quality_peer.py, in the environment that has it."""

from measure.processes import Talker


class Peer:
    """A process that trains one run after the other."""

    def __init__(self, options, processes):
        self.options = options
        script = options.root / "tests/peers/quality_peer.py"
        self.talker = Talker(processes, [options.python, script, options.threads])
        self.versions = self.talker.ready["versions"]

    def run(self, run):
        """The record of a run."""
        setting = run.key()["setting"]
        found = self.talker.ask(
            **setting,
            backbone=str(self.options.backbone_folder),
            data=str(self.options.data),
            seed=run.seed,
            precision=run.precision,
            template_id=run.template,
            near_zero=run.who == "peft-near-zero",
        )
        return found | {"versions": self.versions}
