"""The command `ivfast`: fit, index, evaluate, convert, report."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ivfast import __version__
from ivfast.front import actions
from ivfast.front.many import is_spread
from ivfast.runtime.config import BACKENDS, METRICS
from ivfast.runtime.devices import numbers_or_all
from ivfast.runtime.errors import RunError, StopRequestedError, UserError, in_words, no_memory
from ivfast.runtime.files import user_path
from ivfast.runtime.own_process import prepare_jax
from ivfast.runtime.parser import (
    Parser,
    boolean,
    epochs,
    file_or_url,
    metric,
    refuse_unknown_flags,
    written_file,
    written_path,
)
from ivfast.runtime.progress import Progress
from ivfast.runtime.quota import within_quota
from ivfast.runtime.signals import UNHEARD, handled
from ivfast.spread.sources import expanded
from ivfast.spread.store import FORMATS

Action = Callable[[argparse.Namespace, Progress], None]


def main(argv: list[str] | None = None) -> int:
    """Run one command line.

    returns: exit code, as run_dcnet's: 0 done, 1 failed, 2 the input is wrong, 128 + n stopped by signal n
    """
    progress, words = Progress(brief=True), sys.argv[1:] if argv is None else argv
    try:
        options = parse(words)
        for name, value in vars(options).items():
            if isinstance(value, Path):
                setattr(options, name, user_path(value))
            elif isinstance(value, list) and isinstance(value[0], Path):
                setattr(options, name, [user_path(path) for path in value])
        if argv is None:
            prepare_jax(getattr(options, "gpu", -1))
        with handled() as heard, within_quota():
            if not heard:
                progress.say(UNHEARD)
            options.action(options, progress)
    except UserError as wrong:
        progress.say(f"error: {wrong}")
        return 2
    except (RunError, OSError) as failed:
        progress.say(f"error: {in_words(failed)}")
        return 1
    except (MemoryError, RuntimeError) as problem:
        if (said := no_memory(problem)) is None:
            raise
        progress.say(f"error: {said}")
        return 1
    except StopRequestedError as stop:
        goes_on = words[0] == "fit" or (words[0] == "index" and is_spread(parse(words)))
        again = "goes on where it stopped" if goes_on else "begins anew"
        progress.say(f"{str(stop).split(';')[0]}; the same command {again}")
        return 128 + stop.number
    return 0


def parse(words: list[str]) -> argparse.Namespace:
    """Read a command line.

    raises: UserError on unknown commands and flags (with the nearest known one) and bad values
    """
    parser = Parser(
        prog="ivfast", description="Learn the buckets of an IVF index from your vectors.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"ivfast {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, parser_class=Parser)
    parsers = {name: add(commands) for name, add in COMMANDS.items()}
    if words and words[0] in parsers:
        refuse_unknown_flags(parsers[words[0]], words[1:])
    options, more = parser.parse_known_args(words)
    if more and words[0] == "fit":
        raise UserError(f"fit: expected one file or folder, found {more[0]} too; name the folder of all files")
    if more:
        parser.error(f"unrecognized arguments: {' '.join(more)}")
    if isinstance(named := getattr(options, "base", None), list):
        options.base = expanded(named)
    return options


def _command(commands: Any, name: str, text: str, action: Action) -> Parser:
    parser: Parser = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(action=action)
    return parser


def _add_fit(commands: Any) -> Parser:
    parser = _command(
        commands, "fit", "Train the centers of an index on one file of vectors, and write it.", actions.fit
    )
    parser.add_argument("base", type=written_path, metavar="BASE", help="vectors: .npy, .fvecs, .bvecs, .fbin, "
                        ".u8bin, .i8bin, .hdf5, .parquet, .safetensors, .lance, or a folder of such files")  # fmt: skip
    flag = parser.add_argument
    flag(
        "--save_path", type=written_path, metavar="DIR", help="folder for all outputs (default: BASE's name + _ivfast)"
    )
    flag("--column", metavar="NAME", help="column or tensor, where the file has several")
    flag(
        "--query",
        type=written_path,
        metavar="FILE",
        help="real queries to evaluate with (default: rows of BASE, set aside)",
    )
    flag(
        "--query_log",
        type=written_path,
        metavar="FILE",
        help="real queries to learn from as well; others must be given as --query",
    )
    flag("--nlist", type=int, metavar="BUCKETS", help="number of buckets (default: about 4 sqrt(n), 200 vectors each)")
    flag("--metric", type=metric, choices=METRICS, help="IP or L2 (default: IP where all rows are of unit norm)")
    flag(
        "--start",
        type=written_path,
        metavar="DIR",
        help="earlier fit whose centers training starts from (default: k-means)",
    )
    flag("--normalize", type=boolean, default=False, metavar="True|False", help="divide rows by their norms, under IP")
    flag("--percents", type=float, default=0.8, metavar="RATIO", help="copies stored a vector on average (default 0.8)")
    flag("--kind", default="Flat", help="codes of the index: Flat, SQ8, PQ32, PQ32x4fs, RaBitQ (default Flat)")
    flag("--epochs", type=epochs, default="auto", metavar="N|auto", help="passes over BASE (default auto)")
    flag("--lr", type=float, help="learning rate at its peak (default 2e-3)")
    flag("--param_list", type=int, nargs="+", metavar="WIDTH", help="widths of a network (default: centers alone)")
    flag("--recall", type=float, help="recall that searches are to reach at least cost: 0.80, 0.90, 0.95 or 0.99 "
         "(default 0.9)")  # fmt: skip
    flag("--backend", choices=BACKENDS, help="framework that trains (default: what is installed)")
    flag(
        "--gpu",
        type=numbers_or_all,
        default=-1,
        metavar="ID",
        help="number of the GPU, -1 is the CPU; 0,1,2 or all: JAX trains on all of them (default -1)",
    )
    flag("--seed", type=int, default=1, help="start of all random numbers (default 1)")
    return parser


def _add_index(commands: Any) -> Parser:
    text = "Store vectors of one file or many under centers that `ivfast fit` trained."
    parser = _command(commands, "index", text, actions.index)
    flag = parser.add_argument
    flag("save_path", type=written_path, metavar="DIR", help="folder of the fit")
    flag("base", type=file_or_url, nargs="+", metavar="BASE", help="vectors to store; several files, folders of "
         "shards, Lance datasets or URLs are one base, in their order")  # fmt: skip
    flag("--out", type=written_path, metavar="DIR", help="folder of the index (default: that of the fit)")
    flag("--column", metavar="NAME", help="column or tensor, where the file has several")
    flag("--percents", type=float, metavar="RATIO", help="copies stored a vector (default 0.8, or the most of the fit)")
    flag("--kind", default="Flat", help="codes of the index: Flat, SQ8, PQ32, PQ32x4fs, RaBitQ (default Flat)")
    flag("--write", nargs="+", choices=FORMATS, default=["faiss"], help="what many files become: an index, or tables "
         "of id, bucket and vector (default faiss)")  # fmt: skip
    _add_ray(parser)
    return parser


def _add_ray(parser: Parser) -> None:
    text = (
        "cluster of Ray that many files are done on: HOST:PORT, auto, local (this host's cores) or none (default: "
        "RAY_ADDRESS, else local where Ray is installed)"
    )
    parser.add_argument("--ray", metavar="ADDRESS", help=text)


def _add_evaluate(commands: Any) -> Parser:
    parser = _command(commands, "evaluate", "Search an index with queries, and tell what was found and scanned.",
                      actions.evaluate)  # fmt: skip
    flag = parser.add_argument
    flag("save_path", type=written_path, metavar="DIR", help="folder of the index")
    flag("--query", type=written_path, required=True, metavar="FILE", help="queries")
    flag("--gt", type=written_path, metavar="FILE", help="ids of their exact nearest (default: found by a full search)")
    flag("--base", type=file_or_url, nargs="+", metavar="BASE", help="files that the index was made of, for --make_gt")
    flag(
        "--make_gt",
        type=written_path,
        metavar="FILE",
        help="write the exact nearest in BASE here (.npy)",
    )
    flag("--column", metavar="NAME", help="column or tensor of BASE, where a file has several")
    _add_ray(parser)
    flag("--k", type=int, default=10, help="nearest that count (default 10)")
    flag("--recall", type=float, nargs="+", default=[0.8, 0.9, 0.95, 0.99], help="what to ask for")
    flag("--ties", type=boolean, default=False, metavar="True|False", help="count vectors as right that are as near as "
         "the last of the k nearest (default False)")  # fmt: skip
    return parser


def _add_convert(commands: Any) -> Parser:
    parser = _command(commands, "convert", "Turn a file of vectors into one of another format.", actions.convert)
    parser.add_argument("source", type=written_path, metavar="SOURCE", help="file or folder to read")
    parser.add_argument("target", type=written_file, metavar="TARGET", help="file to write; its suffix says the format")
    parser.add_argument("--column", metavar="NAME", help="column or tensor, where the source has several")
    return parser


def _add_report(commands: Any) -> Parser:
    text = "Write report.html of a finished run, or compare several."
    parser = _command(commands, "report", text, actions.report)
    parser.add_argument("save_path", type=written_path, nargs="+", metavar="DIR", help="folders of finished runs")
    parser.add_argument(
        "--out", type=written_file, metavar="FILE", help="of a comparison (default: DIR/comparison.html)"
    )
    return parser


COMMANDS = {
    "fit": _add_fit, "index": _add_index, "evaluate": _add_evaluate, "convert": _add_convert, "report": _add_report,
}  # fmt: skip
