"""The argument precision of encoders and of heads: what it changes, pickles, and what is refused."""

import pickle
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig, EncoderForMaskedLM, EncoderForSequenceClassification, EncoderWithPooler
from fastattn.checkpoint.reader import read_encoder, read_head
from fastattn.encoder import packing, slower
from fastattn.encoder.every_position import without_embeddings
from fastattn.kernels.products import kinds
from tests.support.golden_models import GOLDEN, golden, tensors, write
from tests.support.rounded import LOW, assert_rounded

pytestmark = pytest.mark.jit


def batch() -> tuple[Any, Any]:
    arrays = golden("bert")
    return arrays["input_ids"], arrays["attention_mask"].astype(bool)


@pytest.mark.parametrize("precision", LOW)
def test_encoder(precision: Any) -> None:
    ids, mask = batch()
    plain = Encoder.from_pretrained(GOLDEN / "bert")
    model = Encoder.from_pretrained(GOLDEN / "bert", precision)
    assert (plain.precision, model.precision) == ("float32", precision)
    assert repr(model) == repr(plain).replace("float32", precision)
    found = model(ids, mask)
    assert_rounded(found[mask], plain(ids, mask)[mask])
    config, parameters = read_encoder(GOLDEN / "bert")
    np.testing.assert_array_equal(Encoder(config, parameters=parameters, precision=precision)(ids, mask), found)
    body = without_embeddings(model)
    assert body.precision == precision
    x = np.random.default_rng(0).standard_normal((2, 5, config.hidden_dim), np.float32)
    assert_rounded(body(x), without_embeddings(plain)(x))


def test_precision_cannot_be_set() -> None:
    with pytest.raises(AttributeError):
        Encoder.from_pretrained(GOLDEN / "bert").precision = "int8"  # type: ignore[misc]


@pytest.mark.parametrize("precision", LOW)
def test_a_head_is_float32_but_for_the_vocabulary(precision: Any) -> None:
    ids, mask = batch()
    for kind, is_float32 in ((EncoderForSequenceClassification, True), (EncoderWithPooler, True), (EncoderForMaskedLM, False)):
        plain, model = (kind.from_pretrained(GOLDEN / "bert", name) for name in ("float32", precision))
        assert model.precision == precision
        exact, found = plain(ids, mask), model(ids, mask)
        if kind is EncoderForMaskedLM:
            assert_rounded(found[mask], exact[mask])
        plain.encoder = model.encoder
        assert np.array_equal(plain(ids, mask), found) == is_float32


@pytest.mark.parametrize("precision", ["float32", *LOW])
def test_pickles(precision: Any) -> None:
    ids, mask = batch()
    model = EncoderForMaskedLM.from_pretrained(GOLDEN / "bert", precision)
    again = pickle.loads(pickle.dumps(model))
    assert again.precision == precision
    np.testing.assert_array_equal(again(ids, mask), model(ids, mask))


def test_pickles_of_other_versions_and_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    plain, model = (Encoder.from_pretrained(GOLDEN / "bert", precision) for precision in ("float32", "int8"))
    state = plain.__getstate__()
    for name in ("_precision", "_form"):
        del state[name]
    with pytest.raises(
        ValueError, match=r"^pickled by another version, or on a CPU with other vectors or products: load the model from its"
    ):
        Encoder.__new__(Encoder).__setstate__(state)
    contents = pickle.dumps(plain), pickle.dumps(model)
    monkeypatch.setattr(packing, "INT8", kinds.INT8._replace(name="other"))
    assert pickle.loads(contents[0]).precision == "float32"
    with pytest.raises(ValueError, match="on a CPU with other vectors or products"):
        pickle.loads(contents[1])
    # Panels are as wide as the vectors of a CPU.
    monkeypatch.setattr(packing, "WIDTH", 2 * packing.WIDTH)
    with pytest.raises(ValueError, match="on a CPU with other vectors or products"):
        pickle.loads(contents[0])


@pytest.mark.parametrize("wrong", ["float7", "int4", "", None, np.float32, ["int8"]], ids=repr)
def test_unknown_precisions(wrong: Any) -> None:
    message = r"^precision must be one of float32, bfloat16, int8, got "
    nowhere = Path("nowhere")
    for make in (
        lambda: Encoder(EncoderConfig(1, 1, 8, 8), precision=wrong),
        lambda: Encoder.from_pretrained(nowhere, wrong),
        lambda: EncoderForMaskedLM.from_pretrained(nowhere, wrong),
    ):
        with pytest.raises(ValueError, match=message):
            make()


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_training_needs_float32(precision: Any, dropout: float) -> None:
    model = Encoder(EncoderConfig(1, 1, 8, 8, dropout=dropout), precision=precision)
    with pytest.raises(ValueError, match=f'^training needs precision="float32", got an encoder of {precision}'):
        model(np.full((1, 2, 8), np.nan, np.float32), training=True, rng=np.random.default_rng(0))


@pytest.mark.parametrize("precision", LOW)
def test_weights_that_are_not_finite(tmp_path: Path, precision: Any) -> None:
    changed = tensors("bert")
    changed["bert.encoder.layer.1.output.dense.weight"][3, 5] = np.nan
    folder = write(tmp_path / "a", "bert", changed)
    message = f"^parameter layers.1.feed_forward.output.weight has NaN or infinite values, which {precision} cannot hold$"
    with pytest.raises(ValueError, match=message):
        Encoder.from_pretrained(folder, precision)
    Encoder.from_pretrained(folder)
    head = read_head(GOLDEN / "bert", "masked-lm")
    head.steps[-1].weight[2, 1] = np.inf
    model = Encoder.from_pretrained(GOLDEN / "bert", precision)
    with pytest.raises(ValueError, match=r"^parameter of the head's product with the vocabulary has NaN or infinite values"):
        EncoderForMaskedLM(model, head)


def test_one_warning_of_a_slower_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slower, "_warned", set())
    monkeypatch.setattr(kinds, "slower", lambda precision: None if precision == "float32" else f"no {precision} here")
    with pytest.warns(UserWarning, match="^precision 'int8' is slower than float32 on this CPU: no int8 here$") as caught:
        Encoder.from_pretrained(GOLDEN / "bert", "int8")
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="no bfloat16 here"):
        Encoder.from_pretrained(GOLDEN / "bert", "bfloat16")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for precision in ("float32", *LOW):
            Encoder.from_pretrained(GOLDEN / "bert", precision)  # type: ignore[arg-type]
