"""A trained run's centers for VectorChord's external build: a table of centers as CSV, and the SQL that uses it.

    python -m examples.vectorchord_build --save_path out --table items --column embedding --out vectorchord
    cd vectorchord && psql DATABASE --file build.sql

VectorChord fills its lists itself, so a vector lies in the bucket of its nearest center, without copies.
Written by what its documentation and its source (1.1.1) say, not executed: docs/engines.md.
"""

import argparse
import csv
import io
import re
from pathlib import Path

import numpy as np

import ivfast
from ivfast.runtime.errors import UserError
from ivfast.runtime.files import save_text

OPERATORS = {"IP": ("vector_ip_ops", "<#>"), "L2": ("vector_l2_ops", "<->")}
NAME = re.compile(r"([A-Za-z_][\w$]*\.)?[A-Za-z_][\w$]*", re.ASCII)  # what build.external takes as a table
SQL = """\
-- psql DATABASE --file build.sql, from the folder of centers.csv
CREATE EXTENSION IF NOT EXISTS vchord CASCADE;
CREATE TABLE {centers} (id integer NOT NULL UNIQUE, parent integer, vector vector({dim}));
\\copy {centers} (id, parent, vector) FROM 'centers.csv' WITH (FORMAT csv)
CREATE INDEX ON {table} USING vchordrq ({column} {operators}) WITH (options = $$
[build.external]
table = '{centers}'
$$);
-- then, in every session that searches:
--   SET vchordrq.probes = '8';
--   SELECT id FROM {table} ORDER BY {column} {operator} QUERY LIMIT 10;
"""


def make_sql(table: str, column: str, centers: str, dim: int, metric: str) -> str:
    """The statements, from the table of centers to the index.

    table, column: what is indexed; centers: the table to make, with or without a schema
    raises: UserError where a name is not of letters, digits, _ and $, as VectorChord demands
    """
    for name in (table, column, centers):
        if not NAME.fullmatch(name):
            raise UserError(f"name {name!r}: expected letters, digits, _ or $, after a schema's or none; correct it")
    operators, operator = OPERATORS[metric]
    return SQL.format(table=table, column=column, centers=centers, dim=dim, operators=operators, operator=operator)


def make_csv(centers: np.ndarray) -> str:
    """Lines of id, parent and vector. No center has a parent: VectorChord then puts one root above all.

    centers: (nlist, dim) float32, written so that they are read back to the bit
    """
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    for i, center in enumerate(centers):
        rows.writerow([i, None, f"[{','.join(map(str, center))}]"])
    return text.getvalue()


def main(argv: list[str] | None = None) -> None:
    """Write centers.csv and build.sql."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save_path", type=Path, required=True, help="of a finished run")
    parser.add_argument("--table", required=True, help="table to index")
    parser.add_argument("--column", required=True, help="its column of vectors")
    parser.add_argument("--centers", default="public.ivfast_centers", help="table of centers to make")
    parser.add_argument("--out", type=Path, required=True, help="folder of the two files")
    options = parser.parse_args(argv)
    model = ivfast.load(options.save_path)
    sql = make_sql(options.table, options.column, options.centers, model.dim, model.metric)
    save_text(options.out / "centers.csv", make_csv(model.centers))
    save_text(options.out / "build.sql", sql)


if __name__ == "__main__":
    main()
