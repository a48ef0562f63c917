"""The argument precision of text models: from where it is taken, what it changes, what is saved, and what is refused."""

import filecmp
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, Encoder, SentenceTransformer
from fastattn.modules import Pooling, Transformer
from tests.support.embedding import TEXTS
from tests.support.models import C, write_json
from tests.support.peer_cases import PAIRS, write_cross_encoder
from tests.support.rounded import LOW, assert_rounded

pytestmark = pytest.mark.jit


class Dtype:
    """A dtype of torch, or of NumPy by an extension."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"torch.{self.name}"


dtype = type("dtype", (Dtype,), {})
BFLOAT16 = (dtype("bfloat16"), "bfloat16", "torch.bfloat16", type("bfloat16", (), {}))


@pytest.mark.parametrize("precision", LOW)
def test_sentence_transformer(folder: Path, model: SentenceTransformer, precision: Any) -> None:
    low = SentenceTransformer(folder, precision=precision)
    assert (model.precision, low.precision, low.encoder.precision, low[0].precision) == ("float32", *[precision] * 3)
    assert f"'precision': '{precision}'" in repr(low)
    found = low.encode(TEXTS)
    assert found.dtype == np.float32
    assert_rounded(found, model.encode(TEXTS))
    assert_rounded(low.similarity(found, found), model.similarity(found, model.encode(TEXTS)))
    built = SentenceTransformer(modules=[Transformer(folder, precision=precision), Pooling(C)])
    assert built.precision == precision
    np.testing.assert_array_equal(built.encode(TEXTS), found)
    # The argument of `encode` quantises embeddings, whatever the arithmetic.
    assert low.encode(TEXTS, precision="int8").dtype == np.int8
    half = SentenceTransformer(folder, precision=precision, model_kwargs={"dtype": "float16"})
    np.testing.assert_array_equal(half.encode(TEXTS), found.astype(np.float16))


@pytest.mark.parametrize("precision", LOW)
def test_cross_encoder(tmp_path: Path, precision: Any) -> None:
    folder = write_cross_encoder(tmp_path, 3)
    low, plain = CrossEncoder(folder, precision=precision), CrossEncoder(folder)
    assert (low.precision, low.model.precision, plain.precision) == (precision, precision, "float32")
    assert_rounded(low.predict(PAIRS), plain.predict(PAIRS))


@pytest.mark.parametrize("name", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("value", BFLOAT16, ids=repr)
def test_a_dtype_of_bfloat16(folder: Path, tmp_path: Path, name: str, value: Any) -> None:
    kwargs: dict[str, Any] = {"model_kwargs": {name: value}}
    found = SentenceTransformer(folder, **kwargs)
    assert (found.precision, found.encode("a dog").dtype) == ("bfloat16", np.float32)
    np.testing.assert_array_equal(found.encode(TEXTS), SentenceTransformer(folder, precision="bfloat16").encode(TEXTS))
    assert SentenceTransformer(folder, precision="bfloat16", **kwargs).precision == "bfloat16"
    assert Transformer(folder, **kwargs).precision == "bfloat16"
    assert CrossEncoder(write_cross_encoder(tmp_path, 1), **kwargs).precision == "bfloat16"


@pytest.mark.parametrize("value", ["float32", "auto", None, "float16", np.float16])
def test_other_dtypes_ask_for_no_precision(folder: Path, value: Any) -> None:
    for kwargs in ({}, {"precision": None}):
        assert SentenceTransformer(folder, model_kwargs={"dtype": value}, **kwargs).precision == "float32"
    assert SentenceTransformer(folder, model_kwargs={"dtype": value}, precision="int8").precision == "int8"


def test_a_dtype_that_a_folder_names_is_not_followed(tmp_path: Path, folder: Path) -> None:
    module = Transformer(folder)
    module.save(tmp_path)
    write_json(tmp_path / "sentence_bert_config.json", {**module.get_config_dict(), "model_args": {"torch_dtype": "bfloat16"}})
    assert SentenceTransformer(tmp_path).precision == "float32"


@pytest.mark.parametrize("precision", LOW)
def test_saved_weights_are_those_of_the_checkpoint(
    folder: Path, tmp_path: Path, model: SentenceTransformer, precision: Any
) -> None:
    SentenceTransformer(folder, precision=precision).save_pretrained(str(tmp_path))
    assert filecmp.cmp(folder / "model.safetensors", tmp_path / "model.safetensors", shallow=False)
    again = SentenceTransformer(tmp_path)
    assert again.precision == "float32"
    np.testing.assert_array_equal(again.encode(TEXTS), model.encode(TEXTS))


@pytest.mark.parametrize("kind", [SentenceTransformer, CrossEncoder, Transformer])
def test_bad_precisions(kind: Any) -> None:
    for wrong in ("int4", "float16", 8, True, np.int8):
        with pytest.raises(ValueError, match=r"^precision must be one of float32, bfloat16, int8, got "):
            kind("/nowhere", precision=wrong)
    for wrong in ("float32", "int8"):
        message = f"precision is '{wrong}', and model_kwargs: torch_dtype asks for bfloat16: leave one of them out"
        with pytest.raises(ValueError, match=message):
            kind("/nowhere", precision=wrong, model_kwargs={"torch_dtype": "bfloat16"})


def test_precision_of_given_modules(folder: Path) -> None:
    modules = [Transformer(folder), Pooling(C)]
    assert SentenceTransformer(modules=modules, precision="float32").precision == "float32"
    for asked in ({"precision": "bfloat16"}, {"model_kwargs": {"dtype": "bfloat16"}}):
        with pytest.raises(ValueError, match="precision is 'bfloat16', and the given Transformer was loaded in float32"):
            SentenceTransformer(modules=modules, **asked)  # type: ignore[arg-type]


def test_methods_of_torch_that_take_a_dtype(folder: Path, model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    float32, float16, bfloat16, float64 = map(dtype, ("float32", "float16", "bfloat16", "float64"))
    torch = SimpleNamespace(float32=float32, float16=float16, device=lambda name: SimpleNamespace(type=name))
    monkeypatch.setitem(sys.modules, "torch", torch)
    low = SentenceTransformer(folder, precision="bfloat16")
    for one in (model, low):
        for given, expected in (((float16,), float16), (("cpu", float32), float32), (("cpu", float16, True), float16)):
            assert one.to(*given) is one
            assert one.dtype is expected
        assert one.to(dtype=float32).dtype is one.to(None, non_blocking=True).dtype is float32
        assert one.to(dtype=np.float16).dtype is one.to("cpu").dtype is float16
        for wrong in (float64, np.dtype(np.int8)):
            with pytest.raises(
                NotImplementedError, match=r"dtype (float64|int8) is not supported: SentenceTransformer gives float32"
            ):
                one.to(dtype=wrong)
        assert one.float().precision == one.half().precision == ("float32" if one is model else "bfloat16")
    assert low.bfloat16() is low.to(bfloat16) is low.to("cpu", dtype=bfloat16) is low
    assert low.encoder.bfloat16() is low.encoder
    for call in (model.bfloat16, lambda: model.to(bfloat16), lambda: model.to(dtype=bfloat16), model.encoder.bfloat16):
        with pytest.raises(
            NotImplementedError, match="fixed when a model is loaded, this one's as float32: load it with precision=\"bf"
        ):
            call()
    assert isinstance(low.encoder.to(dtype=float32), Encoder)
    with pytest.raises(NotImplementedError, match="dtype float16 is not supported: Encoder gives float32"):
        low.encoder.to(dtype=float16)
    with pytest.raises(ValueError, match="device must be None or \"cpu\", got 'cuda'"):
        model.to("cuda", float32)
