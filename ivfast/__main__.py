"""`python -m ivfast` is the command `ivfast`."""

import sys

from ivfast.runtime.entry import run


def main(argv: list[str] | None = None) -> int:
    """Run one command line; see ivfast.front.command_line.main."""
    return run("ivfast.front.command_line", argv)


if __name__ == "__main__":
    sys.exit(main())
