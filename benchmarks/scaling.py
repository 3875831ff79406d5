"""Training and storing at sizes that no machine here has, on paper: bytes, seconds and money by formulas.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --rows_a_second 2500 --price 0.05

What is measured goes in by flags: the rate of a core that stores (`python -m benchmarks.spread_rate`), the rates of the
links and of the accelerator as their makers give them.
"""

import argparse
from itertools import pairwise
from typing import NamedTuple

from benchmarks.runs import print_table
from ivfast.method import BLOCK_PAIRS, SEEN

DOCUMENTED, CENTERS = (256, 512, 1024, 2048, 8192, 16384), (256, 16384)
BATCH = 2048
FLOAT = 4  # bytes: what is summed over devices is float32


class Work(NamedTuple):
    """Of one step."""

    sent: float  # bytes that a device sends
    operations: float  # of a device


def step(widths: tuple[int, ...], batch: int, n: int, n_model: int = 1) -> Work:
    """What a device does of a step in blocks. n: devices; n_model: parts of the buckets

    A sum over N devices in a ring sends 2 (N - 1) / N of its bytes, half of that where each keeps a part.
    """
    dim, nlist = widths[0], widths[-1]
    width = dim + (widths[-2] if len(widths) > 2 else 0)  # of a bucket: its center and its column of the last layer
    hidden = sum(a * b for a, b in list(pairwise(widths))[:-1]) if len(widths) > 2 else 0
    n_data = n // n_model
    summed = 2 * (n_data - 1) / n_data * (hidden + nlist * width / n_model)
    summed += 2 * (n_model - 1) / n_model * hidden
    rows_of_buckets = batch / BLOCK_PAIRS / n_data * SEEN * width
    split = (n_model - 1) / n_model * (rows_of_buckets + nlist * width)
    operations = 6 * 2 * batch / n * (hidden + SEEN * width)
    return Work(FLOAT * (summed + split), operations)


def efficiency(widths: tuple[int, ...], batch: int, n: int, options: argparse.Namespace) -> float:
    """Share of a step in which devices compute: nothing is sent meanwhile. batch: of all devices"""
    work = step(widths, batch, n)
    link = options.near if n <= options.host else options.far
    computing = work.operations / (options.accelerator * 1e12)
    return computing / (computing + work.sent / (link * 1e9))


def main() -> None:
    """Print the tables of docs/scaling.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--near", type=float, default=450, help="GB/s that a device sends to others of its host")
    parser.add_argument("--far", type=float, default=50, help="GB/s that a device sends to other hosts")
    parser.add_argument("--host", type=int, default=8, help="devices of a host")
    parser.add_argument("--accelerator", type=float, default=396, help="TFLOP/s: 40 %% of an H100's in bfloat16")
    parser.add_argument("--rows_a_second", type=float, default=3100, help="vectors that a core stores a second")
    parser.add_argument("--price", type=float, default=0.04, help="of a core for an hour, in dollars")
    options = parser.parse_args()
    rows = []
    for name, widths in {"documented": DOCUMENTED, "centers alone": CENTERS}.items():
        for n, n_model in ((8, 1), (8, 8), (64, 1), (64, 8), (512, 1)):
            work = step(widths, BATCH, n, n_model)
            rows.append([name, str(n), str(n_model), f"{work.sent / 1e6:,.0f}", f"{work.operations / 1e9:.1f}"])
    print_table(["network", "devices", "parts of the buckets", "MB sent a step", "GFLOP a step"], rows)
    rows = []
    for name, widths in {"documented": DOCUMENTED, "centers alone": CENTERS}.items():
        for n in (8, 64, 512):
            shares = [efficiency(widths, batch, n, options) for batch in (BATCH, BATCH * n)]
            rows.append([name, str(n), *(f"{share:.0%}" for share in shares)])
    print()
    print_table(["network", "devices", f"batch {BATCH:,}", f"batch {BATCH:,} a device"], rows)
    hours = 1e10 / options.rows_a_second / 3600
    print(
        f"\n10^10 vectors at {options.rows_a_second:,.0f} a second and core: {hours:,.0f} core hours, "
        f"{hours / 1000:.1f} hours on 1,000 cores, ${hours * options.price:,.0f} at ${options.price} an hour"
    )


if __name__ == "__main__":
    main()
