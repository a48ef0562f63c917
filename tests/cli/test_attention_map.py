"""Attention map: the reading of a text, the drawing, and its legibility."""

import importlib
import itertools
import json
import pickle
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from fastattn import Encoder
from fastattn.cli.app import app
from fastattn.cli.attention import Reading, _labels, read_attention
from fastattn.cli.attention_map import SUFFIXES, check_drawing, draw_attention, write_figure
from tests.support.models import HEADS, LAYERS, WORDS, write_sentence_model, write_typed_tokenizer

pytestmark = pytest.mark.jit

CAT = "The cat sat on the mat because it was tired."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sentence_model(tmp_path_factory.mktemp("map") / "tiny")


@pytest.fixture
def matplotlib() -> Any:
    return pytest.importorskip("matplotlib")


def reading(count: int, layers: int = 6, heads: int = 12, label: str = "word") -> Reading:
    """Make up a text of `count` tokens, the first and the last special."""
    weights = np.random.default_rng(count).random((layers, heads, count, count), np.float32) ** 8
    weights[..., 0] += 1
    weights /= weights.sum(axis=-1, keepdims=True)
    special = np.zeros(count, bool)
    special[[0, -1]] = True
    labels = ["[CLS]", *(f"{label}{i}" for i in range(1, count - 1)), "[SEP]"][:count]
    return Reading(" ".join(labels), "made-up", np.zeros(count, np.int64), labels, special, weights, False)


def test_reading(model: Path) -> None:
    found = read_attention("the cat  sat", model)
    assert found.labels == ["[CLS]", "the", "cat", "sat", "[SEP]"]
    assert found.special.tolist() == [True, False, False, False, True]
    assert (found.text, found.model, found.truncated) == ("the cat  sat", "tiny", False)
    assert found.ids.tolist() == [WORDS.index(word) for word in found.labels]
    assert np.array_equal(found.attention, Encoder.from_pretrained(model)(found.ids[None], return_attention=True)[1][:, 0])
    assert found.attention.shape == (LAYERS, HEADS, 5, 5)


def test_reading_of_the_real_model() -> None:
    text = "The Unhappiest naïve\ncafé-owner 🎉"
    found = read_attention(text)
    assert found.labels == ["[CLS]", "The", "Un", "·ha", "·pp", "·iest", "naïve", "café", "-", "owner", "[UNK]", "[SEP]"]
    assert found.model == "all-MiniLM-L6-v2"


def test_labels_of_bytes_and_of_pieces_with_spaces() -> None:
    """RoBERTa's and XLM-R's tokenizers mark the space before a word."""
    tokenizers = importlib.import_module("tokenizers")
    text = "the cat, naïve\t cat"
    spaced = {piece: i for i, piece in enumerate(["<unk>", "▁the", "▁c", "at", ",", "▁", "na", "ï", "ve", "\t"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.Unigram([(piece, -1.0) for piece in spaced], 0))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace()
    expected = ["the", "c", "·at", "·,", "␣", "·na", "·ï", "·ve", "␣", "c", "·at"]
    assert _labels(text, tokenizer.encode(text)) == expected
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {piece: i for i, piece in enumerate([*sorted(alphabet), "Ġc", "Ġca", "Ġcat"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [("Ġ", "c"), ("Ġc", "a"), ("Ġca", "t")]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.post_processor = tokenizers.processors.ByteLevel(trim_offsets=True)
    assert _labels("cat  ï", tokenizer.encode("cat  ï")) == ["cat", "␣", "␣", "·ï", "·ï"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_long_text(side: str, tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "m")
    (folder / "tokenizer_config.json").write_text(json.dumps({"truncation_side": side}))
    words = [f"w{i}" for i in range(20)]
    found = read_attention(" ".join(words), folder)
    assert found.truncated
    assert found.labels == ["[CLS]", *(words[:10] if side == "right" else words[-10:]), "[SEP]"]
    assert not read_attention(" ".join(words[:10]), folder).truncated


def test_token_types(tmp_path: Path) -> None:
    folder = write_sentence_model(tmp_path / "m")
    plain = read_attention("the cat", folder)
    write_typed_tokenizer(folder)
    assert not np.allclose(read_attention("the cat", folder).attention, plain.attention, atol=1e-3)
    write_typed_tokenizer(folder, model_input_names=["input_ids"])
    assert np.array_equal(read_attention("the cat", folder).attention, plain.attention)


def test_bad_text(model: Path) -> None:
    with pytest.raises(ValueError, match="half a surrogate pair"):
        read_attention("a \ud800", model)
    with pytest.raises(ValueError, match="the text is empty"):
        read_attention("", model)
    assert read_attention(" ", model).labels == ["[CLS]", "[SEP]"]


def test_what_is_drawn(matplotlib: Any) -> None:
    made = reading(20)
    for layer, head, expected, title, frame in (
        (None, None, made.attention.mean(axis=(0, 1)), "Mean of all 72 heads", None),
        (2, None, made.attention[2].mean(axis=0), "Layer 2, mean of 12 heads", (-0.5, 1.5, 12, 1)),
        (None, 7, made.attention[:, 7].mean(axis=0), "Head 7, mean of 6 layers", (6.5, -0.5, 1, 6)),
        (2, 7, made.attention[2, 7], "Layer 2, head 7", (6.5, 1.5, 1, 1)),
    ):
        figure = draw_attention(made, layer=layer, head=head)
        large, large_bar, small, small_bar = figure.axes
        (image,) = large.images
        np.testing.assert_allclose(image.get_array(), expected, rtol=1e-5)
        assert image.get_clim() == pytest.approx((0, expected[1:-1, 1:-1].max()))
        assert large_bar.get_ylabel() == "attention (arrow: special tokens)"
        assert [label.get_text() for label in large.get_xticklabels()] == made.labels
        assert [label.get_text() for label in large.get_yticklabels()] == made.labels
        said = [text.get_text() for text in figure.texts]
        assert title in said and "made-up: 20 tokens, 6 layers of 12 heads" in said
        assert said[0].startswith("“[CLS] word1 word2")
        mosaic = small.images[0].get_array().reshape(6, 20, 12, 20).swapaxes(1, 2)
        assert np.array_equal(mosaic, made.attention)
        assert small.images[0].get_clim() == (0, 1) and small_bar.get_ylabel() == "attention, square root"
        frames = [p.get_bbox().bounds for p in small.patches if p.get_linewidth() == 2]
        assert frames == ([] if frame is None else [frame])


def test_values_stand_in_the_cells_of_a_short_text(matplotlib: Any) -> None:
    made = reading(8)
    values = [text.get_text() for text in draw_attention(made, layer=0, head=0).axes[0].texts]
    assert values == [f"{x:.2f}".removeprefix("0") for x in made.attention[0, 0].ravel()]
    assert len(draw_attention(reading(25)).axes[0].texts) == 25 * 25
    assert not draw_attention(reading(26)).axes[0].texts


@pytest.mark.parametrize("count", [14, 15, 25])
def test_values_fit_their_cells_and_can_be_read(matplotlib: Any, count: int) -> None:
    colours = importlib.import_module("matplotlib.colors")
    large = (figure := draw_attention(reading(count), layer=0, head=0)).axes[0]
    renderer = rendered(figure)
    cell = large.get_window_extent(renderer).width / count
    (image,) = large.images

    def light(colour: Any) -> float:
        """Return the relative luminance of WCAG 2."""
        rgb = np.array(colours.to_rgb(colour))
        return float(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])

    for text in large.texts:
        assert text.get_window_extent(renderer).width < 0.95 * cell
        s, t = text.get_position()
        low, high = sorted((light(image.to_rgba(image.get_array()[int(t), int(s)])), light(text.get_color())))
        assert (high + 0.05) / (low + 0.05) > 4, text.get_text()


def test_scale_of_a_single_word(matplotlib: Any) -> None:
    made = reading(3)
    assert draw_attention(made).axes[0].images[0].get_clim()[1] == pytest.approx(made.attention.mean(axis=(0, 1)).max())


def test_a_notebook_shows_the_figure(matplotlib: Any) -> None:
    figure = pickle.loads(pickle.dumps(draw_attention(reading(3))))
    assert figure._repr_png_().startswith(STARTS[".png"])


def test_characters_without_a_font_are_told(matplotlib: Any, caplog: pytest.LogCaptureFixture) -> None:
    draw_attention(reading(3)._replace(labels=["a", "\U000f0000", "b"]))
    assert "no font has some characters: drawn as code points; install a font" in caplog.text


def rendered(figure: Any) -> Any:
    """Draw a figure and return its renderer."""
    agg = importlib.import_module("matplotlib.backends.backend_agg")
    canvas = agg.FigureCanvasAgg(figure)
    canvas.draw()
    return canvas.get_renderer()


def boxes(renderer: Any, texts: list[Any]) -> list[Any]:
    """Return the bounding boxes of texts."""
    return [text.get_window_extent(renderer) for text in texts if text.get_text() and text.get_visible()]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 13, 14, 20, 40, 60, 61, 130])
@pytest.mark.parametrize("label", ["w", "internationalisation", "漢字漢字"])
def test_no_text_lies_on_another(matplotlib: Any, count: int, label: str) -> None:
    figure = draw_attention(reading(count, label=label))
    renderer = rendered(figure)
    for ax in figure.axes:
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            shown = boxes(renderer, labels)
            assert not any(a.overlaps(b) for a, b in itertools.combinations(shown, 2)), ax.get_ylabel()
    large, large_bar, small, small_bar = figure.axes
    parts = [large.get_tightbbox(renderer), large_bar.get_tightbbox(renderer), small.get_tightbbox(renderer)]
    parts += [small_bar.get_tightbbox(renderer), *boxes(renderer, figure.texts)]
    for a, b in itertools.combinations(parts, 2):
        assert not a.overlaps(b), (a, b)


def test_more_tokens_than_labels(matplotlib: Any) -> None:
    figure = draw_attention(reading(150))
    large, _, small, _ = figure.axes
    assert [label.get_text() for label in large.get_xticklabels()] == reading(150).labels[::3]
    assert large.images[0].get_array().shape == (150, 150)
    assert "Of 150 tokens one in 3 has its label." in figure.texts[-1].get_text()
    coarse = small.images[0].get_array()
    assert coarse.shape == (6 * 64, 12 * 64)
    assert coarse[0, 0] == pytest.approx(reading(150).attention[0, 0, :2, :2].mean())


@pytest.mark.parametrize("shape", [(1, 1), (1, 12), (24, 16), (2, 1)], ids=str)
def test_other_models(matplotlib: Any, shape: tuple[int, int]) -> None:
    figure = draw_attention(reading(6, *shape))
    renderer = rendered(figure)
    for ax in figure.axes:
        for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
            assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes(renderer, labels), 2))
    assert "1 layers" not in figure.texts[1].get_text() and "1 heads" not in figure.texts[1].get_text()


def test_all_tokens_special_or_none(matplotlib: Any) -> None:
    for special in (np.ones(4, bool), np.zeros(4, bool)):
        made = reading(4)._replace(special=special)
        image = draw_attention(made).axes[0].images[0]
        assert image.get_clim()[1] == pytest.approx(made.attention.mean(axis=(0, 1)).max())


def test_characters_that_need_care(matplotlib: Any) -> None:
    """Dollars start no formula, and a glyph missing in all fonts is shown as its code point; a warning would be an error."""
    odd = ["$x^2$", "漢", "\U000f0000", "a_b", "\\frac", "naïve"]
    made = reading(6)._replace(labels=odd, text=" ".join(odd))
    figure = draw_attention(made)
    rendered(figure)
    shown = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert [shown[0], *shown[2:]] == ["$x^2$", "<F0000>", "a_b", "\\frac", "naïve"]
    assert shown[1] in ("漢", "<6F22>")


@pytest.mark.parametrize("option", ["layer", "head"])
@pytest.mark.parametrize("value", [-1, 12])
def test_no_such_layer_or_head(matplotlib: Any, option: str, value: int) -> None:
    last = {"layer": 5, "head": 11}[option]
    with pytest.raises(ValueError, match=rf"{option} must be in 0 \.\. {last} for this model, got {value}"):
        draw_attention(reading(4), **{option: value})


STARTS = {".png": b"\x89PNG\r\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}


def run(*arguments: str, code: int = 0) -> Result:
    result = CliRunner().invoke(app, ["attention", *arguments])
    assert result.exit_code == code, (result.stdout, result.stderr, result.exception)
    return result


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files(matplotlib: Any, suffix: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / f"map{suffix}"
    out.write_bytes(b"old")
    result = run("the cat sat", "-o", str(out), "--layer", "1", "-m", str(model))
    assert result.stdout == ""
    assert result.stderr == f"5 tokens, {LAYERS} layers, {HEADS} heads: {out}\n"
    first = out.read_bytes()
    assert first.startswith(STARTS[suffix]) and len(first) > 5000
    assert [path.name for path in tmp_path.iterdir()] == [out.name]
    run("the cat sat", "-o", str(out), "--layer", "1", "-m", str(model))
    assert out.read_bytes() == first, "the same picture, other bytes"


def test_picture_of_the_real_model(matplotlib: Any, tmp_path: Path) -> None:
    image = pytest.importorskip("matplotlib.image")
    out = tmp_path / "map.png"
    run(CAT, "-o", str(out))
    pixels = image.imread(str(out))
    high, wide = pixels.shape[:2]
    assert 1000 < high < 3000 and 1500 < wide < 4000
    assert 0.2 < (pixels[..., :3] == 1).all(axis=-1).mean() < 0.9, "blank, or without a margin"
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 100


def test_a_text_that_is_cut_is_told(matplotlib: Any, model: Path, tmp_path: Path) -> None:
    result = run("dog " * 40, "-o", str(tmp_path / "map.png"), "-m", str(model))
    assert "12 tokens of a text that was cut, " in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("-o {}/x.jpeg", r"x\.jpeg: cannot draw \.jpeg; supported: \.png, \.svg, \.pdf"),
        ("-o {}/x", r"x: cannot draw a file without a suffix; supported"),
        ("-o {}/x.png --layer 2", r"layer must be in 0 \.\. 1 for this model, got 2"),
        ("-o {}/x.png --head -1", r"head must be in 0 \.\. 3 for this model, got -1"),
        ("-o {}/no/x.png", r"no/x\.png: cannot be written: No such file or directory"),
        ("-o {}/x.png -m {}/nowhere/y", "nowhere/y: no such folder"),
    ],
)
def test_bad_input(matplotlib: Any, arguments: str, said: str, model: Path, tmp_path: Path) -> None:
    words = arguments.replace("{}", str(tmp_path)).split()
    result = run("the cat", *words, *([] if "-m" in words else ["-m", str(model)]), code=2)
    (line,) = result.stderr.splitlines()
    assert re.match(f"error: .*{said}", line), line
    assert not list(tmp_path.iterdir())


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, model: Path, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"matplotlib .*pip install 'fastattn\[viz\]'"):
        check_drawing(Path("x.png"))
    (line,) = run("the cat", "-o", str(tmp_path / "x.png"), "-m", str(model), code=2).stderr.splitlines()
    assert line.startswith("error: drawing needs matplotlib") and line.endswith("pip install 'fastattn[viz]'")
    assert not list(tmp_path.iterdir())


def test_memory_that_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch, matplotlib: Any, model: Path, tmp_path: Path) -> None:
    from fastattn.runtime import memory

    monkeypatch.setattr(memory, "free_bytes", lambda: 10)
    (line,) = run("the cat", "-o", str(tmp_path / "x.png"), "-m", str(model), code=2).stderr.splitlines()
    assert line.startswith("error: attention (2, 1, 4, 4, 4) in float32")


def test_write_figure_leaves_settings_alone(matplotlib: Any, tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    with (tmp_path / "x.svg").open("wb") as file:
        write_figure(draw_attention(reading(3)), file, ".svg")
    assert dict(matplotlib.rcParams) == before
