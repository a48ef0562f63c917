"""SentenceTransformer with a Router: modules of their own for queries and documents, as in sentence-transformers."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import SentenceTransformer
from fastattn.checkpoint.folder import CheckpointError
from fastattn.cli.check import check_model
from fastattn.corpus import embed_file
from fastattn.modules import Dense, LayerNorm, Normalize, Pooling, Router, StaticEmbedding, Transformer
from tests.support.embedding import TEXTS
from tests.support.models import C, write_json, write_sentence_model

pytestmark = pytest.mark.jit

STATIC, WIDTH = Path(__file__).parents[1] / "data" / "static" / "whole", 19


def routes(folder: Path) -> dict[str, list[Any]]:
    """Return a static query side, and an encoder for documents."""
    weight = np.random.default_rng(3).standard_normal((WIDTH, C), np.float32)
    transformer = Transformer(write_sentence_model(folder))
    document = [transformer, Pooling(C), Dense(C, WIDTH, False, None, weight)]
    return {"query": [StaticEmbedding._load(STATIC)], "document": document}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return routes(tmp_path_factory.mktemp("routes"))


@pytest.fixture
def model(sides: dict[str, list[Any]]) -> SentenceTransformer:
    return SentenceTransformer(modules=[Router.for_query_document(sides["query"], sides["document"]), Normalize()])


def test_routes(model: SentenceTransformer, sides: dict[str, list[Any]]) -> None:
    """Each side is the model of its modules, bit for bit; without a task the default route is taken."""
    queries, documents = (SentenceTransformer(modules=[*sides[name], Normalize()]).encode(TEXTS) for name in ("query", "document"))
    assert not np.array_equal(queries, documents)
    assert np.array_equal(model.encode_query(TEXTS), queries) and np.array_equal(model.encode(TEXTS, task="query"), queries)
    assert np.array_equal(model.encode_document(TEXTS), documents) and np.array_equal(model.encode(TEXTS), documents)
    assert np.array_equal(model.encode_query(TEXTS[0]), queries[0])
    for task, expected in (("query", queries), ("document", documents)):
        assert np.array_equal(list(model.encode_iter(iter(TEXTS), task=task)), expected)
        found = model(model.preprocess(TEXTS[:2], task=task), task=task)["sentence_embedding"]
        np.testing.assert_allclose(found, expected[:2], rtol=0, atol=1e-6)
    short = SentenceTransformer(modules=[*sides["document"], Normalize()], truncate_dim=5).encode(TEXTS)
    assert np.array_equal(model.encode_document(TEXTS, truncate_dim=5), short)
    assert model.similarity(model.encode_query(TEXTS), model.encode_document(TEXTS)).shape == (len(TEXTS), len(TEXTS))


def test_what_a_model_shows(model: SentenceTransformer) -> None:
    assert len(model) == 2 and isinstance(model[0], Router) and [module.kind for module in model] == ["Router", "Normalize"]
    assert model.get_embedding_dimension() == WIDTH and model.precision == "float32"
    assert model.transformers_model is model.encoder
    assert "Router" in repr(model)
    with pytest.raises(ValueError, match="output_value 'token_embeddings' is not available"):
        model.encode_query(TEXTS, output_value="token_embeddings")
    assert model.encode_document(TEXTS[:1], output_value="token_embeddings")[0].shape[1] == C
    model.max_seq_length = 4
    assert model.max_seq_length == 4 and [module.max_seq_length for module in model._pipeline.first_modules()] == [4, 4]


def test_widths_of_their_own(sides: dict[str, list[Any]]) -> None:
    """Sentence-transformers lets the sides have different widths; each answers in its own."""
    wide = SentenceTransformer(modules=[Router.for_query_document(sides["query"], sides["document"][:2])])
    assert wide.encode_query(TEXTS).shape[1] == WIDTH and wide.encode_document(TEXTS).shape[1] == C


def test_saved(model: SentenceTransformer, tmp_path: Path) -> None:
    model.max_seq_length = 9
    model.save(str(tmp_path / "a"))
    again = SentenceTransformer(tmp_path / "a")
    for task in ("encode_query", "encode_document"):
        assert np.array_equal(getattr(again, task)(TEXTS), getattr(model, task)(TEXTS))
    report = check_model(str(tmp_path / "a"))
    assert report["loads"] and report["as"] == "SentenceTransformer" and report["modules"] == ["Router", "Normalize"], report
    assert SentenceTransformer(tmp_path / "a", precision="bfloat16").precision == "bfloat16"
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS[:2]), encoding="utf-8")
    embed_file(tmp_path / "texts.txt", tmp_path / "out.npy", tmp_path / "a")
    assert np.array_equal(np.load(tmp_path / "out.npy"), model.encode_document(TEXTS[:2]))


@pytest.mark.filterwarnings("ignore")
def test_sentence_transformers_reads_the_same(model: SentenceTransformer, tmp_path: Path) -> None:
    peers = pytest.importorskip("sentence_transformers")
    model.max_seq_length = 9
    model.save(str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peers.SentenceTransformer(str(tmp_path))
    for task in ("encode_query", "encode_document", "encode"):
        np.testing.assert_allclose(getattr(model, task)(TEXTS), getattr(theirs, task)(TEXTS), rtol=0, atol=1e-5)


def heads(same: bool = False) -> dict[str, list[Any]]:
    """Return a head of its own for queries, and one for documents, or none."""
    rng = np.random.default_rng(4)
    query, document = (
        Dense(C, WIDTH, True, "Tanh", rng.standard_normal((WIDTH, C), np.float32), rng.random(WIDTH)) for _ in range(2)
    )
    square = Dense(C, C, False, None, rng.standard_normal((C, C), np.float32))
    return {"query": [square], "document": []} if same else {"query": [query], "document": [document, LayerNorm(WIDTH)]}


@pytest.mark.parametrize("same", [False, True])
def test_routes_behind_other_modules(same: bool, sides: dict[str, list[Any]], tmp_path: Path) -> None:
    """Queries and documents share the encoder; a route without modules leaves the embedding as it is."""
    routes, shared = heads(same), sides["document"][:2]
    model = SentenceTransformer(modules=[*shared, Router(routes, default_route="document"), Normalize()])
    assert [module.kind for module in model] == ["Transformer", "Pooling", "Router", "Normalize"]
    assert model.get_embedding_dimension() == (C if same else WIDTH)
    expected = {name: SentenceTransformer(modules=[*shared, *routes[name], Normalize()]).encode(TEXTS) for name in routes}
    assert not np.array_equal(expected["query"], expected["document"])
    model.save(str(tmp_path))
    for found in (model, SentenceTransformer(tmp_path)):
        assert np.array_equal(found.encode_query(TEXTS), expected["query"])
        assert np.array_equal(found.encode_document(TEXTS), expected["document"])
        assert np.array_equal(found.encode(TEXTS), expected["document"])
        assert np.array_equal(list(found.encode_iter(iter(TEXTS), task="query")), expected["query"])
        features = found(found.preprocess(TEXTS[:2], task="query"), task="query")
        np.testing.assert_allclose(features["sentence_embedding"], expected["query"][:2], rtol=0, atol=1e-6)
    assert model.max_seq_length == shared[0].max_seq_length and model.transformers_model is shared[0].auto_model
    report = check_model(str(tmp_path))
    assert report["loads"] and report["modules"] == ["Transformer", "Pooling", "Router", "Normalize"], report


def test_several_routers(sides: dict[str, list[Any]]) -> None:
    """Each takes its own route for a task."""
    both = [Router({"query": sides["document"][:2], "document": sides["document"][:2]}), Router(heads())]
    model = SentenceTransformer(modules=both)
    for task in ("query", "document"):
        expected = SentenceTransformer(modules=[*sides["document"][:2], *heads()[task]]).encode(TEXTS)
        assert np.array_equal(model.encode(TEXTS, task=task), expected)


def test_tasks(sides: dict[str, list[Any]]) -> None:
    """Those for which every Router has a route."""
    shared = sides["document"][:2]
    assert SentenceTransformer(modules=shared)._pipeline.tasks() == [None]
    first = Router({"query": shared, "document": shared}, allow_empty_key=False, route_mappings={("classify", None): "document"})
    assert SentenceTransformer(modules=[first])._pipeline.tasks() == ["query", "document", "classify"]
    assert SentenceTransformer(modules=[first, Router(heads())])._pipeline.tasks() == ["query", "document"]
    both = [Router({"query": shared, "other": shared}), Router(heads())]
    assert SentenceTransformer(modules=both)._pipeline.tasks() == [None, "query"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("same", [False, True])
def test_sentence_transformers_has_the_same_numbers(same: bool, sides: dict[str, list[Any]], tmp_path: Path) -> None:
    """The folder is one that sentence-transformers wrote."""
    peers = pytest.importorskip("sentence_transformers")
    ours = SentenceTransformer(modules=[*sides["document"][:2], Router(heads(same), default_route="document"), Normalize()])
    ours.save(str(tmp_path / "ours"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = peers.SentenceTransformer(str(tmp_path / "ours"), device="cpu")
        theirs.save(str(tmp_path / "theirs"))
    for model in (ours, SentenceTransformer(tmp_path / "theirs")):
        for task in ("encode_query", "encode_document", "encode"):
            np.testing.assert_allclose(getattr(model, task)(TEXTS), getattr(theirs, task)(TEXTS), rtol=0, atol=1e-5)
        assert model.get_embedding_dimension() == theirs.get_embedding_dimension()


def test_faults(sides: dict[str, list[Any]], tmp_path: Path) -> None:
    router = Router.for_query_document(sides["query"], sides["document"], default_route=None, allow_empty_key=False)
    strict = SentenceTransformer(modules=[router])
    with pytest.raises(ValueError, match="no route for the task None; routes: 'query', 'document'; call encode_query or"):
        strict.encode("a")
    with pytest.raises(ValueError, match="there is no route for the task 'classify'"):
        strict.encode("a", task="classify")
    with pytest.raises(ValueError, match="a StaticEmbedding must be the first module, got Transformer, Pooling, StaticEmbedding"):
        SentenceTransformer(modules=[*sides["document"][:2], Router.for_query_document(sides["query"], sides["document"], "query")])
    with pytest.raises(ValueError, match="a Router must not be in a route of another, got Transformer, Pooling, Router"):
        SentenceTransformer(modules=[*sides["document"][:2], Router({"query": [router]})])
    with pytest.raises(ValueError, match="a Router in the first place must have modules in each route"):
        SentenceTransformer(modules=[Router({"query": sides["query"], "document": []})])
    with pytest.raises(ValueError, match="sub_modules must have routes with modules, got"):
        Router({"query": []})
    with pytest.raises(ValueError, match="every route must end in a sentence_embedding; routes: query, document"):
        SentenceTransformer(modules=[Router.for_query_document(sides["query"], sides["document"][:1])])
    strict.save(str(tmp_path))
    path = tmp_path / "router_config.json"
    content = json.loads(path.read_text("utf-8"))
    write_json(path, {**content, "types": {name: "x.SpladePooling" for name in content["types"]}})
    with pytest.raises(CheckpointError, match="module 'SpladePooling' is not supported; supported: Transformer, StaticE"):
        SentenceTransformer(tmp_path)
