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
    "pooler_dropout",
    "problem_type", "qa_dropout", "return_dict", "self", "sep_token_id", "seq_classif_dropout", "sparse_pred_ignore_index",
    "sparse_prediction", "transformers_version", "use_cache",
}  # fmt: skip
# Read by the reader, not by the families.
READ = {"id2label", "model_type", "tie_word_embeddings"}
# Tables hold what these say, DeBERTa-v2's are read with the embeddings of distances,
# ELECTRA's summary is of multiple choice, and ModernBERT's layer_types come first.
_T5 = {
    "decoder_start_token_id",
    "dense_act_fn",
    "initializer_factor",
    "is_decoder",
    "is_gated_act",
    "num_decoder_layers",
    "scale_decoder_outputs",
}
OF_FAMILIES = {
    # The projection's tensor says its width.
    "clip_text_model": {"initializer_factor", "projection_dim"},
    "clip": {"initializer_factor", "projection_dim", "logit_scale_init_value", "vision_config"},
    # Positions of a table have no base, and tokens are masked with token_dropout only; the others are of protein structures.
    "esm": {"esmfold_config", "mask_token_id", "rope_theta", "vocab_list"},
    # Of the decoder, and what follows from feed_forward_proj.
    "t5": _T5,
    "mt5": _T5,
    "deberta-v2": {"norm_rel_ebd", "share_att_key"},
    "distilbert": {"sinusoidal_pos_embds"},
    "electra": {"summary_activation", "summary_last_dropout", "summary_type", "summary_use_proj"},
    "ernie": {"task_type_vocab_size"},
    "eurobert": {"mask_token_id", "pretraining_tp"},
    # Saved beside the layer_types that it gives.
    "gemma3_text": {"_sliding_window_pattern", "attn_logit_softcapping"},
    "neobert": {
        "auto_map",
        "classifier_init_range",
        "decoder_init_range",
        "dim_head",
        "embedding_init_range",
        "kwargs",
        "torch_dtype",
    },
    "modernbert": {"global_attn_every_n_layers"},
    # Read where longer texts have other angles.
    "nomic_bert": {"auto_map", "max_trained_positions"},
}
# Families whose class is not in transformers.
REMOTE = {"neobert", "bidirectional_pplx_qwen3"}


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
            family.absent(settings, stem)
        for layer in range(config.num_layers):
            names.layer(settings, layer)
    return set(content) - values.asked - WITHOUT_EFFECT - READ - OF_FAMILIES.get(model_type, set())


@pytest.mark.parametrize("name", GOLDEN_MODELS)
def test_keys_of_a_file(name: str) -> None:
    assert unread(json.loads((GOLDEN / name / "config.json").read_text())) == set()


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in REMOTE])
def test_keys_that_the_class_of_transformers_has(name: str) -> None:
    transformers = pytest.importorskip("transformers")
    kind = getattr(transformers, FAMILIES[name].model_class.removesuffix("Model").removesuffix("Encoder") + "Config")
    content = kind().to_dict()
    # ESM's class has none of these, and its files do.
    content |= {key: 9 for key in ("pad_token_id", "vocab_size") if content.get(key) is None}
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
