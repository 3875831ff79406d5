"""Words of a page: the verdict in three sentences, and what the facts of a data set mean."""

from typing import Any

from ivfast.data.another_kind import is_another_kind
from ivfast.evaluate.page.markup import percent
from ivfast.evaluate.page.record import RunRecord
from ivfast.evaluate.report import SAME, by_nearest, error_near
from ivfast.evaluate.result import Result, best, name_of_recall
from ivfast.evaluate.trust import is_unlike
from ivfast.route.routers import ROUTERS

Finding = tuple[str, str]  # fine, look or warn; what is so, and what to do
UNEVEN = 2.0  # imbalance from which on buckets are called uneven
MANY_TWINS = 0.01  # share of base from which on twins are worth mending
WIDE = 0.5  # share of all variance that one column may have
MADE_OF_BASE = 1.5  # times nearer to base than its own rows: queries that may be made of it
LEAST_QUERIES = 100  # with fewer, recall has a standard error of 1 % or more
HUB = 0.05  # of queries that name one row of base among their answers


def of_recall(record: RunRecord) -> str:
    """What recall is of, how sure it is, and whether ties count."""
    k, kind = name_of_recall(record.results).removeprefix("recall@"), best_of(record, "centers")
    near = error_near(kind, float(record.level)) if kind and kind.recall_error else ""
    found = f"Recall is recall@{k}: the share found of the {k} nearest that gt names"
    if record.evaluation["settings"].get("ties"):
        found += ", where whoever is as near as the last of them counts as right"
    return f"{found}; its standard error near {in_percent(record.level)} is {near}." if near else f"{found}."


def in_percent(level: str) -> str:
    """A level of recall in words."""
    return f"{100 * float(level):.0f} %"


def best_of(record: RunRecord, router: str, level: str | None = None) -> Result | None:
    """The result that scans least at a level of recall; None: the one that the run was trained for."""
    return best(record.results, router, level=level or record.level)


def decision(record: RunRecord) -> str:
    """Use it or not, with both shares: one sentence."""
    kmeans, centers, recall = best_of(record, "kmeans"), best_of(record, "centers"), in_percent(record.level)
    if record.is_kmeans:
        took = f"; a search for {recall} recall scans {_share(record, centers)} of base" if centers else ""
        return f"ivfast.npy is k-means, since training brought no gain that was sure on held-out vectors{took}."
    if kmeans is None or centers is None:
        return (
            f"For {recall} recall a search scans {_share(record, centers or kmeans)} of base; there is no k-means to "
            "compare with."
        )
    gain = gain_of(record)
    shares, theirs = f"for {recall} recall a search scans {_share(record, centers)} of base", _share(record, kmeans)
    if gain > SAME:
        return f"Use ivfast.npy: {shares}, {100 * gain:.0f} % less than the {theirs} with k-means."
    if gain < -SAME:
        return f"Keep k-means: {shares} with the trained centers, with k-means {theirs}."
    return f"It makes no difference: {shares} with the trained centers, and {theirs} with k-means."


def gain_of(record: RunRecord, level: str | None = None) -> float:
    """How much less the trained centers scan than k-means, each at its best; NaN where either lacks.

    level: of recall; None: the one that the run was trained for
    """
    level = level or record.level
    kmeans, centers = best_of(record, "kmeans", level), best_of(record, "centers", level)
    if kmeans is None or centers is None:
        return float("nan")
    return 1 - centers.scanned_at[level] / kmeans.scanned_at[level]


def verdict(record: RunRecord) -> tuple[str, str, str]:
    """Three sentences: use it or not; what it costs in memory; whether what was predicted came true."""
    centers = best_of(record, "centers")
    if centers is None:
        none = f"No result of trained centers reaches {in_percent(record.level)} recall."
        return decision(record), none, _kept(record, None)
    nearest = by_nearest(record.results, record.level)
    if centers.percent == 0:
        cost = "Every vector is stored once, so the index takes no more memory than with k-means"
    else:
        cost = (
            f"It stores {centers.percent:g} copies a vector, {centers.entries:,} entries for {record.n_base:,} "
            f"vectors, so the lists take {100 * (centers.entries / record.n_base - 1):.0f} % more memory"
        )
    if nearest is not None and (centers.percent or centers.rule != "ratio"):
        plain = by_nearest(record.results, record.level, "kmeans")
        cost += f"; each vector stored once with its nearest center, as any engine does, it scans {percent(nearest)}"
        cost += "" if plain is None else f", k-means {percent(plain)}"
    return decision(record), f"{cost}.", _kept(record, centers)


def _kept(record: RunRecord, centers: Result | None) -> str:
    told = centers.predicted.get(record.level) if centers else None
    if told is None:
        return "Nothing was predicted from training vectors, so there is nothing to hold these figures against."
    recall, by, beside = in_percent(record.level), record.foretold_by, ""
    if centers and centers.by_base:
        base, asked = centers.by_base, f"{centers.by_base.queries:,} vectors of base that stood for queries"
        found, error = base.found[record.level], base.error[record.level]
        beside = (
            f"From training vectors alone it would be nprobe {told.nprobe:.1f}, where {asked} found "
            f"{100 * found:.1f} % (standard error {100 * error:.1f} %)"
        )
        beside += ": base is not like learn. " if is_unlike(found - float(record.level), error, told.nprobe) else ". "
        by, told = "vectors of base that stood for queries", base.predicted[record.level]
    return (
        f"{beside}From {by} it was predicted that nprobe {told.nprobe:.1f} gives {recall} recall and scans "
        f"{percent(told.scanned)}: at that nprobe the queries reached {100 * told.reached:.1f} % and scanned "
        f"{percent(told.took)}."
    )


def _share(record: RunRecord, result: Result | None) -> str:
    return percent(result.scanned_at[record.level] if result else None)


def of_buckets(results: list[Result]) -> list[Finding]:
    """Whether lists are filled evenly."""
    return [
        ("look", f"{ROUTERS[r.router].title}, {r.percent:g} copies: buckets are filled unevenly (imbalance "
                 f"{r.imbalance:.2f}, 1 is even), so a search that meets a large one takes longer.")
        for r in results
        if r.imbalance > UNEVEN
    ]  # fmt: skip


def of_data(data: dict[str, Any]) -> list[Finding]:
    """What data.json says, in sentences."""
    base, query, gt, beside = data["base"], data["query"], data["gt"], data["queries_beside_base"]
    return [
        *_of_vectors("base", base),
        *_of_columns(base),
        *_of_vectors("query", query),
        *_of_queries(query, beside, base, logged=bool(data.get("logged"))),
        *_of_gt(gt, beside, of_all=base["looked_at"] == base["rows"]),
    ]


def _of_vectors(name: str, facts: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    if facts["dropped"]:
        said = f"{name}: {facts['dropped']:,} rows were dropped before the run; mend where they come from."
        found.append(("look", said))
    n = facts["looked_at"]
    of = f"{n:,} rows" if n == facts["rows"] else f"{n:,} rows looked at, of {facts['rows']:,}"
    found.append(_of_twins(name, facts["twins"], n, of))
    far = facts["far"]
    if far["count"]:
        found.append(("warn", f"{name}: {far['count']:,} of {of} lie more than {far['times']:g} times as far from the "
                              f"middle as half of all do (the farthest: {_named(far['first'])}); look whether they are "
                              "broken."))  # fmt: skip
    return [*found, _of_norms(name, facts["norms"])]


def _of_twins(name: str, n_twins: int, n: int, of: str) -> Finding:
    if n_twins == 0:
        return ("fine", f"{name}: no two of {of} are equal.")
    shown = f"{name}: {n_twins:,} of {of} are twins of others ({percent(n_twins / n)})"
    if name == "query":
        return ("look", f"{shown}: they count more than once.")
    kind = "warn" if n_twins > MANY_TWINS * n else "look"
    return (kind, f"{shown}: they take answers and memory from each other; keep one of each.")


def _of_columns(facts: dict[str, Any]) -> list[Finding]:
    found: list[Finding] = []
    constant, widest = facts["constant_columns"], facts["widest_column"]
    if constant["count"]:
        found.append(("look", f"base: {constant['count']} of {facts['dim']} columns never change "
                              f"(the first: {_named(constant['first'])}); they cost time alone."))  # fmt: skip
    if facts["dim"] > 2 and (widest["share_of_variance"] or 0) > WIDE:
        found.append(("warn", f"base: column {widest['column']} has {percent(widest['share_of_variance'])} of all "
                              "variance, so distances are those of it; scale columns alike."))  # fmt: skip
    return found or [("fine", "base: every column changes, and none has most of the variance.")]


def _of_norms(name: str, norms: dict[str, float]) -> Finding:
    if abs(norms["least"] - 1) < 0.01 and abs(norms["largest"] - 1) < 0.01:
        return ("fine", f"{name}: all norms are 1.")
    shown = f"{name}: norms go from {norms['least']:.3g} to {norms['largest']:.3g}, half are below {norms['p50']:.3g}"
    if norms["least"] == 0:
        return ("look", f"{shown}; a row of zeros has no direction.")
    return ("fine", f"{shown}.")


def _of_queries(query: dict[str, Any], beside: dict[str, Any], base: dict[str, Any], *, logged: bool) -> list[Finding]:
    found: list[Finding] = []
    if query["rows"] < LEAST_QUERIES:
        found.append(("look", f"query: {query['rows']} queries are few: recall is known to a few points of 1 % alone."))
    if query["rows_of_base"]:
        found.append(("look", f"query: {query['rows_of_base']:,} of them are rows of base, and their nearest is "
                              "themselves; real queries are seldom so easy."))  # fmt: skip
    asked, own = beside["nearest_of_queries"], beside["nearest_of_base"]
    if own:
        ratio = asked / own
        shown = f"query: the nearest vector lies at {asked:.3g} in the median, of rows of base at {own:.3g}"
        another_kind = is_another_kind(beside.get("farther_than_base")) and base["looked_at"] == base["rows"]
        if another_kind and logged:
            found.append(("look", f"{shown}: queries of another kind than what is stored; a log of queries trained."))
        elif another_kind:
            found.append(("warn", f"{shown}: queries of another kind than what is stored gain less, or lose; train "
                                  "with a log of such queries, --query_log."))  # fmt: skip
        elif ratio < 1 / MADE_OF_BASE:
            found.append(("look", f"{shown}: they may come from rows of base, and real ones are seldom so easy."))
        else:
            found.append(("fine", f"{shown}."))
    return found


def _of_gt(gt: dict[str, Any], beside: dict[str, Any], *, of_all: bool) -> list[Finding]:
    answers, n = gt["answers_a_query"], gt["looked_at"]
    found: list[Finding] = []
    if gt["without_answers"]:
        found.append(("warn", f"gt: {gt['without_answers']:,} of {n:,} queries have no answer, so they do not count."))
    if answers["mean"] < 10:
        found.append(("look", f"gt: {answers['mean']:.1f} answers a query in the mean, of 10 that would count."))
    else:
        found.append(("fine", "gt: each query has 10 answers that count."))
    nearer, asked = beside["nearer_than_first_answer"], beside["answered"]
    if nearer > asked / 2 and gt.get("by_identity"):
        found.append(("fine", f"gt: for {nearer} of {asked} queries another row is nearer than the first answer: "
                              "answers go by identity here, as they were made."))  # fmt: skip
    elif nearer > asked / 2:
        found.append(("warn", f"gt: for {nearer} of {asked} queries another row is nearer than the first answer: legal "
                              "where answers go by identity, else gt is stale or of another metric."))  # fmt: skip
    elif nearer:
        found.append(("look", f"gt: for {nearer} of {asked} queries another row is nearer than the first answer."))
    else:
        among = "" if of_all else ", among the rows looked at"
        found.append(("fine", f"gt: for {asked} queries no row is nearer than the first answer{among}."))
    most = gt["most_named"]
    if most and most["times"] > max(HUB * n, 10):
        found.append(("look", f"gt: row {most['row']} of base is an answer of {most['times']:,} of {n:,} queries: what "
                              "serves it serves much of the recall."))  # fmt: skip
    found.append(
        ("fine", f"gt: {gt['rows_that_are_answers']:,} rows are answers, {percent(gt['share_of_base'])} of base.")
    )
    return found


def _named(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
