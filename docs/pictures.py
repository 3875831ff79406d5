"""Draw the pictures of the documentation from real data: the two photographs that scikit-learn ships.

    make demo
    .venv/bin/python docs/pictures.py demo_out

reads demo_out/photo_patches and demo_out/data (8 x 8 patches of both photographs, 64 entries), trains 16 buckets on
colours of one of them (2 entries, so that a picture shows all there is) in a temporary folder, and writes
docs/recall_scanned.png and docs/pictures/*.png. It takes half a minute on 2 cores.
"""

import json
import sys
import tempfile
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import faiss
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image
from safetensors.numpy import load_file
from sklearn.datasets import load_sample_images

from ivfast.data.synthetic import save_set
from ivfast.demo import PATCHES
from ivfast.index.load import load
from run_dcnet import main as run

DOCS = Path(__file__).resolve().parent
GREY, BLUE, ORANGE, BLACK, PALE = (
    "#777777",
    "#0072b2",
    "#d55e00",
    "#000000",
    "#c8c8c8",
)  # told apart by the colour-blind
WIDTH = 5.2  # inches; with 130 dots an inch text stays readable on a phone
NLIST, N_COLORS, COPIES = 16, 6000, 0.2


class Colors(NamedTuple):
    """A run on 2-D colours."""

    base: np.ndarray  # (n, 2) float32, red less green and blue less green
    rgb: np.ndarray  # (n, 3) of 0..1, to draw with
    kmeans: np.ndarray  # (nlist, 2)
    centers: np.ndarray  # (nlist, 2)
    asking: np.ndarray  # (20,) weight of an asker by the place at which it has a vector
    alone: np.ndarray  # (n,) bucket without copies
    counts: np.ndarray  # (n,) buckets that hold each vector, with copies


def train_colors(folder: Path) -> Colors:
    """Mean colours of 8 x 8 patches of the first photograph; trained on what is searched."""
    image = load_sample_images().images[0].astype(np.float32)
    patches = np.lib.stride_tricks.sliding_window_view(image, (8, 8), axis=(0, 1))[::3, ::3]
    rgb = patches.mean(axis=(3, 4)).reshape(-1, 3)
    rgb = rgb[np.random.default_rng(1).permutation(len(rgb))]
    plane = np.stack([rgb[:, 0] - rgb[:, 1], rgb[:, 2] - rgb[:, 1]], axis=1)
    base, query = plane[:N_COLORS], plane[N_COLORS : N_COLORS + 500]
    save_set(folder, "colors", base, base, query, faiss.knn(query, base, 10)[1])
    out = folder / "out"
    code = run(
        f"--save_path {out} --data_path {folder} --data_name colors --learn_name learn_colors --metric L2 "
        f"--nlist {NLIST} --niter 50 --param_list 2 {NLIST} --epochs 20 --warmup 1 --lr 5e-3 --batch_size 512 "
        f"--percents 0.0 {COPIES} --gpu -1".split()
    )
    if code:
        raise SystemExit(code)
    alone = load(out).store(base, 0.0).buckets
    counts = np.bincount(load(out).store(base, COPIES).rows, minlength=len(base))
    asking = load_file(out / "dcnet.safetensors")["asking"]
    return Colors(
        base, rgb[:N_COLORS] / 255, np.load(out / "kmeans.npy"), np.load(out / "ivfast.npy"), asking, alone, counts
    )


def nearest_center(x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """(n,) int64"""
    return faiss.knn(np.ascontiguousarray(x), np.ascontiguousarray(centers), 1)[1][:, 0]


def neighbors(x: np.ndarray, k: int) -> np.ndarray:
    """The k nearest of each among the others, (n, k), nearest first; equal vectors count as neighbours."""
    near = faiss.knn(x, x, k + 1)[1]
    own = near == np.arange(len(x))[:, None]
    own[~own.any(axis=1), -1] = True
    return near[~own].reshape(len(x), k)


# ---- a: a border that cuts neighbours, and one that doesn't


def draw_border(demo: Path) -> Figure:
    """Two buckets of the patches, seen in the plane in which both borders are exact straight lines."""
    learn = np.load(demo / PATCHES / "data" / "base.npy")  # what trained
    files = {"k-means": "kmeans.npy", "trained": "ivfast.npy"}
    borders = {name: np.load(demo / PATCHES / file) for name, file in files.items()}
    near = neighbors(learn, 10)
    bucket = {name: nearest_center(learn, centers) for name, centers in borders.items()}
    shares = {
        name: ((found[near] != found[:, None]).mean(), np.square(np.bincount(found) / len(found)).sum())
        for name, found in bucket.items()
    }
    a, b = most_saved(bucket, near)
    inside = np.isin(bucket["k-means"], (a, b)) & np.isin(bucket["trained"], (a, b))
    row, column = np.nonzero(inside[:, None] & inside[near])
    pairs = np.unique(np.sort(np.stack([row, near[row, column]], axis=1), axis=1), axis=0)
    normals = {name: centers[b] - centers[a] for name, centers in borders.items()}
    e1 = normals["k-means"] / np.linalg.norm(normals["k-means"])
    e2 = normals["trained"] - (normals["trained"] @ e1) * e1
    e2 /= np.linalg.norm(e2)
    origin = learn[inside].mean(axis=0)
    at = (learn - origin) @ np.stack([e1, e2], axis=1)
    low, high = np.quantile(at[inside], [0.02, 0.98], axis=0)
    figure = Figure(figsize=(WIDTH, 3.9), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (name, centers) in zip(panels, borders.items(), strict=True):
        cut = pairs[bucket[name][pairs[:, 0]] != bucket[name][pairs[:, 1]]]
        axes.plot(*at[inside].T, ".", color=GREY, ms=4, mec="none")
        for pair in cut:
            axes.plot(*at[pair].T, color=ORANGE, lw=0.7, alpha=0.5)
        offset = (centers[b] @ centers[b] - centers[a] @ centers[a]) / 2 - normals[name] @ origin
        line(axes, normals[name] @ e1, normals[name] @ e2, offset, low, high)
        axes.set_title(f"{name}\n{len(cut):,} of {len(pairs):,} pairs cut", fontsize=11)
        axes.set_xlabel("grey levels of 255")
    panels[0].set_ylabel("grey levels of 255")
    told = (
        f"{name}: {100 * cut:.0f} % of pairs cut; the mean bucket looked into holds {100 * held:.2f} %"
        for name, (cut, held) in shares.items()
    )
    figure.supxlabel("Over all 256 buckets:\n" + "\n".join(told), fontsize=9)
    return figure


def most_saved(bucket: dict[str, np.ndarray], near: np.ndarray) -> tuple[int, int]:
    """The two buckets between which training cuts the most pairs fewer."""
    nlist = max(found.max() for found in bucket.values()) + 1
    tables = []
    for found in bucket.values():
        one, other = np.repeat(found, near.shape[1]), found[near].ravel()
        table = np.bincount(one * nlist + other, minlength=nlist * nlist).reshape(nlist, nlist)
        tables.append(table + table.T)
    saved = np.triu(tables[0] - tables[1], 1)
    return tuple(int(i) for i in np.unravel_index(saved.argmax(), saved.shape))  # type: ignore[return-value]


def line(axes: Axes, n1: float, n2: float, offset: float, low: np.ndarray, high: np.ndarray) -> None:
    """The line n1 x + n2 y = offset."""
    if abs(n2) > abs(n1):
        x = np.array([low[0], high[0]])
        axes.plot(x, (offset - n1 * x) / n2, color=BLACK, lw=2)
    else:
        y = np.array([low[1], high[1]])
        axes.plot((offset - n2 * y) / n1, y, color=BLACK, lw=2)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])


# ---- b and README: recall against scanned


def curve(demo: Path, router: str, rule: str, percent: float) -> tuple[np.ndarray, np.ndarray, dict[str, float]]:
    """Recall and scanned in percent, fixed probing, and scanned at each level of recall."""
    results = json.loads((demo / PATCHES / "evaluation.json").read_text(encoding="utf-8"))["results"]
    wanted = (router, rule, percent, "fixed")
    found = next(r for r in results if (r["router"], r["rule"], r["percent"], r["probing"]) == wanted)
    levels = {level: 100 * share for level, share in found["scanned_at"].items()}
    return 100 * np.array(found["recall"]), 100 * np.array(found["scanned"]), levels


LINES = (  # router, rule, copies, name, colour, marker, where its figure stands
    ("kmeans", "ratio", 0.0, "k-means", GREY, "s", (6, -14)),
    ("centers", "ratio", 0.0, "trained centers", BLUE, "o", (-38, 5)),
    ("centers", "benefit", 0.8, "trained centers,\n0.8 copies a vector", ORANGE, "^", (2, -14)),
)


def draw_recall(demo: Path) -> Figure:
    """README's picture."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot(xscale="log", xlabel="vectors scanned, % of all", ylabel="right answers found, %")
    for router, rule, percent, name, color, mark, offset in LINES:
        recall, scanned, levels = curve(demo, router, rule, percent)
        axes.plot(scanned, recall, color=color, marker=mark, ms=4, label=name)
        axes.annotate(
            f"{levels['0.90']:.1f} %", (levels["0.90"], 90), offset, textcoords="offset points", color=color,
            fontsize=11, fontweight="bold",
        )  # fmt: skip
    axes.axhline(90, color=BLACK, lw=0.8, ls=":")
    axes.set_xlim(0.7, 12)
    axes.set_ylim(65, 100)
    percents(axes, (1, 2, 5, 10))
    axes.legend(loc="lower right", fontsize=9)
    axes.set_title("30,000 patches of two photographs in 256 buckets", fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    return figure


def percents(axes: Axes, at: tuple[float, ...]) -> None:
    """Plain numbers on a log axis."""
    axes.set_xticks(at, [f"{x:g}" for x in at])
    axes.set_xticks([], minor=True)


def draw_slope(demo: Path) -> Figure:
    """The slope is how many percent more a search scans for one more point of recall."""
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    axes = figure.add_subplot(yscale="log", xlabel="recall, %", ylabel="vectors scanned, % of all")
    for router, rule, percent, name, color, mark, _ in LINES[:2]:
        recall, scanned, _ = curve(demo, router, rule, percent)
        axes.plot(recall, scanned, color=color, marker=mark, ms=4, label=name)
    slope, right = fitted_slope(demo), curve(demo, "centers", "ratio", 0.0)[2]["0.90"]
    x, up = np.array([84.0, 97.0]), right * np.exp(0.05 * slope)
    axes.plot(x, right * np.exp(slope * (x - 90) / 100), color=ORANGE, lw=2.5, label=f"slope {slope:.1f}")
    axes.plot([90, 95, 95], [right, right, up], color=BLACK, lw=1)
    axes.text(90.5, right * 0.97, "5 points of recall", va="top", fontsize=9)
    axes.text(95.3, right * 1.02, f"{100 * (up / right - 1):.0f} % more\nscanned", va="bottom", fontsize=9)
    axes.axvline(90, color=BLACK, lw=0.8, ls=":")
    axes.set_xlim(68, 101)
    axes.set_ylim(0.5, 12)
    axes.set_yticks((0.5, 1, 2, 5, 10), ("0.5", "1", "2", "5", "10"))
    axes.set_yticks([], minor=True)
    axes.legend(loc="upper left", fontsize=9)
    axes.grid(visible=True, alpha=0.3)
    return figure


def fitted_slope(demo: Path) -> float:
    """That of the last epoch, as the tool measured it on held-out vectors."""
    lines = (demo / PATCHES / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return next(found["slope"] for found in map(json.loads, reversed(lines)) if "slope" in found)


# ---- c and d: askers, copies


def draw_borders(axes: Axes, centers: np.ndarray, low: np.ndarray, high: np.ndarray) -> None:
    """Where the nearest of two centers changes."""
    x, y = (np.linspace(low[i], high[i], 700, dtype=np.float32) for i in range(2))
    grid = np.stack(np.meshgrid(x, y), axis=-1)
    bucket = nearest_center(grid.reshape(-1, 2), centers).reshape(len(y), len(x))
    for b in range(len(centers)):
        if 0 < (inside := bucket == b).sum() < inside.size:
            axes.contour(x, y, inside, levels=[0.5], colors=BLACK, linewidths=1.2)
    axes.set_xlim(low[0], high[0])
    axes.set_ylim(low[1], high[1])
    axes.set_xlabel("red less green, levels of 255")
    axes.set_ylabel("blue less green, levels of 255")


def draw_askers(colors: Colors) -> Figure:
    """One vector close to a border, and who has it among their nearest."""
    base, near = colors.base, neighbors(colors.base, len(colors.asking))
    own = nearest_center(base, colors.centers)
    asker, place = np.nonzero(near >= 0)
    stored = near.ravel()
    beyond = np.bincount(stored, weights=own[asker] == colors.alone[stored], minlength=len(base))
    home = np.bincount(stored, weights=own[asker] == own[stored], minlength=len(base))
    many = np.bincount(stored, minlength=len(base))
    clear = (colors.alone != own) & (beyond + home == many) & (many >= 12)  # two buckets alone
    v = int(np.where(clear, beyond / np.sqrt(np.maximum(many, 1)), -1).argmax())
    of_v = stored == v
    askers, weights = asker[of_v], colors.asking[place[of_v]]
    there = own[askers] == colors.alone[v]
    span = 1.3 * np.abs(base[askers] - base[v]).max()
    low, high = base[v] - span, base[v] + span
    figure = Figure(figsize=(WIDTH, 4.6), layout="constrained")
    axes = figure.add_subplot()
    draw_borders(axes, colors.centers, low, high)
    axes.plot(*base.T, ".", color=PALE, ms=5, mec="none", label="vectors of base")
    for x, w in zip(askers, weights, strict=True):
        style = {"arrowstyle": "->", "color": BLUE, "lw": 0.5 + 2 * w, "alpha": 0.7}
        axes.annotate("", tuple(base[v]), tuple(base[x]), arrowprops=style)
    axes.plot(*base[askers].T, "o", color=BLUE, ms=6, label="askers of v: have it among their nearest")
    axes.plot(*base[v], "*", color=ORANGE, ms=17, mec=BLACK, label="v", zorder=5)
    axes.set_title(
        f"v lies on one side of a border, {there.sum()} of its {len(askers)} askers on\n"
        "the other: stored once, v goes to their bucket", fontsize=10,
    )  # fmt: skip
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, fontsize=9, frameon=False)
    return figure


def draw_copies(colors: Colors) -> Figure:
    """Which vectors are held by more than one bucket."""
    base, counts = colors.base, colors.counts
    low, high = np.quantile(base, 0.002, axis=0) - 5, np.quantile(base, 0.998, axis=0) + 5
    figure = Figure(figsize=(WIDTH, 5.4), layout="constrained")
    axes = figure.add_subplot()
    draw_borders(axes, colors.centers, low, high)
    for n, color, mark, size in ((1, PALE, ".", 4), (2, BLUE, "o", 3), (3, ORANGE, "^", 5)):
        here = counts == n if n < 3 else counts >= n
        name = f"in {('1 bucket', '2 buckets', '3 buckets or more')[n - 1]}: {here.sum():,} of {len(base):,} vectors"
        axes.plot(*base[here].T, mark, color=color, ms=size, mec="none", label=name)
    axes.set_title(f"{COPIES:g} copies a vector go to what lies at a border", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), fontsize=9, frameon=False)
    return figure


# ---- e: the folders as a pipeline


STAGES = (
    ("data", "read and check the vectors"),
    ("start", "k-means, neighbours of each vector"),
    ("network", "what the backends train: jax or torch"),
    ("train", "epochs, checkpoints, schedule"),
    ("choose", "held-out vectors: an epoch, or k-means"),
    ("route   store", "rank buckets; place vectors and copies"),
    ("evaluate", "recall against vectors scanned"),
)
FILES = {  # that a folder has written when it is done, but for data, which reads
    "data": "learn, base, query, gt",
    "start": "cache/",
    "train": "checkpoints/",
    "choose": "ivfast.npy, kmeans.npy,\ndcnet.safetensors",
    "route   store": "rows, buckets",
    "evaluate": "evaluation.json,\nrecall_scanned.png",
}


def draw_pipeline() -> Figure:
    """data -> start -> network -> train -> choose -> store, route -> evaluate."""
    figure = Figure(figsize=(WIDTH, 4.9), layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.set_xlim(0, 10)
    axes.set_ylim(-len(STAGES) + 0.65, 0.35)
    for i, (name, does) in enumerate(STAGES):
        axes.add_patch(FancyBboxPatch((0.1, -i - 0.28), 5.9, 0.56, boxstyle="round,pad=0.02", fc="#e8f1f8", ec=BLUE))
        title = f"ivfast/{name.replace('   ', ', ivfast/')}"
        axes.text(0.25, -i + 0.12, title, fontsize=10, fontweight="bold", va="center")
        axes.text(0.25, -i - 0.14, does, fontsize=8.5, va="center")
        if i:
            arrow = {"arrowstyle": "-|>", "color": BLUE, "lw": 1.5}
            axes.annotate("", (3, -i + 0.3), (3, -i + 0.7), arrowprops=arrow)
        if files := FILES.get(name):
            arrow = {"arrowstyle": "-|>" if name == "data" else "<|-", "color": ORANGE, "lw": 1.5}
            axes.annotate(files, (6.05, -i), (6.7, -i), va="center", fontsize=9, arrowprops=arrow)
    return figure


def main(argv: list[str]) -> None:
    """Draw all."""
    demo = Path(argv[0] if argv else "demo_out")
    with tempfile.TemporaryDirectory() as folder:
        colors = train_colors(Path(folder))
    pictures: dict[str, Figure] = {
        "recall_scanned": draw_recall(demo),
        "pictures/border": draw_border(demo),
        "pictures/slope": draw_slope(demo),
        "pictures/askers": draw_askers(colors),
        "pictures/copies": draw_copies(colors),
        "pictures/pipeline": draw_pipeline(),
    }
    (DOCS / "pictures").mkdir(exist_ok=True)
    for name, figure in pictures.items():
        figure.savefig(drawn := BytesIO(), dpi=130)
        Image.open(drawn).convert("RGB").quantize(128, Image.Quantize.MAXCOVERAGE).save(
            DOCS / f"{name}.png", optimize=True
        )


if __name__ == "__main__":
    main(sys.argv[1:])
