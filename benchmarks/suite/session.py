"""Session of the suite: the workers, exports, gates and results of a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import ROOT
from benchmarks.suite.export import export_key
from benchmarks.suite.labels import duration, label, place, precision_of
from benchmarks.suite.library import Array
from benchmarks.suite.limits import flop_of_call
from benchmarks.suite.own import encoder_options
from benchmarks.suite.shapes import Model
from benchmarks.suite.turns import Contender, Measured, Timing, Worker, WorkerError, environment, in_turns, ratio
from tests.support.tolerance import assert_matches_reference, truth_and_yardsticks

ONNX_RUNTIME = ("onnxruntime-int8", "onnxruntime-plain-int8")
# Other libraries by precision.
ENCODERS = {
    "float32": ("onnxruntime", "openvino", "ctranslate2", "torch"),
    "bfloat16": ("openvino-bfloat16", "torch-bfloat16"),
    "int8": ("openvino-int8", *ONNX_RUNTIME, "ctranslate2-int8"),
}
# Largest error over the largest true value: float32 gives about 1e-6, bfloat16 1e-2.
PEER_LIMIT = 1e-4
EMBEDDING_LIMIT = 1e-5
# Cosine to float32 below which a result in lower precision is wrong, not coarse.
WRONG = 0.9
# Sequence lengths of the two small batches that a library must encode correctly before it is timed.
GATE_BATCHES = ((17, 9), (40, 5, 33))


class Session:
    """State shared by the rows of the suite; `cells` and `gates` are the result."""

    def __init__(self, threads: int, rounds: int, work: Path) -> None:
        self.threads, self.rounds, self.work = threads, rounds, work
        self.cells: list[dict[str, Any]] = []
        self.gates: list[dict[str, Any]] = []
        self.versions: dict[str, str] = {}
        self.facts: dict[str, dict[str, str]] = {}
        # Embeddings by our float32 of each model, and the fidelity of each model, precision and library.
        self.embeddings: dict[str, Array] = {}
        self.fidelity: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
        self._workers: dict[str, Worker] = {}
        self._exports: dict[str, Path] = {}

    def worker(self, library: str) -> Worker:
        """Return the worker of a library, started on first use and again after it has died."""
        if library not in self._workers or self._workers[library].ended:
            self._workers[library] = self.fresh_worker(library)
        return self._workers[library]

    def fresh_worker(self, library: str, threads: int | None = None, **changes: str) -> Worker:
        """Start another worker of a library; the caller closes it."""
        return Worker(library, threads or self.threads, self.work / f"{library}.log", **changes)

    def close(self, precision: str | None = None) -> None:
        """Ask every worker, or those of a precision, for its facts, and close it."""
        for name in [name for name in self._workers if precision in (None, precision_of(name))]:
            worker = self._workers.pop(name)
            try:
                self.facts[name] = worker.ask("facts")["facts"]
                self.versions |= worker.versions or {}
            except WorkerError as error:
                self.facts[name] = {"failed": str(error)}
            worker.close()

    def exports(self, model: Model) -> Path:
        """Return the folder of a model's exports, made on first use."""
        if model.name in self._exports:
            return self._exports[model.name]
        folder = self._exports[model.name] = self.work / "exports" / export_key() / model.name
        with (self.work / "export.log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-m", "benchmarks.suite.export", model.name, str(folder)],
                cwd=ROOT, env=environment(), check=True, stdout=log, stderr=log,
            )  # fmt: skip
        return folder

    def result(self, library: str, work: str, arrays: Mapping[str, Array] | None = None, **options: str) -> Array:
        """Return what a library makes of the inputs, untimed."""
        inputs, out, worker = self.work / "inputs.npz", self.work / "result.npy", self.worker(library)
        if arrays is not None:
            np.savez(inputs, **dict(arrays))
        worker.ask("prepare", key="one", work=work, arrays=None if arrays is None else str(inputs), options=options)
        worker.ask("check", key="one", out=str(out))
        worker.ask("clear")
        result: Array = np.load(out)
        return result

    def measure(
        self,
        row: str,
        case: str,
        contenders: list[Contender],
        arrays: Mapping[str, Array] | None = None,
        rounds: int | None = None,
        **facts: Any,
    ) -> tuple[dict[str, Any], dict[str, Timing]]:
        """Time a cell and record it; the caller adds its goals."""
        measured: Measured = in_turns(contenders, arrays, rounds or self.rounds)
        times = {name: {"median": t.median, "low": t.low, "high": t.high, "calls": t.calls} for name, t in measured.timings.items()}
        cell = {"row": row, "case": case, "times": times, "failures": measured.failures, "goals": [], **facts}
        products = [one.options["precision"] for one in contenders if one.work == "products"]
        if products and "machine" in times:
            name = "fma_limit" if products == ["float32"] else f"{products[0]}_limit"
            cell[name] = flop_of_call(products[0], self.threads) / times["machine"]["median"]
            cell["cores_got"] = measured.timings["machine"].cores / self.threads
        self.cells.append(cell)
        shown = ", ".join(f"{label(name)} {duration(t, quartiles=False)}" for name, t in times.items() if name != "machine")
        sys.stderr.write(f"{row}, {place(cell)}: {shown}\n")
        for name, reason in measured.failures.items():
            sys.stderr.write(f"  {name} failed: {reason}\n")
        return cell, measured.timings

    def machine(self, precision: str = "float32") -> Contender:
        """Return the contender that multiplies in a precision on all cores, for the limit in the same rounds."""
        return Contender("machine", self.worker("machine"), "products", None, {"precision": precision})


def faster(
    cell: dict[str, Any],
    times: Mapping[str, Timing],
    goal: float | None,
    others: tuple[str, ...],
    ours: str = "fastattn",
    note: str = "",
) -> None:
    """Record our speed over that of the best other contender that passed its gate; if ours is too coarse, it does not count."""
    present = [name for name in others if name in times]
    if ours not in times or not present:
        missing = ours if ours not in times else "every one of " + ", ".join(others)
        record(cell, f"{ours} against {' / '.join(others)}", "x", None, goal, note=f"failed: {missing}")
        return
    best = min(present, key=lambda name: times[name].median)
    note = note or ("" if ours.partition("-")[0] == "fastattn" else ours)
    record(cell, best, "x", ratio(times[best], times[ours]), goal, note=note, counted=is_counted(cell, ours))


def is_counted(cell: dict[str, Any], ours: str) -> bool:
    """Tell whether our speed counts: not if the fidelity beside it is below the least of the precision."""
    return not cell["times"].get(ours, {}).get("coarse", False)


def share_of_limit(
    cell: dict[str, Any], times: Mapping[str, Timing], goal: float | None, flop: int, threads: int, ours: str = "fastattn"
) -> None:
    """Record our share of the limit of our precision, on which the FMAs of float32 are the products."""
    if ours in times and "machine" in times:
        precision = precision_of(ours)
        low = flop_of_call(precision, threads) / flop
        value, first, last = ratio(times["machine"], times[ours])
        against = "FMA limit" if precision == "float32" else f"{precision} limit"
        record(cell, against, "share", (value / low, first / low, last / low), goal)


def record(
    cell: dict[str, Any],
    against: str,
    unit: str,
    value: tuple[float, float, float] | None,
    goal: float | None,
    *,
    at_most: bool = False,
    note: str = "",
    counted: bool = True,
) -> None:
    """Add a comparison to a cell: median and quartiles, and whether the goal is met (None without a goal)."""
    met = None
    if goal is not None:
        met = counted and value is not None and (value[0] <= goal if at_most else value[0] >= goal)
    cell["goals"].append(
        {
            "against": against,
            "unit": unit,
            "value": value and value[0],
            "low": value and value[1],
            "high": value and value[2],
            "goal": goal,
            "at_most": at_most,
            "met": met,
            "note": note,
            "counted": counted,
        }
    )


def within(limit: float, truth: NDArray[np.float64], select: Callable[[Array], Array]) -> Callable[[Array], None]:
    """Return a gate: the selected part must be finite, with errors of at most `limit` times the largest true value."""

    def gate(result: Array) -> None:
        error = relative_error(select(result), truth)
        if not error <= limit:
            raise AssertionError(f"error {error:.2g} of the largest value; the limit is {limit:.0e}")

    return gate


def near(truth: NDArray[np.float64], select: Callable[[Array], Array]) -> Callable[[Array], None]:
    """Return the gate of a lower precision: the mean of the selected rows must point where that of the true rows does."""
    expected = truth.mean(axis=0)

    def gate(result: Array) -> None:
        found = select(result).mean(axis=0)
        cosine = float(found @ expected / np.linalg.norm(found) / np.linalg.norm(expected))
        if not cosine >= WRONG:
            raise AssertionError(f"cosine {cosine:.3g} to float32; the limit is {WRONG}")

    return gate


def relative_error(part: Array, truth: NDArray[np.float64]) -> float:
    """Return the largest error over the largest true value; infinite for a wrong shape or a value that is not finite."""
    if part.shape != truth.shape or part.dtype != np.float32 or not np.isfinite(part).all():
        return float("inf")
    return float(np.abs(part - truth).max() / np.abs(truth).max())


def derived(
    twin: Callable[..., Array], args: tuple[Any, ...], options: dict[str, Any], select: Callable[[Array], Array], *, contracts: bool
) -> tuple[NDArray[np.float64], Callable[[Array], None]]:
    """Return the truth, and the gate with the tolerance of the tests."""
    truth, yardsticks = truth_and_yardsticks(twin, args, options, contracts=contracts)
    return truth, lambda result: assert_matches_reference(select(result), truth, *yardsticks)


class EncoderGate:
    """Reference encoder of a checkpoint, in float64 for the truth and in float32 for the yardstick."""

    def __init__(self, folder: Path) -> None:
        from fastattn.checkpoint.reader import read_encoder

        config, parameters = read_encoder(folder / "checkpoint")
        self.options = encoder_options(config)
        self.parameters = parameters
        self.vocabulary = int(config.vocab_size or 0)
        self.exact = {name: array.astype(np.float64) for name, array in parameters.items()}

    def hidden(self, ids: Array, mask: Array, dtype: type = np.float64, types: Array | None = None) -> Array:
        """Return the reference's hidden states (B, T, C)."""
        from fastattn import reference

        parameters = self.exact if dtype is np.float64 else self.parameters
        return reference.encoder(parameters, ids, mask, token_type_ids=types, **self.options)

    def batch(self, lengths: tuple[int, ...], seed: int = 0) -> dict[str, Array]:
        """Return a padded batch of random ids without special tokens."""
        rng = np.random.default_rng([seed, *lengths])
        mask = (np.arange(max(lengths)) < np.array(lengths)[:, None]).astype(np.int64)
        return {"ids": rng.integers(1000, self.vocabulary, mask.shape) * mask, "mask": mask}

    def first_sequence(self, arrays: dict[str, Array]) -> dict[str, Callable[[Array], None]]:
        """Return the gates of a timed batch without padding, by precision, which check its first sequence."""
        ids = arrays["ids"][:1]
        truth = self.hidden(ids, np.ones_like(ids))[0]

        # Shapes: (B, T, C) from the peers, (N, C) from fastattn.
        def first(result: Array) -> Array:
            return result.reshape(-1, truth.shape[1])[: len(truth)]

        return {"float32": within(PEER_LIMIT, truth, first), "bfloat16": near(truth, first), "int8": near(truth, first)}

    def admit(self, session: Session, model: Model, folder: Path, libraries: tuple[str, ...]) -> tuple[str, ...]:
        """Check the small batches of every library and record the gates; return the libraries that pass."""
        admitted = []
        for library in libraries:
            worst, reason = 0.0, ""
            try:
                for lengths in GATE_BATCHES:
                    arrays = self.batch(lengths)
                    truth, real = self.hidden(**arrays), arrays["mask"].astype(bool)
                    result = session.result(library, "forward", arrays, folder=str(folder))
                    part = result[real] if result.ndim == 3 else result
                    worst = max(worst, relative_error(part, truth[real]))
                    if library == "fastattn":
                        assert_matches_reference(part, truth[real], self.hidden(**arrays, dtype=np.float32)[real])
                if not worst <= PEER_LIMIT:
                    reason = f"error {worst:.2g}"
            except (WorkerError, AssertionError) as error:
                reason = str(error)
            session.gates.append({"library": library, "model": model.name, "error": worst, "limit": PEER_LIMIT, "reason": reason})
            sys.stderr.write(f"gate {model.name} {library}: {reason or f'passed, error {worst:.1e}'}\n")
            if not reason:
                admitted.append(library)
        return tuple(admitted)
