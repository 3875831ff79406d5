"""A searchable index: stock FAISS lists over trained centers, asked for a recall instead of an nprobe."""

from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

import faiss
import numpy as np

from ivfast.data.exact import others, without_self
from ivfast.index.answers import check_answers, last_answers
from ivfast.index.calibration import Calibration
from ivfast.index.files import Parts, ProbesUse, save_index
from ivfast.index.fill import sizes_of
from ivfast.index.place import Placing
from ivfast.index.probing import Candidates, chosen, search_distinct
from ivfast.index.ties import tied
from ivfast.route.certainty import recall_error
from ivfast.route.search import imbalance
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import user_path

QUERIES = 1024  # searched at once
RECALL = 0.95  # asked for where nothing else is


class Expected(NamedTuple):
    """What a search is expected to find and to take."""

    recall: float  # share of the k nearest
    scanned: float  # entries scanned over vectors stored
    nprobe: float  # mean buckets


class Reached(NamedTuple):
    """What was asked of a search, and what came of it."""

    asked: float  # recall
    expected: Expected
    recall: float
    scanned: float
    nprobe: float
    k: int = 10  # recall is of so many nearest
    error: float = float("nan")  # standard error of recall, over queries; NaN: unknown, of one query
    without_ties: float | None = None  # recall by gt's ids alone, where ties count as right in `recall`


def whole_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Ids as int64.

    raises: UserError where they are no integers
    """
    found = np.asarray(values)
    if found.dtype.kind not in "iu":
        raise UserError(f"{name}: found {found.dtype}, expected integers; convert them with .astype('int64')")
    return found.astype(np.int64)


def _check_recall(recall: float) -> None:
    if not 0 < recall <= 1:
        raise UserError(f"recall {recall:g}: expected a share above 0, at most 1, such as 0.95; correct it")


def _check_k(k: int) -> None:
    if not isinstance(k, Integral) or k < 1:
        raise UserError(f"k {k!r}: expected a whole number, 1 or more; correct it")


class SearchedIndex:
    """Vectors stored under a trained model.

    faiss_index: the FAISS index itself, which plain FAISS can read, write and search too
    """

    def __init__(
        self, model: Placing, faiss_index: faiss.IndexIVF, calibration: Calibration, probes_use: ProbesUse,
        reach: np.ndarray, copies: float, kind: str, n: int, next_id: int, built: tuple[int, float],
    ) -> None:  # fmt: skip
        self.model, self.faiss_index, self.calibration = model, faiss_index, calibration
        self.probes_use, self.reach, self.copies, self.kind = probes_use, reach, copies, kind
        self.n = n  # vectors stored, each counted once
        self.next_id = next_id  # of the next vector that is added; those from n_built on were added
        self.n_built, self.imbalance_built = built
        self.prober = model.prober()
        self.refresh()

    def refresh(self) -> None:
        """Count the lists anew, after they were changed."""
        self.sizes = sizes_of(self.faiss_index)
        self.shares = self.sizes / max(self.n, 1)

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        model = self.model
        return (
            f"ivfast.{type(self).__name__}({self.n:,} vectors, dim {model.dim}, nlist {model.nlist}, metric "
            f"{model.metric}, copies {self.copies:g}, kind {self.kind})"
        )

    @property
    def imbalance(self) -> float:
        """How unevenly the lists are filled: 1 even, nlist: all in one."""
        return imbalance(self.sizes)

    def search(
        self, query: np.ndarray, k: int = 10, recall: float | None = None, scanned: float | None = None,
        nprobe: int | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """The k nearest of each query, copies left out, by one of three budgets.

        query: (n, dim) float array, as base was handed over
        k: up to 100 where a recall is asked for, else any number
        recall: share of the k nearest to be found on average, 0.95 where no budget is given; each query probes as many
            buckets as it needs
        scanned: mean share of the stored vectors to compare with instead, e.g. 0.01
        nprobe: buckets to probe for every query instead
        returns: ids (n, k) int64, nearest first, -1 where the lists hold fewer; scores (n, k) float32, inner products
            or squared distances
        raises: UserError on queries of another shape, several budgets, or one that can't be met

        >>> ids, scores = index.search(query, k=3, recall=0.9)
        >>> ids.shape, ids.dtype
        ((100, 3), dtype('int64'))
        """
        x, threshold, found = self._checked(query, k), self.threshold(k, recall, scanned, nprobe), []
        if not len(x):
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        for start in range(0, len(x), QUERIES):
            block = x[start : start + QUERIES]
            found.append(self.search_chosen(self.candidates(block, threshold, nprobe), threshold, block, k))
        scores, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return ids, scores

    def expect(
        self, k: int = 10, recall: float | None = None, scanned: float | None = None, nprobe: int | None = None
    ) -> Expected:
        """What a search with this budget will find and take, as measured when the index was made.

        k: up to 100, of which it was measured
        raises: UserError as `search` does; of an nprobe it is not known
        """
        _check_k(k)
        self.calibration.check_k(k)
        if nprobe is not None:
            raise UserError("nprobe: what it finds isn't known beforehand; ask for recall or scanned")
        return Expected(*self.calibration.predicted(self.threshold(k, recall, scanned, None), k))

    def evaluate(
        self, query: np.ndarray, gt: np.ndarray, k: int = 10, recalls: tuple[float, ...] = (0.8, 0.9, 0.95, 0.99),
        without: np.ndarray | None = None, ties: bool = False,
    ) -> list[Reached]:  # fmt: skip
        """Search queries whose answers are known.

        gt: (n, k or more) integers, ids of the exact nearest, nearest first, -1 where there are no more
        recalls: to ask for, one after the other; those that the index can't reach are left out
        without: (n,) the ids of the queries themselves where they are stored: they don't count as found
        ties: whether a vector found counts as right that is as near as the k-th answer
        raises: UserError on answers of another shape, that are no ids of this index or that name one twice in a row,
        k above 100, ties of coarse codes
        """
        for recall in recalls:
            _check_recall(recall)
        x, found = self._checked(query, k), []
        self.calibration.check_k(k)
        if ties and self.kind != "Flat":
            raise UserError(
                f"ties: codes of kind {self.kind} tell no equal distances, expected kind Flat; leave them out"
            )
        answers = check_answers(gt, len(x), k, self.next_id)
        for recall in recalls:
            if recall > self.calibration.best(k):
                continue
            threshold = self.threshold(k, recall, None, None)
            found.append(self.reached(threshold, x, k, recall, answers, without, ties=ties))
        return found

    def reached(
        self, threshold: float, x: np.ndarray, k: int, asked: float, gt: np.ndarray,
        without: np.ndarray | None, *, ties: bool = False,
    ) -> Reached:  # fmt: skip
        """What a search above a threshold finds and scans. x: (n, dim), as stored; the rest as `evaluate` has it."""
        ranked = self.candidates(x, threshold)
        scores, ids = self.search_chosen(ranked, threshold, x, k + (without is not None))
        if without is not None:
            scores, ids = scores[others(ids, without)].reshape(len(x), k), without_self(ids, without)
        n_answers = (gt >= 0).sum(axis=1)
        same = (ids[:, :, None] == gt[:, None, :]) & (gt >= 0)[:, None, :]
        n_right = n_by_gt = same.any(axis=1).sum(axis=1)
        if ties:  # no more of a query than gt has answers for it
            near = tied(self.faiss_index, x, ids, scores, last_answers(gt))
            n_right = np.minimum((same.any(axis=2) | near).sum(axis=1), n_answers)
        probed = ranked.gains > threshold
        return Reached(
            asked=asked,
            expected=Expected(*self.calibration.predicted(threshold, k)),
            recall=float(n_right.sum() / n_answers.sum()),
            scanned=float(self.shares[ranked.buckets[probed]].sum() / len(x)),
            nprobe=float(probed.sum() / len(x)),
            k=k,
            error=float(recall_error(n_right[:, None], n_answers)[0]),
            without_ties=float(n_by_gt.sum() / n_answers.sum()) if ties else None,
        )

    def threshold(self, k: int, recall: float | None, scanned: float | None, nprobe: int | None) -> float:
        """The gain above which buckets are probed, for one of the budgets of `search`."""
        budgets = {"recall": recall, "scanned": scanned, "nprobe": nprobe}
        given = [name for name, value in budgets.items() if value is not None]
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} are two budgets: give one of them")
        if nprobe is not None:
            if not isinstance(nprobe, Integral) or not 1 <= nprobe <= self.model.nlist:
                raise UserError(
                    f"nprobe {nprobe!r}: expected 1 to {self.model.nlist}, the number of buckets; correct it"
                )
            return -np.inf
        if scanned is not None:
            least = float(self.calibration.scanned[0])
            if not least <= scanned <= 1 + self.copies:
                raise UserError(
                    f"scanned {scanned:g}: expected {least:.3g} or more, what the nearest bucket takes; correct it"
                )
            return self.calibration.at_scanned(scanned)
        recall = RECALL if recall is None else recall
        _check_recall(recall)
        return self.calibration.at_recall(recall, k)

    def candidates(self, x: np.ndarray, threshold: float, nprobe: int | None = None) -> Candidates:
        """The buckets that a search looks at; of a fixed nprobe those that it probes. x: (n, dim), as stored"""
        width = self.calibration.width_at(threshold) if nprobe is None else nprobe
        return self.prober.rank(x, width, self.shares)

    def search_chosen(
        self, candidates: Candidates, threshold: float, x: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and ids of the k nearest in the buckets above a threshold."""
        buckets, distances = chosen(candidates, threshold)
        return search_distinct(self.faiss_index, x, k, buckets, distances, self.copies)

    def _checked(self, query: np.ndarray, k: int) -> np.ndarray:
        _check_k(k)
        if np.shape(query) == (0, self.model.dim):
            return np.empty((0, self.model.dim), np.float32)
        return self.model.as_stored(query, "query")

    def save(self, folder: Path | str) -> None:
        """Write the index, its model and what a search by recall takes into a folder.

        Each file is complete or not there at all. Plain faiss.read_index reads index.faiss; `ivfast.load_index` reads
        all of it.
        """
        folder = user_path(folder)
        self.model.save(folder)
        parts = Parts(self.faiss_index, self.calibration, self.probes_use, self.reach, self.about())
        save_index(folder, parts)

    def about(self) -> dict[str, Any]:
        """What a file says of the index beside its arrays."""
        return {
            "copies": self.copies,
            "n": self.n,
            "kind": self.kind,
            "next_id": self.next_id,
            "built": [self.n_built, self.imbalance_built],
        }
