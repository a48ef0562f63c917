"""Marks and selections of all tests.

Without the JIT the kernels run as plain Python: cases marked `jit`, which are too slow for that, are deselected.
"""

import os
import re
import sys
from collections.abc import Generator, Iterator

import pytest

SUPPORT = ("cases", "contract", "golden_models", "models", "tolerance")
pytest.register_assert_rewrite(*(f"tests.support.{name}" for name in SUPPORT))

from tests.support.cases import JIT  # noqa: E402
from tests.support.peers import needs_peers, peers  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "jit: too much work for kernels in plain Python")
    config.addinivalue_line("markers", "peers: needs a library of the extras `peers` or `integrations`; set by what a test imports")


# First, so that `-m peers` finds the marks.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and needs_peers(item.path, item.originalname, item.fixturenames):
            item.add_marker(pytest.mark.peers)
    if JIT:
        return
    left_out = [item for item in items if item.get_closest_marker("jit")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("jit")]
    for item in items:
        # Without the JIT, arithmetic on infinities is NumPy's, which warns; compiled code does not.
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))


@pytest.fixture(autouse=True)
def _threads_of_torch() -> Iterator[None]:
    """Undo what a library under test sets: two processes with two threads of torch each would wait for each other, spinning."""
    yield
    torch, threads = sys.modules.get("torch"), os.environ.get("OMP_NUM_THREADS", "")
    if torch is not None and threads.isdigit() and torch.get_num_threads() != int(threads):
        torch.set_num_threads(int(threads))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Fail a test that is skipped for want of a peer and lacks the mark: `make test-peers` would leave it out too."""
    report = yield
    absent = re.search(r"could not import '(\w+)", str(report.longrepr)) if report.skipped else None
    if absent and absent[1] in peers() and not item.get_closest_marker("peers"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs {absent[1]}: tests/support/peers.py finds no importorskip of it"
    return report
