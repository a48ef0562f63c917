"""Queues and the computing thread, with a model that waits until it is told to go on."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("prometheus_client")

from fastattn.serve.batching import Batcher, Closed, Full
from fastattn.serve.requests import Settings
from fastattn.text.batches import TokenRow
from tests.serve.gate import WAIT, until

PLAIN, OTHER = Settings(), Settings(normalize=False)


class Slow:
    """Model whose result is the first token id; it fails for the id 13."""

    def __init__(self, name: str = "slow") -> None:
        self.name, self.batches = name, list[tuple[list[int], Settings]]()
        self.go, self.begun = threading.Event(), threading.Semaphore(0)

    def compute(self, texts: Sequence[TokenRow], settings: Settings) -> list[Any]:
        self.batches.append(([int(text.ids[0]) for text in texts], settings))
        self.begun.release()
        assert self.go.wait(WAIT)
        if any(text.ids[0] == 13 for text in texts):
            raise ValueError("unlucky")
        return [int(text.ids[0]) for text in texts]

    def take(self) -> None:
        """Wait until a batch has begun."""
        assert self.begun.acquire(timeout=WAIT)


def texts(*ids: int, size: int = 1) -> list[TokenRow]:
    return [TokenRow(np.full(size, number, np.int32), None) for number in ids]


@pytest.fixture
def model() -> Iterator[Slow]:
    found = Slow()
    yield found
    found.go.set()


@pytest.fixture
def batcher(model: Slow) -> Iterator[Batcher]:
    found = Batcher([model], 6, 20)  # type: ignore[list-item]
    yield found
    model.go.set()
    found.close()


def test_what_waits_is_computed_together(model: Slow, batcher: Batcher) -> None:
    first = batcher.submit("slow", PLAIN, texts(1))
    model.take()
    others = [batcher.submit("slow", PLAIN, texts(i, i + 1)) for i in (10, 20)]
    model.go.set()
    assert first.result(WAIT) == [1] and [x.result(WAIT) for x in others] == [[10, 11], [20, 21]]
    assert [ids for ids, _ in model.batches] == [[1], [10, 20, 11, 21]]


def test_a_forward_has_the_budget_of_tokens(model: Slow, batcher: Batcher) -> None:
    first = batcher.submit("slow", PLAIN, texts(1))
    model.take()
    futures = [batcher.submit("slow", PLAIN, texts(i, size=size)) for i, size in ((2, 3), (3, 3), (4, 1), (5, 7), (6, 6))]
    model.go.set()
    assert [x.result(WAIT) for x in (first, *futures)] == [[1], [2], [3], [4], [5], [6]]
    # 5 has more tokens than a forward, and is one by itself.
    assert [ids for ids, _ in model.batches] == [[1], [2, 3], [4], [5], [6]]


def test_a_long_request_delays_no_short_one(model: Slow, batcher: Batcher) -> None:
    long = batcher.submit("slow", PLAIN, texts(*range(100, 120)))
    model.take()
    short = batcher.submit("slow", PLAIN, texts(7))
    model.go.set()
    assert short.result(WAIT) == [7] and long.result(WAIT) == list(range(100, 120))
    assert 7 in model.batches[1][0]


def test_texts_of_other_settings_go_into_another_forward(model: Slow, batcher: Batcher) -> None:
    first = batcher.submit("slow", PLAIN, texts(1))
    model.take()
    futures = [batcher.submit("slow", settings, texts(i)) for i, settings in ((2, PLAIN), (3, OTHER), (4, PLAIN), (5, OTHER))]
    model.go.set()
    assert [x.result(WAIT) for x in (first, *futures)] == [[1], [2], [3], [4], [5]]
    assert model.batches[1:] == [([2, 4], PLAIN), ([3, 5], OTHER)]


def test_past_the_bound_a_request_is_refused(model: Slow, batcher: Batcher) -> None:
    # A queue that is empty takes a request of any size.
    batcher.submit("slow", PLAIN, texts(1, size=50))
    model.take()
    batcher.submit("slow", PLAIN, texts(2, size=15))
    batcher.submit("slow", PLAIN, texts(3, size=5))
    assert batcher.tokens("slow") == 20
    with pytest.raises(Full) as refused:
        batcher.submit("slow", PLAIN, texts(4))
    assert 1 <= refused.value.seconds <= 60
    model.go.set()
    model.take()
    model.take()
    assert batcher.submit("slow", PLAIN, texts(5)).result(WAIT) == [5]


def test_retry_after_is_the_time_of_what_waits(model: Slow, batcher: Batcher) -> None:
    batcher.submit("slow", PLAIN, texts(1))
    model.take()
    batcher._speed = 4.0
    batcher.submit("slow", PLAIN, texts(2, size=18))
    with pytest.raises(Full) as refused:
        batcher.check("slow", 3)
    assert refused.value.seconds == 5


def test_cancelled_work_is_dropped(model: Slow, batcher: Batcher) -> None:
    first = batcher.submit("slow", PLAIN, texts(1))
    model.take()
    dropped = batcher.submit("slow", PLAIN, texts(2, 3, 4, size=5))
    kept = batcher.submit("slow", PLAIN, texts(5))
    assert batcher.tokens("slow") == 16
    assert dropped.cancel()
    assert batcher.tokens("slow") == 1
    model.go.set()
    assert first.result(WAIT) == [1] and kept.result(WAIT) == [5]
    assert [ids for ids, _ in model.batches] == [[1], [5]]


def test_cancelled_while_it_is_computed(model: Slow, batcher: Batcher) -> None:
    first = batcher.submit("slow", PLAIN, texts(1))
    model.take()
    assert first.cancel()
    model.go.set()
    assert batcher.submit("slow", PLAIN, texts(2)).result(WAIT) == [2]


def test_an_error_is_that_of_its_request_alone(model: Slow, batcher: Batcher) -> None:
    first = batcher.submit("slow", PLAIN, texts(1))
    model.take()
    futures = [batcher.submit("slow", PLAIN, texts(*ids)) for ids in ((2,), (13, 3), (4,))]
    model.go.set()
    assert [x.result(WAIT) for x in (first, futures[0], futures[2])] == [[1], [2], [4]]
    with pytest.raises(ValueError, match="unlucky"):
        futures[1].result(WAIT)
    assert batcher.is_alive and batcher.tokens("slow") == 0


def test_close_finishes_what_is_queued_and_takes_nothing_new(model: Slow) -> None:
    batcher = Batcher([model], 1, 100)  # type: ignore[list-item]
    futures = [batcher.submit("slow", PLAIN, texts(i)) for i in range(5)]
    closing = threading.Thread(target=batcher.close)
    closing.start()
    until(lambda: batcher._closed)
    with pytest.raises(Closed):
        batcher.submit("slow", PLAIN, texts(9))
    model.go.set()
    closing.join(WAIT)
    assert [x.result(0) for x in futures] == [[i] for i in range(5)] and not batcher.is_alive


def test_models_take_turns() -> None:
    models = [Slow("a"), Slow("b")]
    batcher = Batcher(models, 1, 100)  # type: ignore[arg-type]
    order: list[str] = []
    first = batcher.submit("a", PLAIN, texts(0))
    models[0].take()
    futures = [batcher.submit(name, PLAIN, texts(i)) for i, name in enumerate("aaabb", 1)]
    for future, name in zip(futures, "aaabb", strict=True):
        future.add_done_callback(lambda _, name=name: order.append(name))
    for model in models:
        model.go.set()
    assert first.result(WAIT) == [0] and all(x.result(WAIT) for x in futures)
    batcher.close()
    assert "".join(order) == "babaa"
