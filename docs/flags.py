"""Write docs/flags.md from the parser of run_dcnet.py.

.venv/bin/python docs/flags.py            # writes it
.venv/bin/python docs/flags.py --check    # exits 1 where it is out of date (tests/test_docs.py)
"""

import argparse
import sys
from pathlib import Path

from ivfast.runtime.command_line import make_parser
from ivfast.runtime.config import DEFAULTS

PAGE = Path(__file__).with_name("flags.md")
HEAD = """# Flags of run_dcnet.py

Made from `run_dcnet.py --help` by `.venv/bin/python docs/flags.py`. Names and defaults are those of the documented \
IVFast training tool; added are `--backend`, `--amp_dtype`, `--resume`, `--checkpoint_minutes`, `--normalize`, \
`--drop_bad_rows`, `--dry_run`, `--start`, `--ties`, `--coordinator`, `--num_processes`, \
`--process_id`, `--query_log` and `--recall`. Booleans are the words `True` and `False`.
"""


def value_of(action: argparse.Action) -> str:
    """What is written behind the flag."""
    if action.choices is not None:
        return " or ".join(f"`{choice}`" for choice in action.choices)
    name = action.metavar if isinstance(action.metavar, str) else action.dest.upper()
    return f"`{name} ...`" if action.nargs == "+" else f"`{name}`"


def default_of(action: argparse.Action) -> str:
    """As it would be written."""
    if action.required:
        return "must be given"
    default = DEFAULTS.get(action.dest)
    if default is None:
        return "none"
    return f"`{' '.join(map(str, default))}`" if isinstance(default, tuple) else f"`{default}`"


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for group in make_parser()._action_groups:
        flags = [action for action in group._group_actions if action.dest in DEFAULTS or action.required]
        if not flags:
            continue
        parts.append(f"## {(group.title or '').capitalize()}\n")
        parts.append("| flag | value | default | what |\n| --- | --- | --- | --- |")
        for action in flags:
            text = (action.help or "").split(" (default ")[0].replace("|", "\\|")
            value = value_of(action).replace("|", " or ")
            parts.append(f"| `--{action.dest}` | {value} | {default_of(action)} | {text} |")
        parts.append("")
    return "\n".join(parts)


def main() -> int:
    """Write the page, or compare it. Returns the exit code."""
    if "--check" in sys.argv[1:]:
        return int(not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != page())
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
