"""DCNet in float64 NumPy, written from the formulas alone: what both backends are held to."""

import math
from collections.abc import Callable

import numpy as np

from ivfast.backends import Setup
from parity_tests.cases import K, Problem
from parity_tests.twins import Arrays, Batch

# The design's own numbers, not the package's: a changed constant must fail here.
MOVE, NET_WEIGHT, NEAR, LAYER_EPSILON, LEAST_USE = 16.0, 0.3, 4, 1e-5, 1e-9
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
    z = {"centers": K * named["z"]}
    return z | ({"net": K * named["z"] + named["deep"]} if "deep" in named else {})


def intermediates(
    problem: Problem, batch: Batch, params: Arrays | None = None, delta: np.ndarray | None = None
) -> Arrays:
    """Every named value between a batch and its loss, by the names of twins.intermediates."""
    setup, use, valid = problem.setup, problem.group("use"), batch.valid
    x = np.concatenate([batch.x, batch.x_pair])
    named = forward(params or problem.group("params"), x, setup, delta)
    for router, z in router_logits(named).items():
        log_p = z - z.max(axis=1, keepdims=True)
        log_p = log_p - np.log(np.exp(log_p).sum(axis=1, keepdims=True))
        mine, other = log_p[: len(valid)][valid], log_p[len(valid) :][valid]
        met = np.exp(mine + other) / (len(use[router]) * np.maximum(use[router], LEAST_USE))
        mean_p = (np.exp(mine) + np.exp(other)).sum(axis=0) / (2 * valid.sum())
        named |= {
            f"{router}.log_p": log_p,
            f"{router}.meet": -np.log(met.sum(axis=1)).sum(),
            f"{router}.mean_p": mean_p,
            f"{router}.next_use": (1 - setup.use_rate) * use[router] + setup.use_rate * mean_p,
        }
    return named


def losses(problem: Problem, batch: Batch, params: Arrays | None = None, delta: np.ndarray | None = None) -> Arrays:
    """meet(z_centers) + 0.3 meet(z_net) over the valid pairs, and both sums."""
    named = intermediates(problem, batch, params, delta)
    centers, net = named["centers.meet"], named.get("net.meet", np.array(0.0))
    return {"total": np.array((centers + NET_WEIGHT * net) / batch.valid.sum()), "centers": centers, "net": net}


def some_gradients(problem: Problem, batch: Batch, entries: dict[str, np.ndarray]) -> Arrays:
    """Finite differences of the loss, delta held as it is. entries: flat places by the weights' names."""
    params, setup = problem.group("params"), problem.setup
    d2 = forward(params, np.concatenate([batch.x, batch.x_pair]), setup)["d2"]
    delta = mean_nearest(d2, setup.delta_floor)
    gradients = {}
    for name, places in entries.items():

        def at(place: int, move: float, name: str = name) -> float:
            moved = params[name].copy()
            moved.flat[place] += move
            return float(losses(problem, batch, params | {name: moved}, delta)["total"])

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
