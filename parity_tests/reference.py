"""DCNet in float64 NumPy, written from the formulas alone: what both backends are held to."""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from ivfast.network.backend import Setup
from parity_tests.cases import GOAL, Problem
from parity_tests.twins import Arrays, Batch

# The design's own numbers, not the package's: a changed constant must fail here.
MOVE, NET_WEIGHT, NEAR, LAYER_EPSILON, LEAST_USE = 16.0, 0.3, 4, 1e-5, 1e-9
SOFTNESS, HALVINGS = 0.7, 20
BETA_1, BETA_2, ADAM_EPSILON, DEEP_SHARE = 0.9, 0.999, 1e-8, 0.15
STEP = 5e-4  # of a finite difference: twice as far its own error is 3e-8, half as far rounding's is 2e-9

erf = np.vectorize(math.erf, otypes=[np.float64])


def move_centers(u: np.ndarray, setup: Setup) -> np.ndarray:
    """c_b = start_b + 16 r_b u_b, of unit norm under IP."""
    moved = setup.start.astype(np.float64) + MOVE * setup.radius[:, None].astype(np.float64) * u
    return moved / np.linalg.norm(moved, axis=1, keepdims=True) if setup.metric == "IP" else moved


def squared_distances(x: np.ndarray, c: np.ndarray, metric: str) -> np.ndarray:
    """d_b^2 = |x - c_b|^2, under IP as if x were of unit norm (dropping changes it). -> (n, nlist)"""
    return np.maximum(2 - 2 * x @ c.T, 0) if metric == "IP" else np.square(x[:, None] - c).sum(axis=2)


def mean_nearest(d2: np.ndarray, floor: float) -> np.ndarray:
    """delta(x), the mean of the 4 smallest. (n, nlist) -> (n, 1)"""
    return np.maximum(np.sort(d2, axis=1)[:, :NEAR].mean(axis=1, keepdims=True), floor)


def forward(params: Arrays, x: np.ndarray, setup: Setup, delta: np.ndarray | None = None) -> Arrays:
    """Every named value up to both paths' results. delta: (n, 1), held as it is (None: measured)"""
    x = x.astype(np.float64)
    c = move_centers(params["u"], setup)
    d2 = squared_distances(x, c, setup.metric)
    named = {"centers": c, "d2": d2, "z": -d2 / (mean_nearest(d2, setup.delta_floor) if delta is None else delta)}
    n_layers = len(setup.param_list) - 1
    if n_layers == 1:
        return named
    h = (x - setup.mean.astype(np.float64)) / np.float64(setup.scale)
    named["standardised"] = h
    for i in range(n_layers):
        named[f"layers_{i}"] = h = h @ params[f"layers_{i}.weight"] + params[f"layers_{i}.bias"]
        if i + 1 < n_layers:
            h = (h - h.mean(axis=1, keepdims=True)) / np.sqrt(h.var(axis=1, keepdims=True) + LAYER_EPSILON)
            named[f"norms_{i}"] = h = h * params[f"norms_{i}.scale"] + params[f"norms_{i}.bias"]
            named[f"gelus_{i}"] = h = h * (1 + erf(h / math.sqrt(2))) / 2
    return named | {"deep": h}


def router_logits(named: Arrays) -> Arrays:
    """z_centers = k z, z_net = k z + deep."""
    z = {"centers": GOAL.k * named["z"]}
    return z | ({"net": GOAL.k * named["z"] + named["deep"]} if "deep" in named else {})


def border(z: np.ndarray, nprobe: float) -> np.ndarray:
    """Between the nprobe-th largest of each row and the next, by halving. (n, nlist) -> (n, 1)"""
    found = []
    for row in z:
        low, high = row.min(), row.max()
        for _ in range(HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if (row > middle).sum() >= nprobe else (low, middle)
        found.append((low + high) / 2)
    return np.array(found)[:, None]


class Side(NamedTuple):
    """What has no gradient in searches from one side of the pairs."""

    border: np.ndarray  # (n, 1)
    probed: np.ndarray  # (nlist,), mean of I


def make_side(z: np.ndarray) -> Side:
    """z: (n, nlist) logits of the valid rows"""
    edge = border(z, GOAL.nprobe)
    return Side(edge, _inside(z, edge).mean(axis=0))


def _inside(z: np.ndarray, edge: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-(z - edge) / SOFTNESS))


def probing(z: np.ndarray, log_q: np.ndarray, m: np.ndarray, side: Side) -> np.ndarray:
    """sum (I m + u q) / s - slope sum I q, over rows. All are of the valid rows"""
    inside, q = _inside(z, side.border), np.exp(log_q)
    cost = (inside @ m + q @ side.probed) / (side.probed @ m)
    return (cost - GOAL.slope * (inside * q).sum(axis=1)).sum()


class Held(NamedTuple):
    """What has no gradient."""

    delta: np.ndarray  # (2 batch, 1)
    sides: dict[str, tuple[Side, Side]]  # by router


def hold(problem: Problem, batch: Batch) -> Held:
    """As it is at the problem's own weights."""
    x = np.concatenate([batch.x, batch.x_pair])
    named = forward(problem.group("params"), x, problem.setup)
    halves = {router: np.split(z, 2) for router, z in router_logits(named).items()}
    sides = {r: (make_side(left[batch.valid]), make_side(right[batch.valid])) for r, (left, right) in halves.items()}
    return Held(mean_nearest(named["d2"], problem.setup.delta_floor), sides)


def intermediates(problem: Problem, batch: Batch, params: Arrays | None = None, held: Held | None = None) -> Arrays:
    """Every named value between a batch and its loss, by the names of twins.intermediates."""
    setup, use, valid = problem.setup, problem.group("use"), batch.valid
    held = held or hold(problem, batch)
    x = np.concatenate([batch.x, batch.x_pair])
    named = forward(params or problem.group("params"), x, setup, held.delta)
    for router, z in router_logits(named).items():
        log_p = z - z.max(axis=1, keepdims=True)
        log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        mine, other = log_p[: len(valid)][valid], log_p[len(valid) :][valid]
        met = np.exp(mine + other) / (len(use[router]) * np.maximum(use[router], LEAST_USE))
        mean_p = (np.exp(mine) + np.exp(other)).sum(axis=0) / (2 * valid.sum())
        left, right = held.sides[router]
        named |= {
            f"{router}.log_p": log_p,
            f"{router}.meet": -np.log(met.sum(axis=1)).sum(),
            f"{router}.probing": probing(z[: len(valid)][valid], other, use[router], left),
            f"{router}.back": probing(z[len(valid) :][valid], mine, use[router], right),
            f"{router}.mean_p": mean_p,
            f"{router}.next_use": (1 - setup.use_rate) * use[router] + setup.use_rate * mean_p,
        }
    return named


def losses(problem: Problem, batch: Batch, params: Arrays | None = None, held: Held | None = None) -> Arrays:
    """loss(z_centers) + 0.3 loss(z_net) over the valid pairs, and both sums of meet."""
    named = intermediates(problem, batch, params, held)
    total = 0.0
    for router, weight in {"centers": 1.0, "net": NET_WEIGHT}.items():
        if f"{router}.meet" in named:
            both = named.pop(f"{router}.probing") + named.pop(f"{router}.back")
            total += weight * (named[f"{router}.meet"] + GOAL.weight * both / 2)
    centers, net = named["centers.meet"], named.get("net.meet", np.array(0.0))
    return {"total": np.array(total / batch.valid.sum()), "centers": centers, "net": net}


def some_gradients(problem: Problem, batch: Batch, entries: dict[str, np.ndarray]) -> Arrays:
    """Finite differences of the loss, held what has no gradient. entries: flat places by the weights' names."""
    params, held = problem.group("params"), hold(problem, batch)
    gradients = {}
    for name, places in entries.items():

        def at(place: int, move: float, name: str = name) -> float:
            moved = params[name].copy()
            moved.flat[place] += move
            return float(losses(problem, batch, params | {name: moved}, held)["total"])

        gradients[name] = np.array([_slope(lambda move, place=place: at(place, move)) for place in places])
    return gradients


def _slope(value: Callable[[float], float]) -> float:
    near, far = value(STEP) - value(-STEP), value(2 * STEP) - value(-2 * STEP)
    return (8 * near - far) / (12 * STEP)


def after_step(problem: Problem, batch: Batch, gradients: Arrays) -> Arrays:
    """The state after one Adam step along given gradients, and m of both routers after it."""
    named = intermediates(problem, batch)
    t = int(problem.state["step"])
    state: Arrays = {"step": np.array(t + 1, dtype=np.int32)}
    for name, gradient in gradients.items():
        first = BETA_1 * problem.state[f"first/{name}"] + (1 - BETA_1) * gradient
        second = BETA_2 * problem.state[f"second/{name}"] + (1 - BETA_2) * gradient**2
        root = np.sqrt(second / (1 - BETA_2 ** (t + 1)))
        lr = problem.setup.learning_rates[t] * (1 if name == "u" else DEEP_SHARE)
        state[f"params/{name}"] = problem.state[f"params/{name}"] - lr * first / (1 - BETA_1 ** (t + 1)) / (
            root + ADAM_EPSILON
        )
        state |= {f"first/{name}": first, f"second/{name}": second}
    scale = problem.group("scale")
    state |= {"scale/value": scale["value"], "scale/n_skipped": scale["n_skipped"]}
    state |= {"scale/good_steps": scale["good_steps"] + np.int32(1), "scale/n_in_a_row": np.array(0, dtype=np.int32)}
    return state | {f"use/{router}": named[f"{router}.next_use"] for router in problem.group("use")}
