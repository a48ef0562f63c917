"""Token tables in low precision: rows of denormal numbers, and the memory that packing takes."""

import tracemalloc

import numpy as np

from fastattn import reference
from fastattn.kernels.products.pack import pack_table, table_rows


def test_levels_of_denormal_rows() -> None:
    step = 2.0**-149
    table = (np.array([[136, -136, 70, 0], [300, -1, 64, 2], [63, 1, 0, 0]]) * step).astype(np.float32)
    levels, scale = reference.quantize_table(table)
    assert abs(levels.astype(int)).max() == 127
    np.testing.assert_array_equal(table_rows(pack_table(table, "int8"), np.arange(3), 4), levels * scale[:, None])


def test_tables_are_packed_in_parts() -> None:
    table = np.random.default_rng(0).standard_normal((100_000, 16), np.float32)
    for precision in ("bfloat16", "int8"):
        tracemalloc.start()
        packed = pack_table(table, precision)
        beside = tracemalloc.get_traced_memory()[1] - packed.nbytes
        tracemalloc.stop()
        assert beside < table.nbytes / 2
