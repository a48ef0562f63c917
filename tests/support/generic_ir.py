"""Write the LLVM IR of every jitted function to a folder; run by test_targets.py in a process of its own."""

import importlib
import pkgutil
import sys
from pathlib import Path

import numpy as np
from numba.core.dispatcher import Dispatcher

import fastattn
from fastattn import Encoder, EncoderConfig, kernels
from fastattn.encoder.pooling import normalize, pool


def main() -> None:
    x = np.random.default_rng(0).standard_normal((3, 5, 7)).astype(np.float32)
    fastattn.softmax(x)
    fastattn.layer_norm(x, residual=x)
    fastattn.rms_norm(x, residual=x)
    fastattn.gelu(x)
    fastattn.linear(x, x[0], activation="gelu")
    fastattn.scaled_dot_product_attention(x, x, x)
    fastattn.attention_weights(x, x)
    fastattn.rotary_embedding(x[..., :6], x[0, :, :3], x[1, :, :3])
    Encoder(EncoderConfig(1, 1, 8, 8, vocab_size=9, positions="sinusoidal")).forward_packed([1, 2], [0, 2], pooling="mean")
    normalize(pool(x[0], np.array([0, 5]), "mean"))
    for module in pkgutil.walk_packages(kernels.__path__, "fastattn.kernels."):
        for name, item in vars(importlib.import_module(module.name)).items():
            dispatcher = getattr(item, "dispatcher", item)
            if isinstance(dispatcher, Dispatcher):
                for number, ir in enumerate(dispatcher.inspect_llvm().values()):
                    Path(sys.argv[1], f"{name}{number or ''}.ll").write_text(ir)


if __name__ == "__main__":
    main()
