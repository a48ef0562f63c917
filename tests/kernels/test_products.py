"""Products in bfloat16 and int8 against their definitions: int8 bit for bit."""

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import reference
from fastattn.encoder.packed_linear import PackedLinear
from fastattn.kernels.ops.linear import ROW_BLOCK
from fastattn.kernels.products import kinds
from fastattn.kernels.products.kinds import KINDS, VARIABLE, chosen
from fastattn.kernels.products.pack import pack_table, quantize_weight, table_rows
from fastattn.kernels.products.tile import WIDTH
from fastattn.kernels.vector.target import TILE_ROWS
from tests.support.precision import assert_within, bfloat16_product

ROOT = Path(__file__).parents[2]
ROWS = (1, 2, TILE_ROWS - 1, TILE_ROWS, TILE_ROWS + 1)
DEPTHS = (1, 2, 3, 5, 31, 64, 65, 255, 256, 257, 511, 512, 513, 1537)
OUTPUTS = (1, 7, WIDTH - 1, WIDTH, WIDTH + 1, 3 * WIDTH + 5)


def operands(m: int, k: int, n: int) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng((m, k, n))
    x = (rng.standard_normal((m, k)) + rng.standard_normal((m, 1))).astype(np.float32)
    return x, rng.standard_normal((n, k)).astype(np.float32), rng.standard_normal(n).astype(np.float32)


def shapes() -> list[tuple[int, int, int]]:
    return [(m, 65, 2 * WIDTH + 3) for m in ROWS] + [(3, k, 5) for k in DEPTHS] + [(2, 513, n) for n in OUTPUTS]


@pytest.mark.parametrize("shape", shapes(), ids=str)
def test_int8_is_the_reference_bit_for_bit(shape: tuple[int, int, int]) -> None:
    x, weight, bias = operands(*shape)
    for b in (bias, None):
        found = PackedLinear(weight, b, precision="int8")(x)
        assert found.tobytes() == reference.linear_int8(x, weight, b).tobytes()


@pytest.mark.parametrize("shape", shapes(), ids=str)
def test_bfloat16_is_within_its_bound(shape: tuple[int, int, int]) -> None:
    x, weight, bias = operands(*shape)
    for b in (bias, None):
        assert_within(PackedLinear(weight, b, precision="bfloat16")(x), bfloat16_product(x, weight, b))


@pytest.mark.parametrize("k", [1, 5, 512, 700])
def test_quantised_weights_are_the_reference(k: int) -> None:
    weight = operands(1, k, 9)[1]
    weight[3] = 0
    smooth = np.random.default_rng(k).uniform(0.1, 9, k).astype(np.float32)
    for factors in (None, smooth):
        levels, scales, sums = quantize_weight(weight, factors)
        expected = reference.quantize_weight(weight, factors)
        for ours, theirs in zip((levels, scales.T, sums.T), expected, strict=True):
            assert np.array_equal(ours, theirs)


def test_quantised_tables_are_the_reference() -> None:
    table = operands(1, 6, 9)[1]
    table[3] = 0
    table[5], table[7] = np.float32(190 * 2.0**-149), -np.float32(2.0**-149)
    levels, scale = reference.quantize_table(table)
    assert np.array_equal(table_rows(pack_table(table, "int8"), np.arange(9), 6), scale[:, None] * levels.astype(np.float32))


def test_rows_of_zeros_huge_numbers_and_denormals() -> None:
    weight, bias = operands(1, 600, 20)[1:]
    x = np.zeros((6, 600), np.float32)
    x[1, 7], x[2], x[3, 599] = 3e38, 1e-42, -3e38
    x[4], x[5, ::2] = np.float32(2.0**-130), 5
    found = PackedLinear(weight, bias, precision="int8")(x)
    assert found.tobytes() == reference.linear_int8(x, weight, bias).tobytes()
    assert (found[0] == bias).all()
    assert np.isfinite(found[[0, 2, 4, 5]]).all()
    assert_within(
        PackedLinear(weight, bias, precision="bfloat16")(x)[[0, 2, 4, 5]], bfloat16_product(x[[0, 2, 4, 5]], weight, bias)
    )


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_not_a_number_stays_in_its_row(precision: Any, value: float) -> None:
    x, weight, bias = operands(9, 600, 20)
    layer = PackedLinear(weight, bias, precision=precision)
    clean = layer(x)
    x[4, 3] = value
    found = layer(x)
    others = np.arange(9) != 4
    assert found[others].tobytes() == clean[others].tobytes()
    assert not np.isfinite(found[4]).any()
    if precision == "int8":
        assert np.isnan(found[4]).all()


@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_bits_of_a_row_do_not_depend_on_the_others(precision: Any) -> None:
    x, weight, bias = operands(2 * ROW_BLOCK + 5, 300, 40)
    layer = PackedLinear(weight, bias, "gelu", precision)
    whole = layer(x)
    for start, stop in itertools.pairwise((0, 1, 3, 20, 2 * ROW_BLOCK, len(x))):
        assert layer(x[start:stop]).tobytes() == whole[start:stop].tobytes()


def test_a_kind_is_chosen_by_name_or_refused() -> None:
    assert chosen("int8", "int8=sdot,bfloat16=dot").name == "sdot"
    assert chosen("bfloat16", "int8=sdot, bfloat16=dot").name == "dot"
    assert kinds.is_native(chosen("int8", "")), "without a request, a kind that the CPU has"
    with pytest.raises(ValueError, match=f"{VARIABLE}: int8 has the kinds amx, vnni, .*, got 'dot'"):
        chosen("int8", "int8=dot")
    with pytest.raises(ValueError, match=f"{VARIABLE} must be like \"int8=i16,bfloat16=widen\", got 'vnni'"):
        chosen("int8", "vnni")


@pytest.mark.jit
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.precision}-{kind.name}")
@pytest.mark.skipif(VARIABLE in os.environ, reason="this is that run")
def test_every_kind_computes_the_same(kind: kinds.Kind, tmp_path: Path) -> None:
    """Kinds that the CPU lacks are computed by portable code: layouts, loops and edges are those of the kind."""
    environment = {**os.environ, VARIABLE: f"{kind.precision}={kind.name}", "NUMBA_CACHE_DIR": str(tmp_path)}
    files, chosen_tests = [__file__], f"({kind.precision} and (test_products.py or within or packs))"
    if kind.precision == "bfloat16":
        files += ["tests/backward/test_products_bfloat16.py", "tests/encoder/test_attend.py"]
        chosen_tests += " or test_head_sizes or test_lengths"
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files, "-k", chosen_tests]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert run.returncode == 0, run.stdout[-3000:] + run.stderr[-1000:]
