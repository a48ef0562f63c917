"""Writes tests/data/losses.json: values and gradients of sentence-transformers' losses, in float64.

Needs torch and sentence-transformers:  python tests/data/make_losses.py
"""

import json
import sys
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from fastattn.training import losses  # noqa: E402
from tests.support.loss_cases import CASES, Model, inputs  # noqa: E402
from tests.support.peer_losses import evaluate  # noqa: E402

ROWS = 5
DIGITS = 9


def rounded(array: np.ndarray) -> list:
    return [float(f"{x:.{DIGITS}g}") for x in np.ravel(array)]


def main() -> None:
    import fastattn.util

    records = {}
    for seed, case in enumerate(CASES):
        columns, labels = inputs(case, seed, ROWS)
        columns = [np.round(each, 3) for each in columns]
        own = case.make(losses, Model(), fastattn.util).parameters()
        weights = [np.round(each.data.astype(np.float64), 3) for each in own]
        value, gradients = evaluate(case, columns, labels, weights)
        records[case.name] = {
            "columns": [rounded(each) for each in columns],
            "labels": None if labels is None else labels.tolist(),
            "weights": [each.tolist() for each in weights],
            "value": value,
            "gradients": [rounded(each) for each in gradients],
        }
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(record)}" for name, record in records.items())
    (HERE / "losses.json").write_text("{\n" + lines + "\n}\n", "utf-8")


if __name__ == "__main__":
    main()
