"""Forward of a transformers model after fastattn.accelerate, against the original model."""

from __future__ import annotations

from benchmarks.suite.session import EncoderGate, Session, faster
from benchmarks.suite.shapes import Model
from benchmarks.suite.turns import Contender

OURS, OTHERS = "accelerated", ("torch", "torch-eager")
# Shape with a goal; the other shapes are shown without.
GOAL_SHAPE, GOAL = (32, 128), 2.0


def accelerate(session: Session, model: Model, shapes: tuple[tuple[int, int], ...]) -> None:
    """Time a forward at each shape, from tensors of ids and mask to the model's output; no padding."""
    folder = session.exports(model)
    gate = EncoderGate(folder)
    admitted = gate.admit(session, model, folder, (OURS, *OTHERS))
    for batch, tokens in shapes:
        arrays = gate.batch((tokens,) * batch)
        check = gate.first_sequence(arrays)["float32"]
        contenders = [Contender(name, session.worker(name), "forward", check, {"folder": str(folder)}) for name in admitted]
        cell, times = session.measure(
            "accelerate", f"({batch}, {tokens})", contenders, arrays, model=model.name, tokens=batch * tokens
        )
        faster(cell, times, GOAL if (batch, tokens) == GOAL_SHAPE else None, OTHERS, OURS)
