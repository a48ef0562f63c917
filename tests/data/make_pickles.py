"""Write the files in data/pickles, by torch: needs torch."""

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent / "pickles"


def tensors() -> dict[str, Any]:
    """Return tensors of every dtype, with strides, offsets and shared storages."""
    values = torch.arange(24, dtype=torch.float32).reshape(4, 6) / 8 - 1
    found = {
        name: (torch.arange(6).reshape(2, 3) * 21 - 40).to(getattr(torch, name))
        for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8")
    }
    return {
        **found,
        "uint8": torch.arange(5, dtype=torch.uint8) * 50,
        "bool": torch.tensor([True, False, True]),
        "plain": values,
        "transposed": values.T,
        "part": values[1:3, 1:5:2],
        "shared": values,
        "one": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "parameter": torch.nn.Parameter(values[0].clone()),
    }


def main() -> None:
    """Write a zip file, one of torch before 1.6, a state_dict, and what torch's tensors hold, for comparison."""
    FOLDER.mkdir(exist_ok=True)
    content = tensors()
    torch.save(content, FOLDER / "zip.bin")
    torch.save(content, FOLDER / "older.bin", _use_new_zipfile_serialization=False)
    torch.manual_seed(0)
    linear = torch.nn.Linear(3, 2)
    torch.save(linear.state_dict(), FOLDER / "linear.pt")
    held = {name: tensor.detach().to(torch.float64).numpy() for name, tensor in content.items()}
    np.savez_compressed(FOLDER / "held.npz", **held, **{f"linear.{k}": v.double().numpy() for k, v in linear.state_dict().items()})
    assert isinstance(linear.state_dict(), OrderedDict)


if __name__ == "__main__":
    main()
