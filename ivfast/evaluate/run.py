"""An evaluation from the centers that were found to its report."""

from ivfast.choose.held_out import HeldOut
from ivfast.choose.own_queries import stand_ins
from ivfast.data.centers import tell_one_place
from ivfast.data.cleaning import Cleaning
from ivfast.data.far import note_other_unit
from ivfast.data.intake import scan_set
from ivfast.data.mapped import remove_mapped
from ivfast.data.npy import check_whole
from ivfast.data.space import Space
from ivfast.data.ties import find_ties
from ivfast.data.vectors import EvaluationSet, Points, Vectors, open_evaluation_set
from ivfast.evaluate import report
from ivfast.evaluate.folder import Found
from ivfast.evaluate.page.write import write_data_page
from ivfast.evaluate.refit import FittedOn, FromFile, Source, make_settings, open_learn, space_for
from ivfast.evaluate.result import Result
from ivfast.evaluate.results import evaluate_router
from ivfast.network.backend import load_search
from ivfast.runtime.config import Config, check_percents
from ivfast.runtime.progress import Progress
from ivfast.start.descent import Means
from ivfast.store.reverse import ReverseNeighbors, reverse_of_base


def evaluate_found(
    config: Config, found: Found, progress: Progress, learn: Vectors | None = None, data: EvaluationSet | None = None
) -> list[Result]:
    """Every router found. learn, data: where they were opened and scanned already"""
    nlist, dim = found.centers.shape
    check_percents(config, nlist)
    cleaning, copies = Cleaning(config.normalize, config.drop_bad_rows), config.percents
    if data is None:
        with progress.stage("checking files"):
            data = open_evaluation_set(config.data_path, config.data_name, dim)
            data = scan_set(data, found.metric, progress, cleaning)
    if found.model is None and (beside := found.path.parent / "dcnet.safetensors").is_file():
        progress.note(f"{beside} belongs to another {found.path.name}: its network and what was fitted are left out")
    learn = learn or open_learn(config.data_path, config.learn_name, found, config.ftopk, cleaning, progress)
    space = space_for(found, learn)
    for vectors in (data.base, data.query):
        note_other_unit(vectors, space, progress)
    tell_one_place(found.path.name, space.inside(found.centers), progress)
    source: Source | None = None
    if learn and found.model:
        source = FromFile(found.model, Points(learn, space), copies)
    elif learn:
        points, centers = Points(learn, space), space.inside(found.centers)
        source = FittedOn(centers, points, copies, config.ftopk, config.seed, config.recall)
    return _search(config, found, progress, space, source, learn, data)


def _search(
    config: Config, found: Found, progress: Progress, space: Space, source: Source | None, learn: Vectors | None,
    data: EvaluationSet,
) -> list[Result]:  # fmt: skip
    """Store base for every router, search it, write the report."""
    with progress.stage("settings of routers"):
        settings = make_settings(found, space, source, config.percents, config.backend, config.gpu)
    points, reverse = Points(data.base, space), None
    if source and len(points) > 1 and any(setting.asks for setting in settings):
        means = Means(config.save_path / "cache", load_search(config.backend, config.gpu))
        with progress.stage("neighbours of base"):
            reverse = reverse_of_base(means, points, source.asking, progress, found.model and found.model.asking_log)
    tied = None
    if config.ties:
        with progress.stage("ties"):
            tied = find_ties(data, found.metric, progress)
    nlist = len(found.centers)
    width, nprobes = min(config.ftopk, nlist), tuple(p for p in config.nprobes if p <= nlist)
    logged = found.model is not None and found.model.log is not None
    asked = None if logged else _stand_ins(config, points, learn, reverse, width, progress)
    results = []
    for setting in settings:
        check_whole(data.gt, "gt")
        results += evaluate_router(
            setting, data, space, width, nprobes, config.valid_batch_size, progress, reverse, tied, asked
        )
    with progress.stage("report"):
        report.write(config, data, results, found, progress)
        write_data_page(config.save_path, data, progress, logged=logged)
    remove_mapped(config.save_path / "cache")
    return results


def _stand_ins(
    config: Config, points: Points, learn: Vectors | None, reverse: ReverseNeighbors | None, width: int,
    progress: Progress,
) -> HeldOut | None:  # fmt: skip
    """Vectors of base that stand for queries; with a log of queries what is predicted is told by these instead."""
    if not learn:
        return None
    with progress.stage("nearest of vectors of base"):
        return stand_ins(points, Points(learn, points.space), reverse, width, config.seed, progress)
