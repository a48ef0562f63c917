"""Writes late_interaction.npz, answers of sentence-transformers' MultiVectorEncoder: needs torch and sentence-transformers.

Run from the project's folder: ``PYTHONPATH=. python tests/data/make_late_interaction.py``.
"""

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import sentence_transformers
import torch
import transformers
from sentence_transformers.multi_vector_encoder import modules

from tests.support.late_interaction import CASES, answers, write_case

VERSION = 1
FILE = Path(__file__).parent / "late_interaction.npz"
DTYPES = {"float64": torch.float64, "float32": torch.float32}


def answer(name: str, folder: Path) -> dict[str, Any]:
    """Return the answers to a case in float64 and float32."""
    write_case(name, folder)
    pooling = CASES[name].pooling
    found = {}
    for dtype, kind in DTYPES.items():
        model = sentence_transformers.MultiVectorEncoder(str(folder), device="cpu").to(kind)
        made = None if pooling is None else getattr(modules, pooling[0])(**pooling[1])
        found.update({f"{name}/{key}/{dtype}": array for key, array in answers(model, made).items()})
    return found


def main() -> None:
    """Write the file."""
    names = {"sentence-transformers": sentence_transformers, "transformers": transformers, "torch": torch}
    about = {"version": VERSION, **{name: module.__version__ for name, module in names.items()}}
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for i, name in enumerate(CASES):
            found.update(answer(name, Path(folder) / str(i)))
    np.savez_compressed(FILE, about=json.dumps(about), **found)


if __name__ == "__main__":
    main()
