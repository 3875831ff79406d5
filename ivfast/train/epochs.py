"""Training epoch by epoch: train, fit the next goal, judge, write a checkpoint."""

import time
from typing import Any

from ivfast.choose.judgement import judge, value
from ivfast.choose.verdict import Candidate, Choice, first_choice, over_kmeans, seen
from ivfast.network.backend import Goal, load_ranker, starting_weights
from ivfast.route.routers import centers_router
from ivfast.route.tiles import make_tiles
from ivfast.runtime.checkpoint import Saved, checkpoint_folder, save_checkpoint, save_state
from ivfast.runtime.errors import StopRequestedError
from ivfast.runtime.signals import not_waiting, stop_if_pending, waiting
from ivfast.start.kmeans import measure_buckets
from ivfast.train.health import collapse
from ivfast.train.point import Point, best_params, pack, state_arrays
from ivfast.train.run import Run, judge_all, judge_router, params_of, refit_goal, router_of_centers, weights_of
from ivfast.train.steps import Sums, TooManySkipsError
from ivfast.train.together import Epoch, train_steps

SLOW_READING = 0.05  # share of an epoch's training that waits for vectors to be read, from which on it is said


def start_point(run: Run) -> Point:
    """Where training starts, k is fitted with the buckets' shares as m, then m is the mean membership at that k."""
    config = run.config
    goal = refit_goal(run, run.start, run.buckets.share)
    k = goal.k
    router = router_of_centers(run, run.start, k)
    use = make_tiles(router, run.learn.points, run.judged.pool[run.judged.sample], (1.0,)).use((1.0,))[1.0]
    state = run.backend.init_state(starting_weights(config.param_list, config.seed), use)
    at_start = judge_all(run, state.params, run.start, k)
    if run.started_at is None:
        choices = {name: first_choice(Candidate(0, k, judgement, {})) for name, judgement in at_start.items()}
    else:
        given = {name: Candidate(0, k, judgement, {}, way=0.0) for name, judgement in at_start.items()}
        choices = {
            name: first_choice(kmeans)._replace(given=given[name]) for name, kmeans in _kmeans_candidates(run).items()
        }
        _tell_given(run, choices)
    return Point(0, 0, state, goal, choices)


def _tell_given(run: Run, choices: dict[str, Choice]) -> None:
    values = {
        name: over_kmeans(value(choice.given.judgement, run.kmeans_curves), choice, run.kmeans_curves)
        for name, choice in choices.items()
        if choice.given
    }
    shown = ", ".join(f"{name} {found:.3f}" for name, found in values.items())
    run.progress.note(f"the given start: held-out scanned over k-means stored alike: {shown}")
    run.progress.metrics(start_held_out=values)


def _kmeans_candidates(run: Run) -> dict[str, Candidate]:
    """k-means under the rules of the trained routers, where training started elsewhere."""
    config, floor = run.config, run.buckets.delta_floor
    k = refit_goal(run, run.kmeans, measure_buckets(run.learn.points, run.kmeans, config.seed).share).k
    ranker = load_ranker(config.backend, config.gpu)
    found = {}
    for name in run.routers:  # a network that begins at k-means ranks as its centers do
        router = centers_router(name, run.kmeans, config.metric, floor, k, ranker)
        found[name] = Candidate(0, k, judge(run.judged, router, config.percents), {})
    return found


def resume(run: Run, start: Point, saved: Saved) -> Point:
    """Where a checkpoint stands. What was judged is judged again from the same weights, to the same bits."""
    choices = {}
    for router, choice in start.choices.items():
        record = saved.about["choices"][router]
        best = None
        if record["best"]:
            epoch, k = record["best"]["epoch"], record["best"]["k"]
            best = Candidate(epoch, k, choice.start.judgement, best_params(saved, router))
            best = best._replace(judgement=judge_router(run, router, params_of(run, best), k))
        least = float("inf") if record["least"] is None else record["least"]
        choices[router] = choice._replace(best=best, values=tuple(record["values"]), least=least)
    state = run.backend.from_state_dict(state_arrays(saved))
    return Point(saved.epoch, saved.step, state, Goal(**saved.about["goal"]), choices)


def train_epoch(run: Run, point: Point) -> Point:
    """The rest of an epoch's pairs, then the goal of the next, then the judgement on held-out vectors.

    raises: TooManySkipsError with the last good state saved; StopRequestedError with a checkpoint
    """
    began = time.monotonic()
    with waiting():
        with run.progress.stage("training"):
            state, sums = _train_steps(run, point)
        trained = time.monotonic()
        try:
            with not_waiting(), run.progress.stage("judging"):  # judging takes minutes where nlist is large
                centers = run.backend.centers(state.params)
                goal = refit_goal(run, centers, run.backend.use(state)["centers"])
                judgements = judge_all(run, state.params, centers, goal.k)
        except StopRequestedError:
            _save(run, point._replace(step=run.source.n_steps, state=state))  # no step is left: resume judges
            raise
        choices = dict(point.choices)
        for name, judgement in judgements.items():
            candidate = Candidate(point.epoch + 1, goal.k, judgement, weights_of(run, name, state.params))
            choices[name] = seen(choices[name], candidate, run.kmeans_curves)
        seconds = trained - began, time.monotonic() - trained
        judged = Point(point.epoch + 1, 0, state, goal, choices)
        _report(run, judged, sums, seconds)
        used = {name: judgement.used for name, judgement in judgements.items()}
        _warn(run, judged.epoch, sums, used, point.choices["centers"].start.judgement.used)
        _save(run, judged)
    stop_if_pending()
    return judged


def _report(run: Run, point: Point, sums: Sums, seconds: tuple[float, float]) -> None:
    """One line and one record of a finished epoch. seconds: of training and of judging"""
    goal, choices = point.goal, point.choices
    values = {name: over_kmeans(choice.values[-1], choice, run.kmeans_curves) for name, choice in choices.items()}
    shown = ", ".join(f"{name} {value:.3f}" for name, value in values.items())
    run.progress.note(
        f"epoch {point.epoch}/{run.config.epochs}: "
        f"{sums.in_words(run.backend.loss_scale(point.state), deep=run.config.deep)}, "
        f"k {goal.k:.2f}, nprobe {goal.nprobe:.0f}; "
        f"held-out scanned over k-means stored alike: {shown} "
        f"({seconds[0]:.1f} s training, {seconds[1]:.1f} s judging)"
        + (f"; training waited for learn in {sums.waited:.0%} of its time" if sums.waited > SLOW_READING else "")
    )
    run.progress.metrics(epoch=point.epoch, **goal._asdict(), held_out=values)


def _train_steps(run: Run, point: Point) -> tuple[Any, Sums]:
    epoch = Epoch(point.epoch + 1, point.step, point.goal)
    saved_at = time.monotonic()

    def save_at(state: Any, done: int, stop: bool) -> None:
        nonlocal saved_at
        if stop or time.monotonic() - saved_at >= 60 * run.config.checkpoint_minutes:
            _save(run, point._replace(step=done, state=state))
            saved_at = time.monotonic()

    run.group.tell(epoch)
    try:
        return train_steps(
            run.backend, point.state, run.source, epoch, run.config.log_interval, run.progress, run.group, save_at
        )
    except TooManySkipsError as stop:
        path = checkpoint_folder(run.config.save_path) / "stopped.safetensors"
        save_state(path, run.backend.state_dict(stop.state), {"epoch": epoch.number, "goal": point.goal._asdict()})
        run.progress.note(f"the last good state is in {path}")
        raise


def _save(run: Run, point: Point) -> None:
    with run.progress.stage("checkpoints"):
        saved = pack(point, run.backend, run.config, run.digest, run.near_by, run.started_at)
        save_checkpoint(run.config.save_path, saved)


def _warn(run: Run, epoch: int, sums: Sums, used: dict[str, int], used_by_kmeans: int) -> None:
    """Say so where training has collapsed."""
    losses = sums.losses(deep=run.config.deep)
    by_router = {router: losses[f"loss_{router}"] for router in run.routers}
    warming_up = epoch <= run.config.warmup or not losses["n_pairs"]
    for warning in collapse(used, used_by_kmeans, by_router, run.config.nlist, warming_up=warming_up):
        run.progress.note(warning)
