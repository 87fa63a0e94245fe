"""The parts of tests/peers/bench.py, which is where to begin reading."""


class Problem(Exception):
    """What keeps the benchmark from going on: what is wrong, and what to do about it."""

    def __init__(self, what, hint=None):
        super().__init__(what if hint is None else f"{what}\n\nhint: {hint}")
