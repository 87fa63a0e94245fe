"""The parts of tests/peers/quality.py, which is where to begin reading."""
