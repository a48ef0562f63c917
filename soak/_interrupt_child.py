"""Signals during calls: ``encode WHAT DELAY``, ``first DELAY``, ``beside DELAY``, ``handler``, ``compiling DELAY [all]``;
and a process that writes kernels to the cache: ``write COUNT``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np


def interrupted(call: Callable[[], object], delay: float, again: float | None = None) -> tuple[str, float]:
    """Send SIGINT to this process `delay` seconds into the call; return the outcome and the seconds from signal to end."""
    sent: list[float] = []

    def send() -> None:
        sent.append(time.perf_counter())
        os.kill(os.getpid(), signal.SIGINT)

    timers = [threading.Timer(pause, send) for pause in (delay, again) if pause is not None]
    for timer in timers:
        timer.start()
    outcome = "finished before"
    try:
        try:
            call()
        finally:
            ended = time.perf_counter()
            for timer in timers:
                timer.cancel()
                timer.join()
        outcome = "finished" if sent else outcome
    except KeyboardInterrupt:
        outcome = "KeyboardInterrupt"
    return outcome, ended - sent[0] if sent else 0.0


def encode(what: str, delay: float) -> dict[str, Any]:
    """Interrupt a call of some ten seconds twice, then compare the bits of a short probe with those from before."""
    from numba import threading_layer

    from fastattn import Encoder, EncoderConfig, SentenceTransformer
    from fastattn.text import pipeline
    from soak._work import TEXTS

    call: Callable[[], object]
    tokenised = 0
    if what in ("texts", "tokens"):
        model = SentenceTransformer(local_files_only=True)
        tokenize = pipeline.tokenize

        def counted(tokenizer: Any, inputs: Any, *rest: Any) -> Any:
            nonlocal tokenised
            found = tokenize(tokenizer, inputs, *rest)
            tokenised += len(inputs)
            return found

        pipeline.tokenize = counted
        # Long texts; for "tokens", texts without spaces, which are tokenised whole although nearly all tokens are cut off.
        inputs = [TEXTS[4] * 2] * 4000 if what == "texts" else ["a,word,or,two," * 3_000] * 2000

        def call() -> object:
            return model.encode(inputs)

        def probe() -> bytes:
            return bytes(model.encode(TEXTS).tobytes())
    else:
        batch, tokens = {"batch": (400, 128), "long": (2, 8000), "one": (1, 16_000), "watched": (16, 256)}[what]
        config = EncoderConfig(12, 12, 768, 3072, vocab_size=1000, positions="rotary")
        encoder = Encoder(config)
        ids = np.random.default_rng(0).integers(0, 1000, (batch, tokens))

        def call() -> object:
            for _ in range(20 if what == "watched" else 1):
                encoder(ids, return_hidden_states=what == "watched")
            return None

        def probe() -> bytes:
            return bytes(encoder(ids[:1, :100]).tobytes() + encoder(ids[:1, :100].repeat(9, 0)).tobytes())

    before = probe()
    # `probe` compiles every kernel before the interruption: the compiler is interrupted by other means.
    outcomes, late, after = [], 0.0, 0
    for again in (None, delay + 0.01):
        outcome, seconds = interrupted(call, delay, again)
        before_it = tokenised
        # The tokenising thread finishes its current group of texts after the interruption.
        while tokenised and threading.active_count() > 1:
            time.sleep(0.01)
        outcomes.append(outcome)
        late, after = max(late, seconds), max(after, tokenised - before_it)
    return {
        "layer": threading_layer(),
        "outcomes": outcomes,
        "late": late,
        "tokenised after it": after,
        "same": probe() == before,
        "threads": threading.active_count(),
    }


def large(batch: int) -> tuple[Callable[[], Any], Callable[[], bytes]]:
    """Return a call that takes seconds, and a short probe of the same encoder."""
    from fastattn import Encoder, EncoderConfig

    encoder = Encoder(EncoderConfig(6, 12, 384, 1536, vocab_size=1000, positions="sinusoidal"))
    ids = np.random.default_rng(0).integers(0, 1000, (batch, 128))
    return lambda: encoder(ids), lambda: bytes(encoder(ids[:20]).tobytes())


def first(delay: float) -> dict[str, Any]:
    """Interrupt the first call of the process, which reads the kernels from disk and then computes for seconds."""
    call, probe = large(1000)
    outcome, late = interrupted(call, delay)
    return {"outcomes": [outcome], "late": late, "same": probe() == probe()}


def beside(delay: float) -> dict[str, Any]:
    """Interrupt calls while other threads make the same calls."""
    call, probe = large(60)
    before, stop = probe(), threading.Event()

    def busy() -> None:
        while not stop.is_set():
            call()

    threads = [threading.Thread(target=busy) for _ in range(5)]
    for thread in threads:
        thread.start()
    outcome, late = interrupted(lambda: [call() for _ in range(100)], delay)
    stop.set()
    for thread in threads:
        thread.join()
    return {"outcomes": [outcome], "late": late, "same": probe() == before}


def handler() -> dict[str, Any]:
    """Re-entrant calls: a signal handler calls an encoder during a call of that encoder."""
    call, probe = large(200)
    expected, small, inside = bytes(call().tobytes()), probe(), []
    signal.signal(signal.SIGUSR1, lambda *_: inside.append(probe() == small))
    same = True
    for delay in (0.05, 0.15):
        timer = threading.Timer(delay, os.kill, [os.getpid(), signal.SIGUSR1])
        timer.start()
        same = call().tobytes() == expected and same
        timer.join()
    return {"same": same, "inside": inside}


def compiling(delay: float, everything: bool) -> dict[str, Any]:
    """Interrupt the first compilation; afterwards the process must compile and compute correctly."""
    import fastattn
    from soak._work import encoder_calls, op_calls

    calls = {**encoder_calls(), **op_calls()} if everything else op_calls()
    names = tuple(calls) if everything else ("gelu", "softmax", "rotary_embedding")
    outcome, late = interrupted(lambda: [calls[name]() for name in names], delay)
    found = {name: calls[name]() for name in names}
    x = np.random.default_rng(0).standard_normal((5, 7), np.float32)
    good = np.allclose(fastattn.softmax(x), fastattn.reference.softmax(x), atol=1e-6)
    good = good and all(np.array_equal(calls[name](), array) for name, array in found.items())
    return {"outcomes": [outcome], "late": late, "same": bool(good)}


def kernels(count: int) -> list[Callable[[int], int]]:
    """Return one-line kernels, so that most of the time goes to writing their files."""
    from fastattn.kernels.compile.jit import compile_cached

    made = []
    for i in range(count):
        space: dict[str, Any] = {"__name__": __name__}
        exec(f"def kernel_{i}(x):\n    return x * {i} + {i + 1}", space)
        made.append(compile_cached(space[f"kernel_{i}"]))
    return made


def write(count: int) -> dict[str, Any]:
    """Compile kernels for two types each, or read them from disk, and check their results."""
    wrong, said = [], []
    hits = 0
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for i, kernel in enumerate(kernels(count)):
            if kernel(3) != 3 * i + i + 1 or kernel(1.5) != 1.5 * i + i + 1:
                wrong.append(i)
            hits += sum(kernel.stats.cache_hits.values())
            print(i, flush=True)
    said = [f"{w.category.__name__}: {w.message}" for w in caught]
    return {"wrong": wrong, "said": said, "hits": hits}


def main(what: str, *arguments: str) -> dict[str, Any]:
    if what == "encode":
        return encode(arguments[0], float(arguments[1]))
    if what == "compiling":
        return compiling(float(arguments[0]), "all" in arguments)
    if what == "handler":
        return handler()
    if what in ("first", "beside"):
        return (first if what == "first" else beside)(float(arguments[0]))
    return write(int(arguments[0]))


if __name__ == "__main__":
    # A shell starts background processes with SIGINT ignored: restore Python's handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    print(json.dumps(main(*sys.argv[1:])))
