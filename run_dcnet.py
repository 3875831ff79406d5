"""Trains and evaluates the cluster centers of an IVF index. `run_dcnet.py --help` lists all flags."""

import sys

from ivfast.commands import main

if __name__ == "__main__":
    sys.exit(main())
