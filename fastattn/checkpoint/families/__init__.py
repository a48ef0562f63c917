"""The supported model families by ``model_type``, and the only list of them; a module for each set of tensor names."""

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.albert import ALBERT
from fastattn.checkpoint.families.clip import CLIP, CLIP_TEXT
from fastattn.checkpoint.families.deberta import DEBERTA, DEBERTA_V2
from fastattn.checkpoint.families.distilbert import DISTILBERT
from fastattn.checkpoint.families.electra import ELECTRA
from fastattn.checkpoint.families.ernie import ERNIE
from fastattn.checkpoint.families.esm import ESM
from fastattn.checkpoint.families.family import Block, Derive, Family, Head, Names, Step, Stored
from fastattn.checkpoint.families.gemma3 import GEMMA3
from fastattn.checkpoint.families.gte import GTE, NEW
from fastattn.checkpoint.families.jina_bert import BERT_OR_JINA
from fastattn.checkpoint.families.jina_embeddings_v3 import JINA_EMBEDDINGS_V3
from fastattn.checkpoint.families.modernbert import MODERNBERT
from fastattn.checkpoint.families.mpnet import MPNET
from fastattn.checkpoint.families.neobert import NEOBERT
from fastattn.checkpoint.families.nomic_bert import NOMIC_BERT
from fastattn.checkpoint.families.qwen import EUROBERT, PPLX_QWEN3, QWEN2, QWEN3
from fastattn.checkpoint.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from fastattn.checkpoint.families.t5 import MT5, T5

__all__ = ["FAMILIES", "Block", "Derive", "Family", "Head", "Names", "Settings", "Step", "Stored"]

FAMILIES: dict[str, Family] = {
    "bert": BERT_OR_JINA,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "camembert": CAMEMBERT,
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "electra": ELECTRA,
    "ernie": ERNIE,
    "albert": ALBERT,
    "deberta": DEBERTA,
    "deberta-v2": DEBERTA_V2,
    "modernbert": MODERNBERT,
    "nomic_bert": NOMIC_BERT,
    "gte": GTE,
    "esm": ESM,
    "new": NEW,
    "jina_embeddings_v3": JINA_EMBEDDINGS_V3,
    "t5": T5,
    "mt5": MT5,
    "clip": CLIP,
    "clip_text_model": CLIP_TEXT,
    "qwen3": QWEN3,
    "bidirectional_pplx_qwen3": PPLX_QWEN3,
    "qwen2": QWEN2,
    "eurobert": EUROBERT,
    "neobert": NEOBERT,
    "gemma3_text": GEMMA3,
}
