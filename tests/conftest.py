"""Without the JIT the kernels run as plain Python: cases marked `jit`, which are too slow for that, are deselected."""

import pytest

SUPPORT = ("cases", "contract", "golden_models", "models", "tolerance")
pytest.register_assert_rewrite(*(f"tests.support.{name}" for name in SUPPORT))

from tests.support.cases import JIT  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "jit: too much work for kernels in plain Python")
    config.addinivalue_line("markers", "integrations: libraries of the extra `integrations` with a model of ours")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if JIT:
        return
    left_out = [item for item in items if item.get_closest_marker("jit")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if not item.get_closest_marker("jit")]
    for item in items:
        # Without the JIT, arithmetic on infinities is NumPy's, which warns; compiled code does not.
        item.add_marker(pytest.mark.filterwarnings("ignore::RuntimeWarning"))
