"""Training does not crowd vectors into few buckets, even where nlist exceeds the batch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ivfast.data.synthetic import make_faces, save_set
from ivfast.runtime.command_line import parse
from ivfast.runtime.progress import silent
from ivfast.train import epochs as training
from ivfast.train.pairs import epoch_chunks
from ivfast.train.run import refit_goal, start_run
from ivfast.train.steps import run_chunks
from run_dcnet import main
from tests import by_hand

pytestmark = pytest.mark.whole_run


def shared_identities(n_identities: int, images: int, dim: int) -> np.ndarray:
    """As ivfast.data.synthetic draws them, but for learn and base to share. (identities, images, dim)"""
    rng = np.random.default_rng(7)
    identity = rng.standard_normal((n_identities, 1, dim))
    identity /= np.linalg.norm(identity, axis=2, keepdims=True)
    directions = np.linalg.qr(rng.standard_normal((dim, 12)))[0].T
    weights = rng.standard_normal((n_identities, images, 12)) * 0.5 / 12**0.5
    x = identity + weights @ directions + rng.standard_normal((n_identities, images, dim)) * 0.3 / dim**0.5
    return (x / np.linalg.norm(x, axis=2, keepdims=True)).astype(np.float32)


def line(results: list[dict[str, Any]], router: str, rule: str) -> dict[str, Any]:
    return next(r for r in results if (r["router"], r["rule"], r["percent"]) == (router, rule, 0.0))


def fill(z_of: Callable[[np.ndarray], np.ndarray], learn: np.ndarray, *stored: np.ndarray) -> list[np.ndarray]:
    """Vectors in each bucket under benefit: the largest log p - log m, m the mean p over learn."""
    m = np.mean([by_hand.softmax(z_of(block)).mean(axis=0) for block in np.split(learn, 20)], axis=0)
    log_m = np.log(np.maximum(m, 1e-9))  # z is log p up to a number of each row
    best = [np.concatenate([(z_of(block) - log_m).argmax(axis=1) for block in np.split(x, 20)]) for x in stored]
    return [np.bincount(buckets, minlength=len(m)) for buckets in best]


def test_4096_buckets_at_batch_512_stay_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs without the held-out choice: what training itself does to the buckets.

    Seen: of base's buckets 138 are empty with k-means, 134 by nearest (140 where the loss does not divide by use),
    79 and 87 under benefit.
    """
    images = shared_identities(4096, 11, 48)
    learn = np.random.default_rng(1).permutation(images[:, :5].reshape(-1, 48))
    base = images[:, 5:10].reshape(-1, 48)
    gt = np.arange(500)[:, None] * 5 + np.arange(5)
    save_set(tmp_path, "set", learn, base, images[:500, 10], gt)
    config, _ = parse(
        f"--save_path {tmp_path / 'out'} --data_path {tmp_path} --data_name set --learn_name learn_set --nlist 4096 "
        "--batch_size 512 --niter 10 --param_list 48 128 4096 --epochs 3 --warmup 1 --lr 2e-3 --percents 0 "
        "--gpu -1".split()
    )
    config.save_path.mkdir()
    monkeypatch.setattr("ivfast.train.run.judge_kmeans", lambda *_: [])
    monkeypatch.setattr(training, "judge_all", lambda *_: {})
    run = start_run(config, silent())
    position = training.start_point(run)
    state, goal, centers = position.state, position.goal, run.kmeans
    for epoch in range(1, 4):
        chunks = epoch_chunks(run.source, epoch, 8)
        state, _ = run_chunks(
            run.backend, state, chunks, goal, 500, run.source.n_steps, 0, "", silent(), lambda *_: None
        )
        centers = run.backend.centers(state.params)
        goal = refit_goal(run, centers, run.backend.use(state)["centers"])
    k = goal.k
    routers = {
        "centers": lambda x: by_hand.logits(x, centers, k),
        "net": lambda x: run.backend.logits(state.params, x, k).astype(np.float64),
    }
    kmeans = [np.bincount(_nearest(x, run.kmeans), minlength=4096) for x in (base, learn)]
    assert (kmeans[0] == 0).sum() > 50  # there is something to mend
    for name, z_of in routers.items():
        on_base, on_learn = fill(z_of, learn, base, learn)
        assert (on_base == 0).sum() < (kmeans[0] == 0).sum(), name
        assert (on_learn == 0).sum() <= (kmeans[1] == 0).sum(), name
        assert by_hand.imbalance(on_base) < 2, name
        assert by_hand.imbalance(on_learn) < 2, name
    nearest = np.bincount(_nearest(base, centers), minlength=4096)
    assert (nearest == 0).sum() < (kmeans[0] == 0).sum()


def _nearest(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    return np.concatenate([by_hand.distances(block, centers).argmin(axis=1) for block in np.split(x, 20)])


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_embedded_faces_are_found_in_a_fraction_and_evenly(backend: str, tmp_path: Path) -> None:
    """The demo's data with a quarter of its people: 0.14 of k-means' share at this size (measured)."""
    save_set(tmp_path, "faces", *make_faces(1, n_identities=1500, n_query=500))
    assert main(
        f"--save_path {tmp_path / 'out'} --data_path {tmp_path} --data_name faces --learn_name learn_faces --nlist 64 "
        "--niter 25 --param_list 256 256 64 --epochs 8 --warmup 1 --batch_size 1024 --lr 2e-3 --percents 0 0.8 "
        f"--gpu -1 --backend {backend}".split()
    ) == 0  # fmt: skip
    results = json.loads((tmp_path / "out" / "evaluation.json").read_text())["results"]
    kmeans = line(results, "kmeans", "ratio")
    for router in ("centers", "net"):
        found = line(results, router, "benefit")
        assert found["scanned_at"]["0.90"] < 0.25 * kmeans["scanned_at"]["0.90"], router
        assert found["imbalance"] < 2, router
        assert found["empty"] <= kmeans["empty"], router
