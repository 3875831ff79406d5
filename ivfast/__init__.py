"""ivfast learns the cluster centers of an inverted-file (IVF) vector index.

Train on vectors, then use what was learned in any engine:

    import ivfast

    config = ivfast.Config(
        save_path="out", data_path="DATA", data_name="mine", learn_name="mine/base",
        nlist=1024, param_list=(256, 512, 1024, 1024), lr=2e-3, warmup=1, percents=(0.0, 0.8), gpu=-1,
    )
    model = ivfast.train_centers(config)  # what run_dcnet.py does; afterwards: ivfast.load("out")
    model.centers  # (nlist, dim) float32, a coarse quantizer for FAISS, Lance, VectorChord, ...
    rows, buckets = model.store(base, copies=0.8)  # which vectors go into which buckets
    buckets, chances = model.rank(query, nprobe=8, router="net")  # where to look, by the whole network

Everything is loaded where it is first used, so that the import itself takes a few milliseconds. The names of the
rooms (`ivfast.train`, `ivfast.store`, ...) are modules, so no public function is called like one.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

# name: the module that defines it
_HOMES = {
    "Config": "ivfast.runtime.config",
    "train_centers": "ivfast.commands",
    "evaluate_centers": "ivfast.commands",
    "fit": "ivfast.front.fit",
    "load": "ivfast.index.load",
    "load_index": "ivfast.index.load",
    "Index": "ivfast.index.growth",
    "Kmeans": "ivfast.front.kmeans",
    "TrainedModel": "ivfast.index.model",
    "Ranked": "ivfast.index.model",
    "Placed": "ivfast.index.model",
    "Result": "ivfast.evaluate.result",
    "Progress": "ivfast.runtime.progress",
    "UserError": "ivfast.runtime.errors",
    "RunError": "ivfast.runtime.errors",
}

__all__ = [
    "Config",
    "Index",
    "Kmeans",
    "Placed",
    "Progress",
    "Ranked",
    "Result",
    "RunError",
    "TrainedModel",
    "UserError",
    "__version__",
    "evaluate_centers",
    "fit",
    "load",
    "load_index",
    "train_centers",
]

if TYPE_CHECKING:
    from ivfast.commands import evaluate_centers, train_centers
    from ivfast.evaluate.result import Result
    from ivfast.front.fit import fit
    from ivfast.front.kmeans import Kmeans
    from ivfast.index.growth import Index
    from ivfast.index.load import load, load_index
    from ivfast.index.model import Placed, Ranked, TrainedModel
    from ivfast.runtime.config import Config
    from ivfast.runtime.errors import RunError, UserError
    from ivfast.runtime.progress import Progress


def __getattr__(name: str) -> Any:
    """Load a public name where it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'ivfast' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
