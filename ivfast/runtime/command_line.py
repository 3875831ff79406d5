"""The documented command line: flags, choices, and what each means."""

import argparse
import sys
from typing import Any

from ivfast import __version__
from ivfast.runtime.config import AMP_DTYPES, APEX_MODES, BACKENDS, DEFAULTS, METRICS, Config
from ivfast.runtime.devices import as_gpu, number_or_all
from ivfast.runtime.errors import UserError
from ivfast.runtime.parser import (
    Parser,
    boolean,
    epochs,
    metric,
    refuse_unknown_flags,
    unknown_flag,
    written_path,
)


def make_parser() -> Parser:
    """The parser of run_dcnet.py; every default comes from Config."""
    parser = Parser(
        prog="run_dcnet.py",
        description="Train the cluster centers of an IVF index with a deep clustering network, "
        "write SAVE_PATH/ivfast.npy, and evaluate recall against vectors scanned.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"ivfast {__version__}")
    _add_data(parser)
    _add_training(parser)
    _add_network(parser)
    _add_precision(parser)
    _add_evaluation(parser)
    _add_run(parser)
    return parser


def parse(argv: list[str] | None = None) -> tuple[Config, set[str]]:
    """Read a command line.

    returns: the settings, and the names of the flags that were written
    raises: UserError on unknown flags (with the nearest known one), bad values, absent flags
    """
    parser = make_parser()
    words = sys.argv[1:] if argv is None else argv
    refuse_unknown_flags(parser, words)
    known, unknown = parser.parse_known_args(words)
    if unknown:
        raise UserError(unknown_flag(parser, unknown[0]))
    given = vars(known)
    if "gpu" in given:
        given["gpu"] = as_gpu(given["gpu"])
    return Config(**given), set(given)


def _flag(group: argparse._ArgumentGroup, name: str, text: str, **options: Any) -> None:
    default = DEFAULTS.get(name)
    if isinstance(default, tuple):
        default = " ".join(str(value) for value in default)
    if default is not None:
        text = f"{text} (default {default})"
    group.add_argument(
        f"--{name}",
        help=text,
        default=argparse.SUPPRESS,
        **options,
    )


def _add_data(parser: Parser) -> None:
    group = parser.add_argument_group("data")
    _flag(
        group, "save_path", "folder for all outputs; must be specified", type=written_path, required=True, metavar="DIR"
    )
    _flag(
        group,
        "data_path",
        "folder of the data sets; must be specified",
        type=written_path,
        required=True,
        metavar="DIR",
    )
    _flag(
        group,
        "data_name",
        "evaluation set: DATA_PATH/DATA_NAME/base.npy, query.npy, gt.npy; must be specified",
        required=True,
        metavar="NAME",
    )
    _flag(
        group,
        "learn_name",
        "training set: DATA_PATH/LEARN_NAME.npy (documented size 10,000,000 x 256); must be specified when training",
        metavar="NAME",
    )
    _flag(
        group,
        "query_log",
        "real queries to learn from as well, others than those in query.npy: DATA_PATH/QUERY_LOG.npy, 100 rows or more",
        metavar="NAME",
    )
    _flag(group, "metric", "IP: inner product of unit vectors; L2: Euclidean distance", type=metric, choices=METRICS)
    _flag(
        group,
        "normalize",
        "under IP, divide every row of learn, base and query by its norm",
        type=boolean,
        metavar="True|False",
    )
    _flag(
        group,
        "drop_bad_rows",
        "leave out rows that hold NaN or infinity and, under IP, rows of zeros; the offsets in gt are made to fit",
        type=boolean,
        metavar="True|False",
    )


def _add_training(parser: Parser) -> None:
    group = parser.add_argument_group("training")
    _flag(group, "warmup", "epochs during which the learning rate rises", type=int, metavar="EPOCHS")
    _flag(group, "epochs", "passes over learn; auto: as many as its size asks for", type=epochs, metavar="N|auto")
    _flag(group, "batch_size", "training pairs a step", type=int, metavar="PAIRS")
    _flag(
        group,
        "lr",
        "learning rate at its peak, in units of the spread within a bucket; should be specified, 2e-3 is a good start",
        type=float,
    )
    _flag(
        group,
        "recall",
        "recall that searches are to reach at least cost: 0.80, 0.90, 0.95 or 0.99",
        type=float,
        metavar="SHARE",
    )
    _flag(
        group,
        "ftopk",
        "nearest neighbours of each learn vector that stand in for the queries to come; also the most buckets that a "
        "vector is stored in",
        type=int,
        metavar="K",
    )
    _flag(
        group,
        "use_drop",
        "set a share of each training vector's entries to zero; True is recommended",
        type=boolean,
        metavar="True|False",
    )
    _flag(group, "drop_prop", "share of entries that --use_drop zeroes, 0 to 1", type=float, metavar="SHARE")
    _flag(group, "start_epoch", "continue from the end of this epoch", type=int, metavar="EPOCH")
    _flag(group, "resume", "continue from the newest checkpoint", type=boolean, metavar="True|False")
    _flag(group, "checkpoint_minutes", "minutes between checkpoints within an epoch", type=float, metavar="MINUTES")


def _add_network(parser: Parser) -> None:
    group = parser.add_argument_group("network and k-means")
    _flag(
        group,
        "param_list",
        "widths of the network's layers: first the vectors' dim, last nlist; DIM NLIST alone trains only the centers, "
        "many times faster",
        type=int,
        nargs="+",
        metavar="WIDTH",
    )
    _flag(group, "nlist", "number of buckets (coarse centroids)", type=int, metavar="BUCKETS")
    _flag(
        group,
        "start",
        "centers where training starts instead of k-means: an ivfast.npy",
        type=written_path,
        metavar="FILE",
    )
    _flag(group, "niter", "k-means iterations at most", type=int, metavar="N")


def _add_precision(parser: Parser) -> None:
    group = parser.add_argument_group("mixed precision")
    _flag(group, "use_amp", "mixed precision; True is recommended on a GPU", type=boolean, metavar="True|False")
    _flag(group, "apex_mode", "O1: the half type in matrix products alone; O2: in activations too", choices=APEX_MODES)
    _flag(group, "scale", "start of the dynamic loss scale, a power of two", type=int)
    _flag(group, "amp_dtype", "the half type; bfloat16 is recommended where the hardware has it", choices=AMP_DTYPES)


def _add_evaluation(parser: Parser) -> None:
    group = parser.add_argument_group("evaluation")
    _flag(group, "nprobes", "numbers of buckets probed to report", type=int, nargs="+", metavar="BUCKETS")
    _flag(
        group,
        "percents",
        "redundancy ratios: copies stored beside each vector, on average, 0 = each vector once; must be specified, "
        "0.8 1.0 1.25 1.50 are recommended",
        type=float,
        nargs="+",
        required=True,
        metavar="RATIO",
    )
    _flag(
        group,
        "valid_batch_size",
        "rows read at once when evaluating, rounded down to whole tiles of 1,024",
        type=int,
        metavar="ROWS",
    )
    _flag(
        group,
        "ties",
        "count stored vectors as right that are as near as a query's last right answer, as big-ann-benchmarks does",
        type=boolean,
        metavar="True|False",
    )
    _flag(group, "eval", "evaluate --ai_center without training", type=boolean, metavar="True|False")
    _flag(group, "ai_center", "centers to evaluate, an ivfast.npy", type=written_path, metavar="FILE")


def _add_run(parser: Parser) -> None:
    group = parser.add_argument_group("run")
    _flag(group, "backend", "framework that trains the network", choices=BACKENDS)
    _flag(
        group,
        "gpu",
        "number of the GPU, -1 is the CPU; several numbers or all: JAX trains on all of them; should be specified",
        type=number_or_all,
        nargs="+",
        metavar="ID",
    )
    _flag(
        group,
        "dry_run",
        "tell what each stage of the training will take in seconds, memory and disk, and stop",
        type=boolean,
        metavar="True|False",
    )
    _flag(group, "coordinator", "several hosts: address of process 0, the same in all", metavar="HOST:PORT")
    _flag(group, "num_processes", "several hosts: how many processes train together", type=int, metavar="N")
    _flag(group, "process_id", "several hosts: number of this process, from 0", type=int, metavar="I")
    _flag(group, "seed", "start of all random numbers: of k-means, network, batches and choices", type=int)
    _flag(group, "log_interval", "steps between log lines", type=int, metavar="STEPS")
