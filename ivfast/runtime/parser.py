"""argparse as our commands use it: every mistake is one line, and the kinds of values that flags take."""

import argparse
import difflib
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

from ivfast.runtime.config import METRICS, metric_meant
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import check_file_name


class Parser(argparse.ArgumentParser):
    """argparse, but every mistake becomes a UserError."""

    def error(self, message: str) -> NoReturn:
        """Instead of printing the usage and leaving."""
        dash = "; a value that begins with a dash is written --flag=VALUE" if "expected one argument" in message else ""
        raise UserError(message + dash)


def boolean(word: str) -> bool:
    """True|False as words, as the documentation writes them."""
    if word not in ("True", "False"):
        raise argparse.ArgumentTypeError(f"{word!r}: expected True or False")
    return word == "True"


def written_path(word: str) -> Path:
    """A path; an empty one would be the folder where the shell is."""
    if not word:
        raise argparse.ArgumentTypeError("it is empty, expected a path; the shell may not know a variable in it")
    return Path(word)


def written_file(word: str) -> Path:
    """A path of a file that will be written."""
    check_file_name(word)
    return written_path(word)


def metric(word: str) -> str:
    """One of METRICS; of what other tools call them, what to take instead."""
    if word in METRICS:
        return word
    meant = metric_meant(word)
    told = f"use --metric {meant.metric}{' --normalize True' * meant.normalize}" if meant else "correct it"
    raise argparse.ArgumentTypeError(f"invalid choice: {word!r}, expected {' or '.join(METRICS)}; {told}")


def file_or_url(word: str) -> str:
    """A path or a URL, as it stands: two slashes are one in a path."""
    return word if "://" in word else str(written_path(word))


def epochs(word: str) -> int | str:
    """A number or auto."""
    if word == "auto":
        return word
    try:
        return int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{word!r}: expected a whole number or auto") from None


def refuse_unknown_flags(parser: Parser, words: list[str]) -> None:
    """raises: UserError on the first unknown flag, before argparse misses the one that was meant"""
    flags = {option for action in parser._actions for option in action.option_strings}
    for word in takewhile(lambda word: word != "--", words):
        if word.startswith("--") and word.split("=")[0] not in flags:
            raise UserError(unknown_flag(parser, word))


def unknown_flag(parser: Parser, word: str) -> str:
    """What is said of a flag that there is none of, with the nearest that there is."""
    flag = word.split("=")[0]
    names = [option for action in parser._actions for option in action.option_strings]
    near = difflib.get_close_matches(flag, names, n=1)
    hint = f"did you mean {near[0]}?" if near else "--help lists all"
    return f"unknown argument {flag}: {hint}"
