"""A small language model with a tokenizer of whole words: word w7 is token 7."""

import shutil
from pathlib import Path
from typing import Any

from tests.support.golden_models import GOLDEN
from tests.support.models import write_json

TRUE, FALSE = 90, 91
SPECIAL = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>"}
# Of a reranker: a prompt of the system, the pair, and the beginning of the answer.
TEMPLATE = (
    "{%- if messages[0].role == 'system' %}<sys> {{ messages[0].content }} {% endif -%}\n"
    '<q> {{ messages | selectattr("role", "eq", "query") | map(attribute="content") | first }}'
    ' <d> {{ messages | selectattr("role", "eq", "document") | map(attribute="content") | first }} <eos> <a> w7'
)
PARTS = TEMPLATE.replace(
    'map(attribute="content") | first', 'map(attribute="content") | map("first") | map(attribute="text") | first'
).replace("messages[0].content", "messages[0].content[0].text")


def write_words(folder: Path, template: str | None = None, **settings: Any) -> None:
    """Write the tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = ["<pad>", "<bos>", "<eos>", "<q>", "<d>", *(f"w{i}" for i in range(5, 97))]
    words[TRUE:] = ["yes", "no", "<sys>", "<a>", "0", "4", "w96"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="w96"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer.json"))
    content = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 40, **SPECIAL, **settings}
    write_json(folder / "tokenizer_config.json", content | ({} if template is None else {"chat_template": template}))


def write_language_model(folder: Path, template: str | None = None, family: str = "qwen3", **settings: Any) -> Path:
    """Write a folder of transformers."""
    shutil.copytree(GOLDEN / family, folder, ignore=lambda _, names: [name for name in names if name.endswith(".npz")])
    write_words(folder, template, **settings)
    return folder


def write_reranker(folder: Path, template: str | None = None, false: int | None = FALSE, **settings: Any) -> Path:
    """Write a folder of sentence-transformers."""
    write_language_model(folder, template)
    prefix = "sentence_transformers"
    entries = [
        {"idx": 0, "name": "0", "path": "", "type": f"{prefix}.base.modules.transformer.Transformer"},
        {"idx": 1, "name": "1", "path": "1_LogitScore", "type": f"{prefix}.cross_encoder.modules.logit_score.LogitScore"},
    ]
    entry = {"method": "forward", "method_output_name": "logits"}
    kinds = {"text": entry} | ({} if template is None else {"message": {**entry, "format": "flat"}})
    write_json(folder / "modules.json", entries)
    write_json(
        folder / "sentence_bert_config.json",
        {"transformer_task": "text-generation", "modality_config": kinds, "module_output_name": "causal_logits", **settings},
    )
    scores = {"true_token_id": TRUE, "false_token_id": false, "module_input_name": "causal_logits"}
    write_json(folder / "1_LogitScore" / "config.json", scores)
    write_json(
        folder / "config_sentence_transformers.json",
        {"model_type": "CrossEncoder", "activation_fn": "torch.nn.modules.linear.Identity", "prompts": {}},
    )
    return folder
