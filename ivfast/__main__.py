"""`python -m ivfast` is the command `ivfast`."""

import sys

from ivfast.front.command_line import main

if __name__ == "__main__":
    sys.exit(main())
