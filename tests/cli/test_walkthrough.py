"""`fastattn walkthrough`: every step, its errors against the reference, and its options."""

import re

import numpy as np
import pytest

from tests.support.command_line import run

pytestmark = pytest.mark.jit


@pytest.mark.parametrize("text", ["hello world", "a", "aaaa", "a line\nof two", "naïve 漢字 🎉", "x " * 60])
def test_walkthrough(text: str) -> None:
    result = run("walkthrough", text)
    titles = ["Text to tokens", "Embeddings", "Positions", "Self-attention", "Add and layer norm"]
    titles += ["Feed-forward network", "The encoder", "Pooling", "Dropout", "Bidirectional and causal"]
    assert re.findall(r"^(\d+)  (.*)$", result.stdout, re.M) == [(str(i), title) for i, title in enumerate(titles, 1)]
    errors = [float(error) for error in re.findall(r"against the reference ([\d.]+) eps", result.stdout)]
    assert len(errors) >= 9
    assert len(re.findall(r"^   Why: ", result.stdout, re.M)) == len(titles)
    assert max(errors) < 30
    assert "\x1b" not in result.stdout
    assert "same bits" in result.stdout
    from rich.cells import cell_len

    assert max(map(cell_len, result.stdout.splitlines())) <= 80


def test_walkthrough_keeps_the_order_of_the_characters() -> None:
    out = run("walkthrough", "banana").stdout
    assert "0:a  1:b  2:n" in out
    assert "b:1  a:0  n:2  a:0  n:2  a:0" in out
    assert "ids (6,) int32: the text has T = 6 tokens of V = 3 kinds" in out
    assert "bidirectional: another last character changes 6 of 6 hidden states" in out
    assert "causal: another last character changes 1 of 6 hidden states" in out


def test_walkthrough_options() -> None:
    out = run("walkthrough", "abc", *"--dim 8 --heads 2 --ff 16 --layers 1 --dropout 0".split()).stdout
    assert "table (3, 8)" in out
    assert "H = 2 heads of D = C/H = 4 channels" in out
    assert "(3, 16)" in out
    assert "on average training is 0.000 away from inference" in out


def test_the_seed_is_that_of_the_weights() -> None:
    outs = [run("walkthrough", "abc", "--layers", "1", *option).stdout for option in ([], ["--seed", "0"], ["--seed", "1"])]
    assert outs[0] == outs[1] != outs[2]
    assert "random here (seed 1)" in outs[2]


def test_walkthrough_works_out_a_row_of_softmax() -> None:
    out = run("walkthrough", "abc").stdout
    scores, powers, weights = (
        np.array(re.search(rf"^   {label} +(.*)$", out, re.M).group(1).split(), float)  # type: ignore[union-attr]
        for label in ("score", re.escape("e^(s - max)"), "weight")
    )
    np.testing.assert_allclose(powers, np.exp(scores - scores.max()), atol=2e-3)
    np.testing.assert_allclose(weights, powers / powers.sum(), atol=2e-3)
    assert f"{powers[0]:.3f} + {powers[1]:.3f} + {powers[2]:.3f} = " in out
    # A variable keeps its letter.
    assert "\n   z = x + attention(x)" in out
