"""Which versions a result was computed with."""

import platform
from importlib.metadata import PackageNotFoundError, version

from ivfast import __version__

PACKAGES = ("numpy", "faiss-cpu", "jax", "jaxlib", "flax", "optax", "torch")


def versions() -> dict[str, str]:
    """Of this tool and of what it computes with."""
    found = {"ivfast": __version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
