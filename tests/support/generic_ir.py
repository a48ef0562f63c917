"""Write the LLVM IR of every jitted function to a folder; run by test_targets.py in a process of its own."""

import importlib
import pkgutil
import sys
from pathlib import Path

import numpy as np
from numba.core.dispatcher import Dispatcher

from fastattn import Encoder, EncoderConfig, kernels
from fastattn.cli.cases import Sizes, cases, ops
from fastattn.encoder.pooling import normalize, pool


def main() -> None:
    public = ops()
    for case in cases(Sizes(batch=1, heads=4, tokens=5, head_dim=6, ff_dim=7)):
        case.bound(public[case.op])()
    Encoder(EncoderConfig(1, 1, 8, 8, vocab_size=9, positions="sinusoidal")).forward_packed([1, 2], [0, 2], pooling="mean")
    normalize(pool(np.ones((5, 7), np.float32), np.array([0, 5]), "mean"))
    for module in pkgutil.walk_packages(kernels.__path__, "fastattn.kernels."):
        for name, item in vars(importlib.import_module(module.name)).items():
            dispatcher = getattr(item, "dispatcher", item)
            if isinstance(dispatcher, Dispatcher):
                for number, ir in enumerate(dispatcher.inspect_llvm().values()):
                    Path(sys.argv[1], f"{name}{number or ''}.ll").write_text(ir)


if __name__ == "__main__":
    main()
