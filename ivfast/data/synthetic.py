"""Generated face-like features with identities. Synthetic: no face was ever near them."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.runtime.files import file_hash, save_array, save_text

NAME = "synthetic_faces"
DECAY = -0.35  # of an identity's standard deviations along rotated axes: (1 + i)^decay
N_DIRECTIONS = 12  # of nuisance (pose, light), the same for all identities
BY_IDENTITY = ".ivfast.by_identity"  # beside a gt whose answers are no nearest, and are not meant to be: its hash
NUISANCE, NOISE = 0.55, 0.45  # joint lengths beside an identity of length 1


class Faces(NamedTuple):
    """One generated data set; rows of unit norm, float32."""

    learn: np.ndarray  # (n, dim), identities of its own
    base: np.ndarray  # (n - n_query, dim)
    query: np.ndarray  # (n_query, dim), each an image taken out of base
    gt: np.ndarray  # (n_query, images - 1) int64, the other images of its identity


def make_faces(
    seed: int, n_identities: int = 6000, images: int = 10, dim: int = 256, n_query: int = 1000,
    nuisance: float = NUISANCE, noise: float = NOISE,
) -> Faces:  # fmt: skip
    """Draw learn and base from the same kind of people, but no person twice.

    image = unit(identity + nuisance directions @ normal weights + isotropic normal noise)

    n_identities: in learn, and as many in base; images: of each
    """
    rng = np.random.default_rng(seed)
    axes = np.linalg.qr(rng.standard_normal((dim, dim)))[0]
    directions = np.linalg.qr(rng.standard_normal((dim, N_DIRECTIONS)))[0].T

    def people() -> np.ndarray:
        spread = (1.0 + np.arange(dim)) ** DECAY
        identity = _unit((rng.standard_normal((n_identities, dim)) * spread) @ axes)
        weights = rng.standard_normal((n_identities, images, N_DIRECTIONS)) * (nuisance / N_DIRECTIONS**0.5)
        grain = rng.standard_normal((n_identities, images, dim)) * (noise / dim**0.5)
        return _unit(identity[:, None] + weights @ directions + grain).astype(np.float32)

    learn = people().reshape(-1, dim)
    stored = people()
    shown = rng.choice(n_identities, n_query, replace=False)
    query = stored[shown, 0].copy()
    kept = np.ones((n_identities, images), dtype=bool)
    kept[shown, 0] = False
    place = np.cumsum(kept.ravel()).reshape(kept.shape) - 1  # row in base of each image kept
    order = rng.permutation(int(kept.sum()))  # identities do not lie together
    moved = np.empty_like(order)
    moved[order] = np.arange(len(order))
    return Faces(rng.permutation(learn), stored[kept][order], query, moved[place[shown, 1:]].astype(np.int64))


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def save_set(folder: Path, name: str, learn: np.ndarray, base: np.ndarray, query: np.ndarray, gt: np.ndarray) -> None:
    """Write the documented layout: folder/learn_NAME.npy, folder/NAME/base.npy, query.npy, gt.npy."""
    save_array(folder / f"learn_{name}.npy", learn)
    for part, array in (("base", base), ("query", query), ("gt", gt)):
        save_array(folder / name / f"{part}.npy", array)


def say_by_identity(gt_path: Path) -> None:
    """Say beside the gt of generated faces that its answers go by identity, so that nobody is warned of it."""
    save_text(gt_path.with_name(BY_IDENTITY), f"{file_hash(gt_path)}\n")


def goes_by_identity(gt_path: Path) -> bool:
    """Whether that was said of a gt, and of the bytes that it has now."""
    said = gt_path.with_name(BY_IDENTITY)
    try:
        return said.is_file() and said.read_text(encoding="utf-8").strip() == file_hash(gt_path)
    except (OSError, ValueError):
        return False
