"""`np.seterr(all="raise")`: whatever rounds to zero or to a denormal on the way, no public function raises FloatingPointError."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn import modules, reference
from fastattn.cli.cases import Case, cases, ops
from fastattn.config import ACTIVATIONS
from fastattn.parameters import random_parameters
from fastattn.text.modules.activations import TORCH_ACTIVATIONS
from fastattn.text.quantization import PRECISIONS, quantize_embeddings
from fastattn.text.similarity import SIMILARITIES, similarity, similarity_pairwise
from tests.support.golden_models import GOLDEN
from tests.support.late_interaction import native, projection, write_bge_m3
from tests.support.models import write_sentence_model, write_tokenizer
from tests.support.tolerance import Array

pytestmark = pytest.mark.jit

# Factors of normal numbers at which products, squares, exponentials or conversions underflow.
SCALES: dict[Any, tuple[float, ...]] = {np.float16: (1e-4, 1.0, 30.0), np.float32: (1e-30, 300.0), np.float64: (1e-200, 3000.0)}
TEXTS = ["the cat sat on the mat", "a dog", "w3 w4 w5"]


@pytest.fixture(autouse=True)
def raising() -> Iterator[None]:
    with np.errstate(all="raise"):
        yield


def small(case: Case, dtype: Any, scale: float) -> Case:
    """Return a case, scaled, with the first of its batch or rows; all rows where offsets say which are a text's."""
    length = -1 if case.op == "splade_pooling" else len(case.arrays[0])

    def part(x: Any) -> Any:
        if not isinstance(x, np.ndarray):
            return x
        x = x[:1] if len(x) == length else x
        with np.errstate(all="ignore"):
            return (x.astype(np.float64) * scale).astype(dtype) if x.dtype.kind == "f" else x

    return case._replace(arrays=list(map(part, case.arrays)), options={key: part(x) for key, x in case.options.items()})


@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("name", sorted(ops()))
def test_ops_and_their_reference(name: str, dtype: Any) -> None:
    found = [case for case in cases() if case.op == name]
    assert found
    for scale in SCALES[dtype]:
        for case in found:
            given = small(case, dtype, scale)
            given.bound(ops()[name], dtype)()
        given.bound(getattr(reference, name), dtype)()


def test_an_array_of_another_dtype_for_the_result_and_for_the_mask() -> None:
    q = np.full((1, 4, 8), 0.5, np.float32)
    mask = np.full((4, 4), -1e-300)
    fastattn.scaled_dot_product_attention(q, q, q, mask)
    fastattn.gelu(q.astype(np.float16) / 5000, out=np.empty_like(q, np.float16))
    fastattn.softmax(np.array([0.0, -12.0], np.float16))


def config(**changes: Any) -> Any:
    return fastattn.EncoderConfig(**{"num_layers": 2, "num_heads": 2, "hidden_dim": 32, "ff_dim": 48, "vocab_size": 40, **changes})


def encoder_parameters(scale: float) -> dict[str, Array]:
    """Parameters in float64, whose conversion underflows."""
    with np.errstate(all="ignore"):
        return {name: x.astype(np.float64) * scale for name, x in random_parameters(config(positions="learned"), 0).items()}


def run_encoder() -> None:
    ids, rng = np.arange(6).reshape(2, 3), np.random.default_rng(0)
    for scale in (1e-40, 1e-20, 1.0):
        model = fastattn.Encoder(config(positions="learned", dropout=0.1), parameters=encoder_parameters(scale))
        model(ids, return_hidden_states=True, return_attention=True)
        model(ids, training=True, rng=rng)
        model(np.full((2, 3, 32), 1e-300))
        model.forward_packed(ids.reshape(-1), [0, 2, 6], pooling="weightedmean", normalize=True)


def of_head(name: str) -> Callable[[], Any]:
    def run() -> None:
        kind = getattr(fastattn, name)
        family = "clip_text_model" if name == "EncoderWithProjection" else "bert"
        kind.from_pretrained(GOLDEN / family)(np.arange(6).reshape(2, 3))

    return run


def pipelines(folder: Path) -> Iterator[fastattn.SentenceTransformer]:
    """A model as it is read, and one for each activation, with embeddings of 1e-30 behind each module."""
    plain = fastattn.SentenceTransformer(str(write_sentence_model(folder)))
    yield plain
    tiny = np.full((32, 32), 1e-30)
    for activation in TORCH_ACTIVATIONS:
        for weight in (tiny, np.eye(32) * 200):
            dense = modules.Dense(32, 32, True, activation, weight, np.full(32, 1e-60), use_residual=True)
            norm = modules.LayerNorm(32, np.full(32, 1e-40), np.zeros(32))
            parts = [plain[0], modules.Pooling(32, "mean"), dense, modules.Dropout(), norm, modules.Normalize()]
            yield fastattn.SentenceTransformer(modules=parts)


def run_sentence_transformer(folder: Path) -> None:
    plain, *others = pipelines(folder)
    found = [model.encode(TEXTS, normalize_embeddings=True) for model in others]
    assert len(found) == 2 * len(TORCH_ACTIVATIONS)
    rows = plain.encode(TEXTS, normalize_embeddings=True)
    for name in SIMILARITIES:
        plain.similarity_fn_name = name
        plain.similarity(rows, rows)
        plain.similarity_pairwise(rows, rows)
    for precision in PRECISIONS:
        plain.encode(TEXTS, precision=precision)
    plain.encode(TEXTS, output_value="token_embeddings")
    plain.encode(TEXTS, output_value=None)


def run_cross_encoder(folder: Path) -> None:
    from tests.support.golden_models import write

    write(folder / "cross", "bert")
    write_tokenizer(folder / "cross")
    model = fastattn.CrossEncoder(str(folder / "cross"))
    for activation in TORCH_ACTIVATIONS:
        model.predict([("the cat", "a dog"), ("a", "mat")], activation_fn=activation)
    model.predict([("the cat", "a dog")], apply_softmax=True)


def run_multi_vector_encoder(folder: Path) -> None:
    native({"query_expansion": {"strategy": "fixed", "length": 9}})(folder)
    plain = fastattn.MultiVectorEncoder(folder)
    for weight in (np.full((8, 32), 1e-30), projection()):
        dense = modules.Dense(32, 8, False, None, weight, module_input_name="token_embeddings")
        pooling = modules.HierarchicalTokenPooling(2)
        for parts in ([plain[0], dense, plain[2], pooling], [plain[0], dense, plain[2], plain[3], pooling]):
            model = fastattn.MultiVectorEncoder(modules=parts)
            queries, documents = model.encode_query(TEXTS), model.encode_document(TEXTS, normalize_embeddings=True)
            model.encode_document(TEXTS, output_value=None)
            for name in model.SUPPORTED_SIMILARITY_FN_NAMES:
                model.similarity_fn_name = name
                model.similarity(queries, [*documents, documents[0][:0]])
                model.similarity([x * np.float64(1e-40) for x in queries], documents)
                model.similarity_pairwise(queries, documents)


def run_bge_m3(folder: Path) -> None:
    model = fastattn.BGEM3FlagModel(write_bge_m3(folder))
    found = model.encode(TEXTS, return_sparse=True, return_colbert_vecs=True)
    model.colbert_score(*found["colbert_vecs"][:2])
    model.compute_lexical_matching_score(*found["lexical_weights"][:2])


def run_sparse_encoder(folder: Path) -> None:
    from tests.support.golden_models import write

    write_tokenizer(write(folder / "sparse", "bert", architectures=["BertForMaskedLM"]))
    model = fastattn.SparseEncoder(str(folder / "sparse"))
    found = model.encode(TEXTS)
    for name in SIMILARITIES:
        model.similarity_fn_name = name
        model.similarity(found, found)
        model.similarity_pairwise(found, found)
    found.toarray()
    model.decode(found, top_k=2)


def run_util() -> None:
    rows = np.arange(1, 13).reshape(3, 4) * np.float32(1e-23)
    for name in set(fastattn.util.__all__) - {
        "SimilarityFunction",
        "mine_hard_negatives",
        "paraphrase_mining",
        "quantize_embeddings",
    }:
        second = {"truncate_embeddings": [2]}.get(name, [rows])
        alone = name in ("community_detection", "normalize_embeddings", "paraphrase_mining_embeddings")
        getattr(fastattn.util, name)(rows, *([] if alone else second))


def run_linear_backward() -> None:
    for dtype, scales in SCALES.items():
        for scale in scales:
            rows = (np.arange(1, 13).reshape(3, 4) * scale).astype(dtype)
            fastattn.linear_backward(rows, rows, np.repeat(rows[:1], 4, axis=0), rows[0])


# Backward ops of rows and elements, and dropout, of x (3, 4).
GRADIENTS: dict[str, Callable[[Any, Array], Any]] = {
    "activation_backward": lambda module, x: [module.activation_backward(x, x, kind) for kind in ACTIVATIONS],
    "dropout": lambda module, x: module.dropout(x, 0.3, 1),
    "dropout_backward": lambda module, x: module.dropout_backward(x, 0.3, 1),
    "embedding_backward": lambda module, x: module.embedding_backward(x, [0, 2, 0], 5),
    "embedding_backward_rows": lambda module, x: module.embedding_backward_rows(x, [0, 2, 0], 5),
    "gelu_backward": lambda module, x: [module.gelu_backward(x, x, approximate=form) for form in ("none", "tanh")],
    "layer_norm_backward": lambda module, x: module.layer_norm_backward(x, x, x[0], x[1], residual=x),
    "rms_norm_backward": lambda module, x: module.rms_norm_backward(x, x, x[0], residual=x),
    "rotary_embedding_backward": lambda module, x: module.rotary_embedding_backward(x, x[:, :2], x[:, 2:]),
    "softmax_backward": lambda module, x: module.softmax_backward(x, x),
}


def of_gradient(module: Any, name: str) -> Callable[[], Any]:
    def run() -> None:
        for dtype, scales in SCALES.items():
            for scale in scales:
                GRADIENTS[name](module, (np.arange(1, 13).reshape(3, 4) * scale).astype(dtype))

    return run


def run_losses(name: str) -> Callable[[], Any]:
    def run() -> None:
        function, target = getattr(fastattn, name), np.array([0, -100, 2])
        for dtype, scales in SCALES.items():
            for scale in scales:
                with np.errstate(all="ignore"):
                    rows = (np.arange(1, 13).reshape(3, 4) * scale).astype(dtype)
                    tiny = np.full((), scale, dtype)
                arrays = [rows, rows, target] if name.startswith("linear") else [rows, target]
                for smoothing in (0.0, 1e-300, 0.1):
                    function(*[tiny] * name.endswith("backward"), *arrays, label_smoothing=smoothing)

    return run


LOSSES = ("cross_entropy", "cross_entropy_backward", "linear_cross_entropy", "linear_cross_entropy_backward")


def run_attention_backward() -> None:
    for scale in (1e-30, 300.0):
        q = np.full((2, 4, 8), scale, np.float32)
        fastattn.scaled_dot_product_attention_backward(q, q, q, q, q[0, :, :4])
        with np.errstate(all="ignore"):
            half = q[..., :1].astype(np.float16)
        fastattn.scaled_dot_product_attention_backward(half, half, half, half)
        reference.scaled_dot_product_attention_backward(q, q, q, q, q[0, :, :4], softcap=2.0)


CALLS: dict[str, Callable[..., Any]] = {
    **{name: of_gradient(fastattn, name) for name in GRADIENTS},
    **{name: run_losses(name) for name in LOSSES},
    "scaled_dot_product_attention_backward": run_attention_backward,
    "util": run_util,
    "Encoder": run_encoder,
    "SentenceTransformer": run_sentence_transformer,
    "CrossEncoder": run_cross_encoder,
    "MultiVectorEncoder": run_multi_vector_encoder,
    "BGEM3FlagModel": run_bge_m3,
    "SparseEncoder": run_sparse_encoder,
    "SparseEmbeddings": run_sparse_encoder,
    "linear_backward": run_linear_backward,
    **{name: of_head(name) for name in fastattn.__all__ if name.startswith("Encoder") and name not in ("Encoder", "EncoderConfig")},
}
# What computes nothing with NumPy, or has its own tests in this file.
ELSEWHERE = {
    "Calls",
    "Convolution",
    "EncoderConfig",
    "FallbackWarning",
    "LayerConfig",
    "Rotary",
    "SimilarityFunction",
    "accelerate",
    "calls",
    "quantize_embeddings",
    "restore",
}
ELSEWHERE |= {"reference", *ops()}


@pytest.mark.parametrize("name", sorted(set(fastattn.__all__) - ELSEWHERE))
def test_classes(name: str, tmp_path: Path) -> None:
    assert name in CALLS, f"add a call of fastattn.{name}"
    needs_folder = name.startswith(("Sentence", "Cross", "MultiVector", "BGE", "Sparse"))
    CALLS[name](*([tmp_path] if needs_folder else []))


@pytest.mark.parametrize("scale", [1e-33, 1e-37, 1e-300])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_similarity(name: str, scale: float) -> None:
    rows = np.arange(1, 13).reshape(3, 4) * scale
    similarity(rows, rows[:2], name)
    similarity_pairwise(rows, rows, name)
    for precision in PRECISIONS:
        quantize_embeddings(rows, precision, calibration_embeddings=rows)


def test_the_reference() -> None:
    named = {key: x.astype(np.float32) for key, x in encoder_parameters(1.0).items()}
    x = np.full((1, 3, 32), 1e-30, np.float32)
    x[..., ::2] = 300
    layer = {"num_heads": 2}
    hidden = np.full((3, 4), 1e-40, np.float32)
    rows = np.array([[3e38, 1e-40, 0, -3e38], [np.inf, np.nan, 1, 1], [1e-45, 0, 0, 0]], np.float32)
    levels, _, zero = reference.quantize_rows(rows)
    weight_levels, _, sums = reference.quantize_weight(rows)
    ids = np.array([0, -100, 2])
    one = np.array(1e-30, np.float32)
    calls: dict[str, Callable[[], Any]] = {
        **{name: of_gradient(reference, name) for name in GRADIENTS},
        "adagrad": lambda: reference.adagrad(rows, [rows, hidden], weight_decay=0.1),
        "adam": lambda: reference.adam(rows, [rows, hidden], weight_decay=0.1),
        "alibi_bias": lambda: reference.alibi_bias(12, 9),
        "alibi_slopes": lambda: reference.alibi_slopes(12),
        "cross_entropy": lambda: reference.cross_entropy(rows, ids),
        "cross_entropy_backward": lambda: reference.cross_entropy_backward(one, rows, ids),
        "disentangled_row": lambda: reference.disentangled_row(np.arange(-9, 10), 4, 12),
        "embeddings": lambda: reference.embeddings(named, np.arange(3)[None]),
        "encoder": lambda: reference.encoder(named, np.arange(3)[None], num_layers=2, num_heads=2),
        "encoder_layer": lambda: reference.encoder_layer(named, 0, x, **layer),
        "feed_forward": lambda: reference.feed_forward(named, "layers.0.feed_forward", x),
        "layer_attention_weights": lambda: reference.layer_attention_weights(named, 0, x, **layer),
        "integer_product": lambda: reference.integer_product(levels, zero, weight_levels, sums),
        "linear_backward": lambda: reference.linear_backward(rows, rows, np.repeat(rows[:1], 4, axis=0), rows[0]),
        "linear_cross_entropy": lambda: reference.linear_cross_entropy(rows, rows, ids),
        "linear_cross_entropy_backward": lambda: reference.linear_cross_entropy_backward(one, rows, rows, ids),
        "linear_bfloat16": lambda: reference.linear_bfloat16(rows, rows, activation="silu"),
        "linear_bfloat16_backward": lambda: reference.linear_bfloat16_backward(rows, rows, np.repeat(rows[:1], 4, axis=0), rows[0]),
        "linear_int8": lambda: reference.linear_int8(rows, rows, rows[0, :3], activation="silu", smooth=hidden[0]),
        "scaled_dot_product_attention_bfloat16": lambda: reference.scaled_dot_product_attention_bfloat16(x, x, x),
        "mixed_linear": lambda: reference.mixed_linear("int8")("", rows, rows, None, "silu"),
        "pooling": lambda: [reference.pooling(hidden, mode) for mode in ("mean", "cls", "max", "weightedmean", "lasttoken")],
        "quantize_rows": lambda: [reference.quantize_rows(rows, smooth) for smooth in (None, rows[0], hidden[0])],
        "quantize_table": lambda: reference.quantize_table(rows),
        "quantize_weight": lambda: [reference.quantize_weight(rows, smooth) for smooth in (None, rows[0], hidden[0])],
        "relative_bias": lambda: reference.relative_bias(np.full((32, 2), 1e-40, np.float32), 5),
        "relative_position_bucket": lambda: reference.relative_position_bucket(np.arange(-200, 200)),
        "round_bfloat16": lambda: [reference.round_bfloat16(x) for x in (rows, rows.astype(np.float64) * 10, rows[0, 0])],
        "rmsprop": lambda: reference.rmsprop(rows, [rows, hidden], weight_decay=0.1, centered=True, momentum=0.9),
        "rotary_tables": lambda: reference.rotary_tables(9, 512, theta=1e300),
        "sgd": lambda: reference.sgd(rows, [rows, hidden], weight_decay=0.1, momentum=0.9),
        "scaled_dot_product_attention_backward": lambda: reference.scaled_dot_product_attention_backward(
            hidden, hidden, hidden, hidden
        ),
        "sinusoidal_positions": lambda: reference.sinusoidal_positions(9, 512),
    }
    assert set(calls) == set(reference.__all__) - set(ops())
    for call in calls.values():
        call()
