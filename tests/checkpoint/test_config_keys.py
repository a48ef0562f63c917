"""Keys of config.json: each is read, or is one that changes no result; what would be another model is refused."""

import inspect
import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import Encoder, EncoderConfig, EncoderForSequenceClassification, EncoderForTokenClassification
from fastattn.checkpoint.families import FAMILIES, Settings
from fastattn.checkpoint.reader import CheckpointError, read_encoder
from tests.support.golden_models import FAMILIES as GOLDEN_MODELS
from tests.support.golden_models import GOLDEN
from tests.support.models import C, bert_tensors, write_bert

# Of training and generation, of the form of transformers' outputs, and names.  The kernels compute in float32 whatever the dtype.
WITHOUT_EFFECT = {
    "_name_or_path", "architectures", "attention_dropout", "attention_probs_dropout_prob", "attribute_map", "bos_token_id",
    "chunk_size_feed_forward", "classifier_dropout", "classifier_dropout_prob", "cls_token_id", "default_theta",
    "deterministic_flash_attn", "dtype", "embedding_dropout", "eos_token_id", "initializer_cutoff_factor", "initializer_range",
    "is_encoder_decoder", "keys_to_ignore_at_inference", "label2id", "output_attentions", "output_hidden_states", "pad_token_id",
    "problem_type", "qa_dropout", "return_dict", "self", "sep_token_id", "seq_classif_dropout", "sparse_pred_ignore_index",
    "sparse_prediction", "transformers_version", "use_cache",
}  # fmt: skip
# Read by the reader, not by the families.
READ = {"id2label", "model_type", "tie_word_embeddings"}
# Tables hold what these say, ELECTRA's summary is of multiple choice, and ModernBERT's layer_types come first.
OF_FAMILIES = {
    "distilbert": {"sinusoidal_pos_embds"},
    "electra": {"summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj"},
    "ernie": {"task_type_vocab_size"},
    "modernbert": {"global_attn_every_n_layers"},
}


class Watched(dict[str, Any]):
    """A dict that keeps the keys that were asked for."""

    def __init__(self, content: dict[str, Any]) -> None:
        super().__init__(content)
        self.asked: set[str] = set()

    def get(self, key: str, default: Any = None) -> Any:
        self.asked.add(key)
        return super().get(key, default)

    def __getitem__(self, key: str) -> Any:
        self.asked.add(key)
        return super().__getitem__(key)


def unread(content: dict[str, Any]) -> set[str]:
    """Return the keys that the family neither reads nor may leave."""
    values, model_type = Watched(content), content["model_type"]
    family, settings = FAMILIES[model_type], Settings(Path("config.json"), values)
    config = family.config(settings)
    family.heads(settings)
    for names in family.names:
        for stem in (*names.outside, *names.inside):
            family.has_bias(settings, stem)
        for layer in range(config.num_layers):
            names.layer(settings, layer)
    return set(content) - values.asked - WITHOUT_EFFECT - READ - OF_FAMILIES.get(model_type, set())


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_keys_of_a_file(name: str) -> None:
    assert unread(json.loads((GOLDEN / name / "config.json").read_text())) == set()


@pytest.mark.parametrize("name", FAMILIES)
def test_keys_that_the_class_of_transformers_has(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, FAMILIES[name].model_class.removesuffix("Model") + "Config")
    content = kind().to_dict()
    missing = {key: None for key in inspect.signature(kind.__init__).parameters if key not in content}
    # A key that is absent has its default, so only its name is added.
    assert unread(content) - set(missing) == set()
    assert set(missing) <= WITHOUT_EFFECT | READ | OF_FAMILIES.get(name, set()) | {"rope_theta", "kwargs", "is_decoder"}


def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"quantization_config .* is not supported"):
        read_encoder(write_bert(tmp_path, quantization_config={"load_in_8bit": True}))
    read_encoder(write_bert(tmp_path))


@pytest.mark.jit
def test_head_of_another_task(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    tensors = {**bert_tensors(), "classifier.weight": np.zeros((2, C), np.float32), "classifier.bias": np.zeros(2, np.float32)}
    write_bert(tmp_path, tensors, architectures=["BertForSequenceClassification"])
    with caplog.at_level(logging.WARNING):
        EncoderForSequenceClassification.from_pretrained(tmp_path)
        assert caplog.messages == []
        EncoderForTokenClassification.from_pretrained(tmp_path)
    made_for = "its head is of BertForSequenceClassification, and is used as a head for token classification"
    assert caplog.messages == [f"{tmp_path / 'model.safetensors'}: {made_for}"]
    write_bert(tmp_path, tensors, architectures=["BertModel"])
    caplog.clear()
    EncoderForTokenClassification.from_pretrained(tmp_path)
    assert caplog.messages == []


@pytest.mark.jit
def test_repr() -> None:
    encoder = Encoder(EncoderConfig(2, 4, 32, 48, vocab_size=10))
    count = f"{encoder.parameters_count:,}"
    assert repr(encoder) == (
        f"Encoder(num_layers=2, num_heads=4, hidden_dim=32, ff_dim=48, vocab_size=10, {count} parameters, float32)"
    )
