"""A trained model and an index, read from the folder of a finished run."""

import os
from pathlib import Path

import numpy as np

from ivfast.data.centers import check_norms, open_centers
from ivfast.index.codes import centers_in
from ivfast.index.files import Parts, read_index
from ivfast.index.growth import Index
from ivfast.index.model import TrainedModel
from ivfast.runtime.devices import Gpu
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import user_path, what_is
from ivfast.store.dcnet_file import load_model


def load(save_path: Path | str, backend: str | None = None, gpu: Gpu = -1) -> TrainedModel:
    """Read the trained model of a finished run.

    save_path: the run's --save_path, which holds ivfast.npy and dcnet.safetensors
    backend: jax or torch, which rank buckets; None: what is installed and not broken; gpu: -1 is the CPU
    raises: UserError where files are missing, damaged, or do not belong together
    """
    folder = user_path(save_path).absolute()  # a caller may change to another folder
    path = folder / "ivfast.npy"
    if not os.path.isfile(path):
        what = f"ivfast.npy is {found}" if (found := what_is(path)) else "no ivfast.npy"
        raise UserError(f"{folder}: {what}, expected the save_path of a finished run; train first")
    centers = open_centers(path)
    model = load_model(folder / "dcnet.safetensors", path)
    if model is None or not model.fits(centers):
        raise UserError(f"{folder}: dcnet.safetensors is missing or belongs to another ivfast.npy; train again")
    if model.space.metric == "IP":
        check_norms(centers, path)
    return TrainedModel(centers, model, folder, backend, gpu)


def load_index(folder: Path | str, backend: str | None = None, gpu: Gpu = -1) -> Index:
    """Read an index with its model, as `Index.save` or `ivfast fit` wrote them.

    raises: UserError where files are missing, damaged, or do not belong together
    """
    folder = user_path(folder).absolute()
    return put_together(load(folder, backend, gpu), read_index(folder))


def put_together(model: TrainedModel, parts: Parts) -> Index:
    """An index with its model, both from one folder; raises UserError where they do not belong together."""
    folder, about = model.folder, parts.about
    if parts.faiss_index.nlist != model.nlist or parts.faiss_index.d != model.dim:
        raise UserError(f"{folder}: index.faiss is of another ivfast.npy; make it again with `ivfast index`")
    if not np.array_equal(centers_in(parts.faiss_index), model.centers.astype(np.float32)):
        raise UserError(f"{folder}: index.faiss is of another ivfast.npy; make it again with `ivfast index`")
    n_built, imbalance_built = about["built"]
    return Index(
        model=model,
        faiss_index=parts.faiss_index,
        calibration=parts.calibration,
        probes_use=parts.probes_use,
        reach=parts.reach,
        copies=about["copies"],
        kind=about["kind"],
        n=about["n"],
        next_id=about["next_id"],
        built=(n_built, imbalance_built),
    )
