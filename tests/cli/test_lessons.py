"""`fastattn walkthrough --chapter`: the numbers that are shown are right, models learn, and a seed gives the same output."""

import itertools
import math
import re
from collections import Counter

import numpy as np
import pytest
from rich.cells import cell_len

from fastattn import cross_entropy_backward
from fastattn.cli.lessons import optimizers, positions
from fastattn.cli.lessons.autoencoder import Autoencoder
from fastattn.cli.lessons.learner import Learner, characters, packed
from tests.support.command_line import run

pytestmark = pytest.mark.jit

TEXT = "hello world, how are you?"
NAMES = ("cross-entropy", "optimizers", "prediction", "autoencoder", "positions")
TITLES = ["Cross-entropy", "Optimisers", "Autoregressive and bidirectional", "Encoder and decoder", "Positions on and off"]


def chapter(name: str, text: str = TEXT, *options: str) -> str:
    return run("walkthrough", text, "--chapter", name, *options).stdout


def number(pattern: str, said: str) -> float:
    found = re.search(pattern.replace("#", r"(-?\d+(?:\.\d+)?(?:e-\d+)?)"), " ".join(said.split()))
    assert found is not None, pattern
    return float(found.group(1))


def plain(out: str) -> None:
    """Lines fit a terminal of 80 columns, and nothing is coloured where there is none."""
    assert max(map(cell_len, out.splitlines())) <= 80
    assert "\x1b" not in out


class TestCrossEntropy:
    @pytest.mark.parametrize("text", ["hello world", "ab", "naïve 漢字 🎉\n", "the quick brown fox jumps over the lazy dog"])
    def test_the_table_is_right(self, text: str) -> None:
        out = chapter("cross-entropy", text)
        plain(out)
        rows = re.findall(r"^   \S{1,2} +(-?\d+\.\d{3}) +(\d\.\d{3}) +(\d\.\d{3}) +([01]) +(-?\d\.\d{3})  ([+-]+)$", out, re.M)
        score, power, p, y, gradient = np.array([row[:5] for row in rows], float).T
        np.testing.assert_allclose(power, np.exp(score - score.max()), atol=2e-3)
        np.testing.assert_allclose(gradient, p - y, atol=1.1e-3)
        assert y.sum() == 1
        kinds = len(set(text))
        assert len(rows) == min(kinds, 14)
        if kinds <= 14:
            np.testing.assert_allclose(p, power / power.sum(), atol=2e-3)
            assert abs(gradient.sum()) < 0.01
        assert all(row[5][0] == ("-" if row[3] == "1" else "+") for row in rows)
        loss = number(r"loss = -log [\d.]+ = #", out)
        assert loss == pytest.approx(-math.log(p[y == 1][0]), abs=1e-4 + 6e-4 / p[y == 1][0])
        assert number("the loss falls from [0-9.]+ to #", out) < loss
        assert number("per unit; p - y says #", out) == number("by # per unit", out)

    def test_the_whole_text_is_that_of_the_kernels(self) -> None:
        out = chapter("cross-entropy")
        errors = [float(error) for error in re.findall(r"against the reference ([\d.]+) eps", out)]
        assert len(errors) == 2 and max(errors) < 4
        assert number("costs log V = #", out) == pytest.approx(math.log(len(set(TEXT))), abs=1e-4)
        vocabulary, ids = characters(TEXT)
        learner = Learner(len(vocabulary), len(vocabulary), seed=0, is_causal=True)
        scores, targets = learner.scores(ids[:-1], np.array([0, len(ids) - 1])).data, ids[1:].astype(np.int64)
        exact = np.exp(scores.astype(np.float64))
        p = exact / exact.sum(axis=1, keepdims=True)
        assert number("targets\\) = #", out) == pytest.approx(-np.log(p[np.arange(len(p)), targets]).mean(), abs=1e-4)
        p[np.arange(len(p)), targets] -= 1
        np.testing.assert_allclose(cross_entropy_backward(np.float32(1), scores, targets), p / len(p), atol=1e-7)


class TestOptimizers:
    def test_losses_fall_and_first_steps_follow_the_equations(self) -> None:
        out = chapter("optimizers")
        plain(out)
        losses = {name: (float(a), float(b)) for name, a, b in re.findall(r"(\w+): ([\d.]+) -> ([\d.]+)", out)}
        assert list(losses) == ["SGD", "momentum", "RMSprop", "Adam"]
        assert len({first for first, _ in losses.values()}) == 1
        assert all(last < 0.1 * first for first, last in losses.values())
        steps = re.findall(r"^   (\w+) +g = +(-?[\d.]+): equation +(-?[\d.]+), done +(-?[\d.]+) = +([\d.]+) lr$", out, re.M)
        assert [step[0] for step in steps] == list(losses)
        found = np.array([step[1:] for step in steps], float)
        np.testing.assert_allclose(found[:, 1], found[:, 2], atol=2e-6)
        np.testing.assert_allclose(found[:, 3], [abs(found[0, 0])] * 2 + [10, 1], atol=1e-3)
        assert (np.sign(found[:, 2]) == -np.sign(found[:, 0])).all()
        lengths = {row[0]: row[1:] for row in re.findall(r"^   (\w+) {20,}([\d.]+) +([\d.]+) +([\d.]+)$", out, re.M)}
        assert lengths["SGD"][0] == lengths["momentum"][0]
        assert float(lengths["SGD"][2]) < 0.1 * float(lengths["SGD"][0])

    def test_all_begin_with_the_same_weights(self) -> None:
        vocabulary, ids = characters("abcab")
        runs = [optimizers._train(method, vocabulary, ids, 0) for method in optimizers._METHODS.values()]
        assert len({each.gradient for each in runs}) == 1
        assert len({each.losses[-1] for each in runs}) == len(runs)


class TestPrediction:
    def test_both_learn_and_one_writes(self) -> None:
        out = chapter("prediction")
        plain(out)
        losses = {name: (float(a), float(b)) for name, a, b in re.findall(r"(\w+): ([\d.]+) -> ([\d.]+)", out)}
        assert set(losses) == {"autoregressive", "bidirectional"}
        assert all(last < 0.5 * first for first, last in losses.values())
        mean = {name: number(f"{name}: \\d+ right, mean p of the true one #", out) for name in losses}
        assert min(mean.values()) > 0.7
        probabilities = re.findall(r"^      (\S) +(\d\.\d{3}) ?(█*)$", out, re.M)
        assert len(probabilities) >= 8
        assert all(len(bar) == round(40 * float(p)) for _, p, bar in probabilities)
        assert number(r"sum of p\(a\) p\(b \| a\) = #", out) == pytest.approx(1, abs=1e-3)
        assert number(r"sum of p\(a \| b\) p\(b \| a\) = #", out) > 1.5
        assert "autoregressive: one more character changes 0 of 8 hidden states" in out
        assert "bidirectional: one more character changes 8 of 8 hidden states" in out

    def test_the_hidden_character_is_not_seen(self) -> None:
        out = chapter("prediction")
        place = int(re.search(r"A hidden character: the one at (\d+)", out).group(1))  # type: ignore[union-attr]
        assert f"It is {TEXT[place].replace(' ', '␣')}." in out
        left, around = (re.search(f"{name} sees  (.*)", out).group(1) for name in ("autoregressive", "bidirectional"))  # type: ignore[union-attr]
        assert around.startswith(left) and left.endswith("?")
        assert left[:-1].replace("␣", " ") == TEXT[place + 1 - len(left) : place]


class TestAutoencoder:
    @pytest.mark.parametrize("text", [TEXT, "ab", "naïve 漢字 🎉\nnew line", "the quick brown fox jumps over the lazy dog " * 5])
    def test_the_text_comes_back(self, text: str) -> None:
        out = chapter("autoencoder", text)
        plain(out)
        assert number("# of \\d+ characters came back", out) == len(text)
        assert len(re.findall(r"^   step \d", out, re.M)) >= 3
        assert number("step 0 #", out.replace("step 0 ", "step 0 0 ")) == 0
        last = re.findall(r"^   step \d+ +(.*)$", out, re.M)[-1]
        visible = text.replace(" ", "␣").replace("\n", "␤")
        assert visible.startswith(last) and len(last) >= min(len(text), 30)
        assert "^" not in out[out.rindex("   step ") :]
        if len(text) > 5:
            turned = "".join(reversed([visible[i : i + 5] for i in range(0, len(text), 5)]))
            assert turned.startswith(re.search("decoded  (.*)", out).group(1))  # type: ignore[union-attr]

    def test_a_vector_is_all_that_the_decoder_gets(self) -> None:
        """Pieces with the same vector are decoded alike, whatever stood in them; vectors are means of hidden states."""
        model = Autoencoder(4, 0)
        ids, offsets = packed([np.array([0, 1, 2]), np.array([3, 3, 1])])
        vectors = model.encoded(ids, offsets)
        hidden = model.encoder.hidden(ids, offsets).data
        np.testing.assert_allclose(vectors.data, [hidden[:3].mean(axis=0), hidden[3:].mean(axis=0)], atol=1e-6)
        vectors.data[1] = vectors.data[0]
        scores = model.decoded(vectors, offsets).data
        assert np.array_equal(scores[:3], scores[3:])
        assert not np.array_equal(scores[0], scores[1])


class TestPositions:
    def test_the_order_is_learnt_with_positions_alone(self) -> None:
        out = chapter("positions")
        plain(out)
        assert number("with positions: # of 24 right", out) == 24
        assert number("without positions: # of 24 right", out) < 20
        floor = number("mean of -log of these shares: #", out)
        pairs = list(itertools.pairwise(TEXT))
        behind, counts = Counter(TEXT[1:]), Counter(pairs)
        assert floor == pytest.approx(-sum(math.log(counts[pair] / behind[pair[1]]) for pair in pairs) / len(pairs), abs=1e-4)
        assert number(r"without positions: \d+ of 24 right, loss #", out) == pytest.approx(floor, abs=0.01)
        assert number(r"without positions: \d+ of 24 right, loss #", out) >= floor - 1e-4
        assert number(r"[^t] with positions: \d+ of 24 right, loss #", out) < 0.01
        apart = re.findall(r"(with\w*) positions: the hidden states of h at 0 and at 13 are ([\d.]+) apart", " ".join(out.split()))
        assert dict(apart).keys() == {"with", "without"}
        assert float(dict(apart)["without"]) < 1e-3 < 1 < float(dict(apart)["with"])

    def test_a_text_whose_order_says_nothing(self) -> None:
        assert positions._floor("abc") == 0
        said = " ".join(chapter("positions", "abc").split())
        assert "its order need not be seen" in said
        assert "stands at one place only" in said


@pytest.mark.parametrize("name", NAMES)
def test_the_seed_gives_the_output(name: str) -> None:
    text = "abcab"
    first = chapter(name, text, "--seed", "5")
    assert chapter(name, text, "--seed", "5") == first
    assert chapter(name, text, "--seed", "6") != first
    plain(first)


def test_all_shows_everything_and_the_plain_walkthrough_points_to_it() -> None:
    out = run("walkthrough", "aab b", "--all").stdout
    assert re.findall(r"^\d+  (.*)$", out, re.M)[10:] == TITLES
    assert re.findall(r"^(\d+)  ", out, re.M) == [str(i) for i in range(1, 16)]
    assert len(re.findall(r"^   Why: ", out, re.M)) == 15
    first = run("walkthrough", "aab b").stdout
    assert not set(TITLES) & set(re.findall(r"^\d+  (.*)$", first, re.M))
    assert all(name in " ".join(first.split())[-300:] for name in NAMES)


BAD = {
    "an unknown chapter": (["ab", "--chapter", "rnn"], "--chapter must be one of cross-entropy, optimizers"),
    "both": (["ab", "--chapter", "positions", "--all"], "give one of the two"),
    "no text": (["", "--chapter", "positions"], "the text is empty"),
    "a long text": (["x" * 257, "--chapter", "positions"], "at most 256 characters, got 257"),
    "one kind of character": (["aaa", "--chapter", "autoencoder"], "need a text with 2 different characters"),
    "one kind of character for all": (["aaa", "--all"], "need a text with 2 different characters"),
    "an empty name": (["ab", "--chapter", ""], "--chapter must be one of"),
}


@pytest.mark.parametrize(("arguments", "message"), BAD.values(), ids=BAD)
def test_bad_input(arguments: list[str], message: str) -> None:
    result = run("walkthrough", *arguments, code=2)
    assert message in result.stderr
    assert result.stdout == ""


def test_a_negative_seed_is_refused() -> None:
    assert "--seed" in run("walkthrough", "ab", "--seed", "-1", code=2).stderr
