"""fit.json: which base `ivfast fit` was handed, and which of its rows did not train."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_json

FIT_NAME = "fit.json"
DATA_NAME = "data"  # of the folder beside it: the arrays of the training run


class FitFacts(NamedTuple):
    """What a fit remembers of its base."""

    base_digest: str
    n: int  # vectors of base
    copies: float
    aside: np.ndarray  # rows of base that an index of it is calibrated on, ascending int64
    test: np.ndarray  # rows of base that try the index, likewise; none where queries were given


def save_fit(folder: Path, facts: FitFacts) -> None:
    """Write fit.json."""
    rows = {"aside": facts.aside.tolist(), "test": facts.test.tolist()}
    save_json(folder / FIT_NAME, facts._asdict() | rows)


def read_fit(folder: Path) -> FitFacts | None:
    """Read fit.json; None where there is none.

    raises: UserError where it is damaged
    """
    path = folder / FIT_NAME
    if not path.is_file():
        return None
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        facts = FitFacts(**{name: stored[name] for name in FitFacts._fields})
        rows = {name: np.array(getattr(facts, name), np.int64) for name in ("aside", "test")}
        return facts._replace(**rows, n=int(facts.n))
    except (OSError, ValueError, LookupError, TypeError, OverflowError) as problem:
        raise UserError(
            f"{path} cannot be read ({problem}); remove it: a fit writes it anew, an index draws other rows"
        ) from None
