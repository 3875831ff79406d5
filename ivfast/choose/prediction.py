"""What a search will scan and find, told from held-out learn vectors before there is a base."""

from typing import NamedTuple

import numpy as np

from ivfast.choose.goal import row_blocks
from ivfast.choose.held_out import HeldOut, HeldOutTiles
from ivfast.choose.judgement import measure, nprobe_grid
from ivfast.method import LEVELS
from ivfast.route.distances import log_softmax
from ivfast.route.search import scanned_at
from ivfast.store.dcnet_file import Predicted
from ivfast.store.demand import Demand
from ivfast.store.rules import Plan

BINS = 15


def predict(
    held: HeldOut, tiles: HeldOutTiles, plans: list[Plan], demand: Demand | None = None
) -> dict[float, dict[str, Predicted]]:
    """The nprobe that reaches each level of recall on held-out vectors, by percent. plans: of one rule"""
    grid = nprobe_grid(tiles.pool.router.nlist)
    found = {}
    for plan, curves in zip(plans, measure(held, tiles, plans, demand), strict=True):
        recall = curves.found.sum(axis=0) / (len(curves.found) * curves.n_answers)
        scanned = curves.scanned.mean(axis=0)
        found[plan.percent] = {
            f"{level:.2f}": Predicted(scanned_at(recall, grid, level), scanned_at(recall, scanned, level))
            for level in LEVELS
        }
    return found


class Reliability(NamedTuple):
    """Memberships beside the chances that they stand for, in 15 even bins of membership."""

    weight: np.ndarray  # (15,) share of all membership that lies in the bin
    told: np.ndarray  # (15,) mean membership, each weighted by itself; 0 where a bin is empty
    true: np.ndarray  # (15,) share of right answers, weighted likewise


def reliability(z: np.ndarray, targets: np.ndarray, temperature: float) -> Reliability:
    """Compare softmax(z / T) with where the right answers lie, over all (vector, bucket) pairs.

    z: (n, nlist) logits of held-out vectors; targets: (n, answers) best buckets of their answers
    """
    mass, told, true = np.zeros(BINS), np.zeros(BINS), np.zeros(BINS)
    for rows in row_blocks(*z.shape):
        p = np.exp(log_softmax(z[rows].astype(np.float64), temperature))
        share = np.zeros_like(p)
        np.add.at(share, (np.arange(len(p))[:, None], targets[rows]), 1 / targets.shape[1])
        bins = np.minimum((p * BINS).astype(np.int64), BINS - 1).ravel()
        for total, value in ((mass, p), (told, p * p), (true, p * share)):
            total += np.bincount(bins, weights=value.ravel(), minlength=BINS)
    full = np.where(mass > 0, mass, 1)
    return Reliability(mass / mass.sum(), told / full, true / full)


def calibration_error(found: Reliability) -> float:
    """Expected calibration error (Guo et al., ICML 2017): sum over bins of weight x |told - true|."""
    return float((found.weight * np.abs(found.told - found.true)).sum())
