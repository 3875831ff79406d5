"""What a search will scan and find, predicted from held-out learn vectors before there is a base."""

from typing import NamedTuple

import numpy as np

from ivfast.choose.goal import BLOCK_ENTRIES, row_blocks
from ivfast.choose.held_out import HeldOut, HeldOutTiles
from ivfast.choose.judgement import measure, nprobe_grid
from ivfast.method import LEVELS
from ivfast.route.distances import log_softmax
from ivfast.route.search import scanned_at
from ivfast.store.place import Plan
from ivfast.store.records import Predicted

BINS = 15  # of membership, as Guo et al. have them


def predict(held: HeldOut, tiles: HeldOutTiles, plans: list[Plan]) -> list[dict[str, Predicted]]:
    """For each plan, by level of recall: the nprobe that reaches it on held-out vectors, and what that scans."""
    grid = nprobe_grid(tiles.pool.router.nlist)
    found = []
    for curves in measure(held, tiles, plans):
        recall = curves.found.sum(axis=0) / (len(curves.found) * curves.n_answers)
        scanned = curves.scanned.mean(axis=0)
        found.append({
            f"{level:.2f}": Predicted(scanned_at(recall, grid, level), scanned_at(recall, scanned, level))
            for level in LEVELS
        })  # fmt: skip
    return found


class Reliability(NamedTuple):
    """Memberships beside the chances that they stand for, in 15 even bins of membership."""

    weight: np.ndarray  # (15,) share of all membership that lies in the bin
    claimed: np.ndarray  # (15,) mean membership, each weighted by itself; 0 where a bin is empty
    true: np.ndarray  # (15,) share of right answers, weighted likewise


def reliability(
    z: np.ndarray, targets: np.ndarray, probing_t: float, block_entries: int = BLOCK_ENTRIES
) -> Reliability:
    """Compare softmax(z / probing_t) with where the right answers lie, over all (vector, bucket) pairs.

    z: (n, nlist) logits of held-out vectors; targets: (n, answers) best buckets of their answers
    """
    mass, claimed, true = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for rows in row_blocks(len(z), z.shape[1], block_entries):
        p = np.exp(log_softmax(z[rows].astype(np.float64), probing_t))
        share = np.zeros_like(p)
        np.add.at(share, (np.arange(len(p))[:, None], targets[rows]), 1 / targets.shape[1])
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1).ravel()
        for total, value in ((mass, p), (claimed, p * p), (true, p * share)):
            total += np.bincount(bins, weights=value.ravel(), minlength=BINS)
    full = np.where(mass > 0, mass, 1)
    return Reliability(mass / mass.sum(), claimed / full, true / full)


def calibration_error(found: Reliability) -> float:
    """Expected calibration error (Guo et al., ICML 2017): sum over bins of weight x |claimed - true|."""
    return float((found.weight * np.abs(found.claimed - found.true)).sum())
