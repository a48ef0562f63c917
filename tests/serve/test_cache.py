"""Cache of answers."""

import threading

import numpy as np
import pytest

pytest.importorskip("prometheus_client")

from fastattn.serve.cache import _ENTRY, Cache, keys_of
from fastattn.serve.requests import Answer, Input, Settings

SIZE = _ENTRY + 4


def answer(value: float = 0.0) -> Answer:
    return Answer(np.float32(value), 1)


def test_each_difference_gives_another_key() -> None:
    inputs: list[Input] = ["ab", "a", "", "1", [1], [1, 0], ("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), "abstr c"]
    settings = [Settings(), *(Settings(**{name: value}) for name, value in {  # type: ignore[arg-type]
        "prompt": "a", "truncate": False, "width": 1, "normalize": False, "activation": "Identity", "task": "query",
    }.items())]  # fmt: skip
    keys = [key for model in ("m", "n") for given in settings for key in keys_of(model, given, inputs)]
    assert len(set(keys)) == len(keys) == 2 * 7 * 11
    assert list(keys_of("m", Settings(), ["a"])) == list(keys_of("m", Settings(), ["a"]))


def test_the_least_recently_used_goes_first() -> None:
    cache = Cache(3 * SIZE)
    for key in (b"1", b"2", b"3"):
        cache.put(key, answer(float(key)))
    assert cache.get(b"1") == answer(1)
    cache.put(b"4", answer(4))
    assert [cache.get(key) is None for key in (b"1", b"2", b"3", b"4")] == [False, True, False, False]
    assert cache.bytes == 3 * SIZE and len(cache) == 3


def test_bytes_are_bounded() -> None:
    cache = Cache(10_000)
    rng = np.random.default_rng(0)
    for i in range(500):
        row = np.zeros(int(rng.integers(1, 1000)), np.float32)
        cache.put(str(i).encode(), Answer((row, row) if i % 2 else row, 1))
        assert cache.bytes <= 10_000
    assert len(cache) > 1
    cache.put(b"large", Answer(np.zeros(10_000, np.float32), 1))
    assert cache.get(b"large") is None and len(cache) > 1


def test_twice_the_same_key_counts_once() -> None:
    cache = Cache(3 * SIZE)
    for _ in range(5):
        cache.put(b"1", answer())
    assert cache.bytes == SIZE


def test_without_bytes_it_keeps_nothing() -> None:
    cache = Cache(0)
    cache.put(b"1", answer())
    assert cache.get(b"1") is None and cache.bytes == 0


def test_many_threads() -> None:
    cache = Cache(20 * SIZE)

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        for number in rng.integers(0, 50, 500):
            found = cache.get(key := str(number).encode())
            assert found is None or found.value == number
            cache.put(key, answer(float(number)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.bytes == SIZE * len(cache) <= 20 * SIZE
