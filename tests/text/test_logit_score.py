"""LogitScore: pairs scored by a language model's next word, as sentence-transformers scores them."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

import fastattn
from fastattn import CrossEncoder, Encoder, MultiVectorEncoder, SentenceTransformer
from fastattn.checkpoint.reader import CheckpointError
from fastattn.modules import LogitScore, MultiVectorMask, Pooling, Transformer
from tests.support.golden_models import golden, tensors
from tests.support.language_model import FALSE, PARTS, TEMPLATE, TRUE, write_language_model, write_reranker, write_words
from tests.support.models import write_json
from tests.support.tolerance import assert_matches_reference

pytestmark = pytest.mark.jit


def words(ids: Any) -> str:
    return " ".join(f"w{i}" for i in ids)


def pairs() -> list[tuple[str, str]]:
    rng = np.random.default_rng(0)
    lengths = ((3, 4), (1, 9), (12, 2), (5, 5), (30, 30), (3, 60), (60, 3), (20, 16))
    return [(words(rng.integers(5, 90, a)), words(rng.integers(5, 90, b))) for a, b in lengths]


@pytest.mark.parametrize("family", ["qwen3", "qwen3-windows", "qwen2"])
def test_logits_of_transformers(tmp_path: Path, family: str) -> None:
    """The score is the difference of two of transformers' logits at the last token, with a head of its own or a tied one."""
    arrays = golden(family)
    folder = write_language_model(tmp_path / "model", family=family)
    model = CrossEncoder(
        modules=[Transformer(folder, transformer_task="text-generation"), LogitScore(7, 11)], activation_fn="Identity"
    )
    lengths = arrays["attention_mask"].sum(axis=1)
    last = np.cumsum(lengths) - 1
    texts = [(words(ids[:1]), words(ids[1:n])) for ids, n in zip(arrays["input_ids"], lengths, strict=True)]
    # No id below 5 is a word of the test's tokenizer's that begins with a w.
    assert arrays["input_ids"][arrays["attention_mask"].astype(bool)].min() >= 5
    expected = [arrays[f"causal-lm.{name}"][last] for name in ("truth", "yardstick")]
    keep = arrays["input_ids"].max(axis=1) < min(TRUE, FALSE)
    assert keep.any()
    chosen = [x[keep][:, 7] - x[keep][:, 11] for x in expected]
    assert_matches_reference(model.predict([text for text, kept in zip(texts, keep, strict=True) if kept]), *chosen)


def test_bounded_logits(tmp_path: Path) -> None:
    """Gemma's logits are bounded each; with one product for their difference it could not be."""
    arrays, folder = golden("gemma3_text"), write_language_model(tmp_path / "model", family="gemma3_text")
    lengths = arrays["attention_mask"].sum(axis=1)
    texts = [(words(ids[:1]), words(ids[1:n])) for ids, n in zip(arrays["input_ids"], lengths, strict=True)]
    keep = arrays["input_ids"].max(axis=1) < min(TRUE, FALSE)
    given = [text for text, kept in zip(texts, keep, strict=True) if kept]
    last = arrays["hidden.truth"][np.cumsum(lengths) - 1][keep].astype(np.float64)
    logits = last @ tensors("gemma3_text")["model.embed_tokens.weight"].astype(np.float64)[[7, 11]].T
    bounded = 1.5 * np.tanh(logits / 1.5)
    assert np.abs(logits - bounded).max() > 0.1
    for other, expected in ((11, bounded[:, 0] - bounded[:, 1]), (None, bounded[:, 0])):
        chosen = [Transformer(folder, transformer_task="text-generation"), LogitScore(7, other)]
        found = CrossEncoder(modules=chosen, activation_fn="Identity").predict(given)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_a_bound_that_is_none(tmp_path: Path) -> None:
    folder = write_language_model(tmp_path / "model", family="gemma3_text")
    for bound in (0, -1.5, "2", True):
        content = json.loads((folder / "config.json").read_text("utf-8"))
        write_json(folder / "config.json", {**content, "final_logit_softcapping": bound})
        with pytest.raises(CheckpointError, match=r"final_logit_softcapping must be a (positive )?number, found"):
            CrossEncoder(modules=[Transformer(folder, transformer_task="text-generation"), LogitScore(7)])


def test_the_rows_of_the_words(tmp_path: Path) -> None:
    """Only the words' rows take part, and an exchange of the words changes the sign."""
    folder, given = write_reranker(tmp_path / "model"), pairs()
    scores = CrossEncoder(folder).predict(given)
    hidden = Encoder.from_pretrained(folder)
    tokenizer = CrossEncoder(folder).tokenizer
    ids = [np.array(tokenizer(*pair, truncation=True)["input_ids"]) for pair in given]
    offsets = np.cumsum([0, *map(len, ids)])
    last = hidden.forward_packed(np.concatenate(ids), offsets, pooling="lasttoken").astype(np.float64)
    head = tensors("qwen3")["lm_head.weight"].astype(np.float64)
    np.testing.assert_allclose(scores, last @ (head[TRUE] - head[FALSE]), rtol=0, atol=2e-6)
    write_json(folder / "1_LogitScore" / "config.json", {"true_token_id": FALSE, "false_token_id": TRUE})
    np.testing.assert_array_equal(CrossEncoder(folder).predict(given), -scores)
    write_json(folder / "1_LogitScore" / "config.json", {"true_token_id": TRUE})
    np.testing.assert_allclose(CrossEncoder(folder).predict(given), last @ head[TRUE], rtol=0, atol=2e-6)


@pytest.mark.parametrize("template", [None, TEMPLATE], ids=["plain", "template"])
def test_a_pair_alone(tmp_path: Path, template: str | None) -> None:
    """Each score has the bits that the pair has alone, and in another order."""
    model, given = CrossEncoder(write_reranker(tmp_path / "model", template)), pairs()
    scores = model.predict(given)
    np.testing.assert_array_equal(scores, [model.predict(pair) for pair in given])
    np.testing.assert_array_equal(scores[::-1], model.predict(given[::-1]))
    assert [hit["corpus_id"] for hit in model.rank(given[0][0], [document for _, document in given])] == list(
        np.argsort(-model.predict([(given[0][0], document) for _, document in given]), kind="stable")
    )


def test_saved(tmp_path: Path) -> None:
    model, given = CrossEncoder(write_reranker(tmp_path / "model", TEMPLATE)), pairs()
    model.save_pretrained(tmp_path / "saved")
    again = CrossEncoder(tmp_path / "saved")
    assert [module.kind for module in again] == ["Transformer", "LogitScore"]
    np.testing.assert_array_equal(again.predict(given, prompt="w8 w9"), model.predict(given, prompt="w8 w9"))


def test_template(tmp_path: Path) -> None:
    """The ids are the template's; a pair that is too long keeps the template's end, and a prompt is the system's message."""
    model = CrossEncoder(write_reranker(tmp_path / "model", TEMPLATE))
    chat, tokenizer = model[0].chat, model.tokenizer

    def text(row: Any) -> str:
        return " ".join(tokenizer.convert_ids_to_tokens(row.tolist()))

    rows = chat.rows([("w5 w6", "w8")], "", 40).ids
    assert text(rows[0]) == "<q> w5 w6 <d> w8 <eos> <a> w7"
    rows = chat.rows([("w5 w6", "w8")], "w20 w21", 40).ids
    assert text(rows[0]) == "<sys> w20 w21 <q> w5 w6 <d> w8 <eos> <a> w7"
    long, short = chat.rows([("w5 w6", words(range(10, 60))), ("w5", "w8")], "", 12).ids
    assert text(long) == "<q> w5 w6 <d> w10 w11 w12 w13 w14 <eos> <a> w7"
    assert text(short) == "<q> w5 <d> w8 <eos> <a> w7"
    found = chat.rows([("w5 w6", words(range(10, 60))), ("w5", "w8")], "", 12)
    assert (found.truncated, found.types) == (1, None)


def test_a_padded_batch(tmp_path: Path) -> None:
    """`preprocess` renders the template, as sentence-transformers does, and `forward` gives the scores of `predict`."""
    model, given = CrossEncoder(write_reranker(tmp_path / "model", TEMPLATE)), pairs()
    for prompt in ("", "w5 w6"):
        columns = model.preprocess(given, prompt=prompt)
        assert columns["modality"] == "message" and "prompt_length" not in columns
        np.testing.assert_array_equal(model(columns)["scores"][:, 0], model.predict(given, prompt=prompt))
    plain = SentenceTransformer(write_language_model(tmp_path / "plain", "<q> {{ messages[-1].content }} <eos>"))
    texts = [first for first, _ in given]
    np.testing.assert_array_equal(
        plain(plain.preprocess(texts, prompt="w5"))["sentence_embedding"], plain.encode(texts, prompt="w5")
    )
    (features,) = plain.encode(texts[:1], prompt="w5", output_value=None)
    assert features["modality"] == "message" and "prompt_length" not in features
    tokens = MultiVectorEncoder(modules=[plain[0], MultiVectorMask()])
    columns = tokens.preprocess(texts[:1], prompt="w5")
    assert columns["modality"] == "message" and columns["input_ids"].tolist() == [features["input_ids"].tolist()]
    assert tokens.encode(texts[:1], output_value=None)[0]["modality"] == "message"


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))], ids=["copied", "pickled"])
def test_copies(tmp_path: Path, copied: Callable[[CrossEncoder], CrossEncoder]) -> None:
    model, given = CrossEncoder(write_reranker(tmp_path / "model", TEMPLATE)), pairs()
    np.testing.assert_array_equal(copied(model).predict(given, prompt="w8"), model.predict(given, prompt="w8"))


def test_another_tokenizer(tmp_path: Path) -> None:
    """A template is rendered for the tokenizer that the model has now."""
    model = CrossEncoder(write_reranker(tmp_path / "model", TEMPLATE))
    content = json.loads((tmp_path / "model" / "tokenizer.json").read_text("utf-8"))
    content["model"]["vocab"] |= {"w7": 8, "w8": 7}
    before = model.predict([("w7", "w9"), ("w8", "w9")])
    model.tokenizer = Tokenizer.from_str(json.dumps(content))
    ids = model.preprocess([("w7", "w9")])["input_ids"][0]
    assert (ids == 8).sum() == 2 and 7 not in ids
    assert (model.predict([("w7", "w9"), ("w8", "w9")]) != before).all()


def test_a_file_of_the_template_comes_first(tmp_path: Path) -> None:
    folder, given = write_reranker(tmp_path / "model", TEMPLATE), pairs()
    expected = CrossEncoder(folder).predict(given)
    write_words(folder, "<q>")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    np.testing.assert_array_equal(CrossEncoder(folder).predict(given), expected)
    (folder / "chat_template.jinja").unlink()
    write_words(folder, None, chat_template=[{"name": "tool_use", "template": ""}, {"name": "default", "template": TEMPLATE}])
    np.testing.assert_array_equal(CrossEncoder(folder).predict(given), expected)


def test_settings_without_messages_leave_the_template_out(tmp_path: Path) -> None:
    given, plain = pairs(), write_reranker(tmp_path / "plain")
    folder = write_reranker(
        tmp_path / "model", TEMPLATE, modality_config={"text": {"method": "forward", "method_output_name": "logits"}}
    )
    np.testing.assert_array_equal(CrossEncoder(folder).predict(given), CrossEncoder(plain).predict(given))
    # As files of older versions are read, which knew no messages.
    older = write_reranker(tmp_path / "older", TEMPLATE, modality_config=None)
    np.testing.assert_array_equal(CrossEncoder(older).predict(given), CrossEncoder(plain).predict(given))


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages[0].content }}", "leaves out the document of a pair: a reranker's template has messages of the roles query"),
        ("w5", "leaves out the query and the document of a pair"),
        ("{% if %}", "its chat template is not supported: Expected an expression"),
        ("{{ raise_exception('only one message') }}", "its chat template fails: TemplateError: only one message"),
        ("{{ ''.__class__.__mro__ }}", "its chat template fails: SecurityError"),
        ("{% include 'config.json' %}", "its chat template fails: TypeError: no loader"),
        ("{{ messages[0].content.nothing.more }}", "its chat template fails: UndefinedError"),
        ("{{ 1 // 0 }}", "its chat template fails: ZeroDivisionError"),
        ("{{ range(100000000) | list }}", "its chat template fails: OverflowError"),
    ],
)
def test_faults_of_a_template(tmp_path: Path, template: str, message: str) -> None:
    folder = write_reranker(tmp_path / "model", TEMPLATE)
    write_words(folder, template)
    with pytest.raises(CheckpointError, match=message):
        CrossEncoder(folder).predict(("w5", "w6"))


def test_faults(tmp_path: Path) -> None:
    folder = write_reranker(tmp_path / "model")
    write_json(folder / "1_LogitScore" / "config.json", {"true_token_id": 97})
    with pytest.raises(CheckpointError, match="its vocabulary has 97 words, and the id 97 is asked for"):
        CrossEncoder(folder)
    for content, message in (
        ({}, "true_token_id must be a whole number of at least 0, got None"),
        ({"true_token_id": True}, "true_token_id must be a whole number of at least 0, got True"),
        ({"true_token_id": 3, "false_token_id": -1}, "false_token_id must be a whole number of at least 0, got -1"),
        (
            {"true_token_id": 3, "module_input_name": "logits"},
            "module_input_name 'logits' is not supported; supported: causal_logits",
        ),
    ):
        write_json(folder / "1_LogitScore" / "config.json", content)
        with pytest.raises(CheckpointError, match=rf"1_LogitScore/config\.json: {message}"):
            CrossEncoder(folder)
    plain = write_language_model(tmp_path / "plain")
    with pytest.raises(ValueError, match='of a Transformer whose transformer_task is "text-generation"'):
        CrossEncoder(modules=[Transformer(plain), LogitScore(3)])
    with pytest.raises(
        ValueError, match="Pooling reads token_embeddings, which no module before it writes; there are causal_logits"
    ):
        fastattn.SentenceTransformer(modules=[Transformer(plain, transformer_task="text-generation"), Pooling(32)])
    tokenizer = (plain / "tokenizer.json").read_text()
    (plain / "tokenizer.json").write_text(tokenizer.replace('"no"', '"not"'))
    write_json(plain / "config.json", {**json.loads((plain / "config.json").read_text()), "architectures": ["XForCausalLM"]})
    with pytest.raises(CheckpointError, match="its tokenizer has no token 'no', by which a language model scores"):
        CrossEncoder(plain)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("template", [None, TEMPLATE, PARTS], ids=["plain", "flat", "parts"])
def test_sentence_transformers(tmp_path: Path, template: str | None) -> None:
    """Scores agree on a folder of transformers, and on what either library saves, with prompts and truncated pairs."""
    peer = pytest.importorskip("sentence_transformers")
    import torch

    given, folder = pairs(), write_language_model(tmp_path / "model", template)
    config = json.loads((folder / "config.json").read_text())
    write_json(folder / "config.json", {**config, "architectures": ["Qwen3ForCausalLM"]})
    theirs, ours = peer.CrossEncoder(str(folder)), CrossEncoder(folder)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    ours.save_pretrained(tmp_path / "ours")
    again = peer.CrossEncoder(str(tmp_path / "ours"))
    for prompt in (None, "w11 w12 w13"):
        expected = theirs.predict(given, prompt=prompt)
        for found in (ours, CrossEncoder(tmp_path / "theirs"), again):
            np.testing.assert_allclose(found.predict(given, prompt=prompt), expected, rtol=0, atol=2e-6)
        logits = theirs.predict(given, prompt=prompt, activation_fn=torch.nn.Identity())
        np.testing.assert_allclose(ours.predict(given, prompt=prompt, activation_fn="Identity"), logits, rtol=0, atol=1e-5)
    assert len({round(float(score), 3) for score in expected}) == len(given)
