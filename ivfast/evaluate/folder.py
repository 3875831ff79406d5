"""What lies in the folder of a finished run, and whether it belongs together."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.data.centers import check_norms, open_centers
from ivfast.network.backend import check_device
from ivfast.runtime.config import Config, check_normalize
from ivfast.runtime.errors import UserError
from ivfast.store.dcnet_file import Model, load_model


class Found(NamedTuple):
    """What lies in a folder."""

    path: Path  # of the centers
    centers: np.ndarray  # (nlist, dim) float32, as stored
    kmeans: np.ndarray | None
    model: Model | None
    metric: str

    @property
    def is_kmeans(self) -> bool:
        """Whether the centers are the k-means beside them: training brought no sure gain."""
        return self.kmeans is not None and np.array_equal(self.centers, self.kmeans)

    def settings(self, config: Config) -> Config:
        """Settings of an evaluation: as the files say, where they do."""
        nlist, dim = self.centers.shape
        config = replace(config, nlist=nlist, metric=self.metric, param_list=(dim, nlist))
        if self.model:
            model = self.model
            config = replace(config, param_list=model.param_list, ftopk=model.ftopk, recall=model.recall)
        return config


def find_model(config: Config, given: set[str]) -> Found:
    """Read --ai_center and what lies beside it.

    raises: UserError where a flag contradicts the files
    """
    assert config.ai_center is not None
    path = config.ai_center
    centers = open_centers(path)
    nlist, dim = centers.shape
    model = load_model(path.parent / "dcnet.safetensors", path)
    if "nlist" in given and config.nlist != nlist:
        raise UserError(f"--nlist {config.nlist}, but {path} has {nlist} centers; leave --nlist out")
    if "param_list" in given and (config.param_list[0], config.param_list[-1]) != (dim, nlist):
        raise UserError(
            f"--param_list {' '.join(map(str, config.param_list))}, but {path} is {nlist} x {dim}; leave it out"
        )
    if model and "param_list" in given and config.param_list != model.param_list:
        raise UserError(
            f"--param_list differs from that of dcnet.safetensors, {' '.join(map(str, model.param_list))}; leave it out"
        )
    if model and "metric" in given and config.metric != model.space.metric:
        raise UserError(
            f"--metric {config.metric}, but the centers were trained for {model.space.metric}; leave it out"
        )
    if model and "ftopk" in given and config.ftopk != model.ftopk:
        raise UserError(f"--ftopk {config.ftopk}, but the centers were trained with {model.ftopk}; leave it out")
    if model and "recall" in given and config.recall != model.recall:
        raise UserError(f"--recall {config.recall:g}, but the centers were trained for {model.recall:g}; leave it out")
    metric = model.space.metric if model else config.metric
    check_normalize(config, metric)
    if metric == "IP":
        check_norms(centers, path)
    if model and not model.fits(centers):
        raise UserError(f"{path.parent / 'dcnet.safetensors'} is for other centers than {path}; remove it")
    if model and model.net:
        check_device(config.backend, config.gpu)
    kmeans_path = path.parent / "kmeans.npy"
    kmeans = open_centers(kmeans_path, centers.shape) if kmeans_path.is_file() else None
    return Found(path=path, centers=centers, kmeans=kmeans, model=model, metric=metric)
