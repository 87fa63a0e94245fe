"""The fastest matrix products that torch makes on this machine, as a bound for everything built on them.

    limit.py THREADS

A persistent process. Prints {"ready": true}; then each line {"do": "limit", "seconds": S} of standard
input is answered after about S seconds by

    {"fp32": {"1": [FLOPS, "4096x768x3072"], "2": [..]}, "bf16": {..}}

with the best rate of all shapes and repetitions for one thread and for THREADS, in operations a second
(a multiplication and an addition are two), and the shape that reached it.
"""

import functools
import json
import math
import sys
import time

import torch

# Rows x inner x columns. Batches of 32 rows of up to 128 tokens, by the linear layers of MiniLM-L6 and
# of BERT-base; then what is easy for any library.
SHAPES = [
    (4096, 384, 384),
    (4096, 384, 1536),
    (4096, 1536, 384),
    (4096, 768, 768),
    (4096, 768, 3072),
    (4096, 3072, 768),
    (1024, 1024, 1024),
    (2048, 2048, 2048),
]
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@functools.cache
def factors(shape, dtype):
    """Two matrices and room for their product."""
    rows, inner, columns = shape
    left, right = torch.rand(rows, inner), torch.rand(inner, columns)
    return left.to(dtype), right.to(dtype), torch.empty(rows, columns, dtype=dtype)


def best_rate(dtype, seconds):
    """The best rate of any shape, each tried for its part of the time and twice at least."""
    best = (0.0, "")
    for shape in SHAPES:
        left, right, out = factors(shape, dtype)
        until = time.perf_counter() + seconds / len(SHAPES)
        tries = 0
        while tries < 2 or time.perf_counter() < until:
            began = time.perf_counter()
            torch.mm(left, right, out=out)
            rate = 2 * math.prod(shape) / (time.perf_counter() - began)
            best = max(best, (rate, "x".join(map(str, shape))))
            tries += 1
    return best


def limits(threads, seconds):
    """Rates of each number format with one thread and with all of them."""
    counts = sorted({1, threads})
    share = seconds / (len(counts) * len(TYPES))
    found = {name: {} for name in TYPES}
    for count in counts:
        torch.set_num_threads(count)
        for name, dtype in TYPES.items():
            found[name][str(count)] = best_rate(dtype, share)
    return found


def main():
    threads = int(sys.argv[1])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        with torch.inference_mode():
            print(json.dumps(limits(threads, command["seconds"])), flush=True)


if __name__ == "__main__":
    main()
