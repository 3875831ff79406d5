"""Trains and evaluates the cluster centers of an IVF index. `run_dcnet.py --help` lists all flags."""

import sys

from ivfast.runtime.entry import run


def main(argv: list[str] | None = None) -> int:
    """Run one command line; see ivfast.commands.main."""
    return run("ivfast.commands", argv)


if __name__ == "__main__":
    sys.exit(main())
