"""What a step costs on several devices beside one, at equal work: what it takes to split it and to add up its parts.

    python -m benchmarks.devices --param_list 256 4096
    python -m benchmarks.devices --param_list 256 512 1024 2048 --devices 1 2 8

Devices are pretended by the host, so all of them share its cores: whatever is above 1 is overhead. Each number of
devices runs in a process of its own, by turns, and the fastest step counts.
"""

import argparse
import os
import subprocess
import sys

from benchmarks.runs import print_table
from benchmarks.step_time import make_setup, step_seconds

FLAG = "--xla_force_host_platform_device_count"


def seconds_of(n: int, options: argparse.Namespace) -> float:
    """Of one step on n devices, in a process of its own."""
    flags = os.environ | {"XLA_FLAGS": f"{FLAG}={n}", "JAX_PLATFORMS": "cpu"}
    words = ["--param_list", *map(str, options.param_list), "--steps", str(options.steps), "--here"]
    command = [sys.executable, "-m", "benchmarks.devices", *words]
    done = subprocess.run(command, env=flags, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--param_list", type=int, nargs="+", default=[256, 4096])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--steps", type=int, default=8, help="steps a chunk")
    parser.add_argument("--turns", type=int, default=3, help="processes for each number of devices")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        setup = make_setup(tuple(options.param_list), blocks=True)
        print(step_seconds("jax", "float32", setup, options.steps, 3, -1)[1])
        return
    found = {n: [] for n in options.devices}
    for _ in range(options.turns):
        for n in options.devices:
            found[n].append(seconds_of(n, options))
    one = min(found[options.devices[0]])
    rows = [[str(n), f"{1e3 * min(times):.0f}", f"{min(times) / one:.2f}"] for n, times in found.items()]
    print_table(["devices", "step, ms", f"over {options.devices[0]}"], rows)


if __name__ == "__main__":
    main()
