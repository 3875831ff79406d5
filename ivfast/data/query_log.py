"""A log of real queries: a file like those of learn, checked, each different query once."""

from ivfast.data.cleaning import Cleaning, scan
from ivfast.data.far import without_far
from ivfast.data.twins import are_among, distinct_rows
from ivfast.data.vectors import Points, Vectors, learn_path, open_vectors
from ivfast.runtime.config import Config
from ivfast.runtime.draws import spread
from ivfast.runtime.errors import UserError
from ivfast.runtime.progress import Progress

LEAST = 100  # different queries: of fewer, too few would be left to judge by
MOST = 20_000  # that are used, evenly over the log: more of them would make storing slower than they gain


def open_log(config: Config, dim: int) -> Vectors | None:
    """The log as it lies on disk; None where there is none.

    raises: UserError where it has fewer than 100 rows
    """
    if config.query_log is None:
        return None
    log = open_vectors(learn_path(config.data_path, config.query_log), "query_log", dim)
    refuse_few(log, len(log), "rows")
    return log


def admit_log(log: Vectors, metric: str, cleaning: Cleaning, progress: Progress) -> Vectors:
    """The log scanned, its different queries alone, and no more than are used.

    raises: UserError on rows that cannot be used, and where fewer than 100 queries differ
    """
    scanned = without_far(scan(log, metric, progress, cleaning))
    distinct = distinct_rows(scanned)
    refuse_few(log, len(distinct.rows))
    used = distinct.rows[spread(len(distinct.rows), MOST)]
    progress.note(f"query_log: {len(used):,} different queries of {len(log):,} are used")
    return scanned.only(used)


def note_known(log: Points, query: Points, progress: Progress) -> None:
    """Warn where logged queries are among those of the evaluation, which would then say too much good.

    raises: UserError where all of them are
    """
    n_known = int(are_among(log.x(slice(None)), query).sum())
    if n_known == len(log):
        raise UserError(
            f"query_log: all of its {n_known:,} queries are those of the evaluation too, expected others; split them"
        )
    if n_known:
        progress.note(
            f"warning: query_log: {n_known:,} of its {len(log):,} queries are those of the evaluation too, which "
            "makes it look too good; keep them out of the log"
        )


def refuse_few(log: Vectors, n: int, what: str = "different rows that can be used") -> None:
    """raises: UserError where a log has too few"""
    if n < LEAST:
        raise UserError(
            f"query_log: {log.path} has {n} {what}, expected {LEAST} or more; log more queries, or leave --query_log "
            "out"
        )
