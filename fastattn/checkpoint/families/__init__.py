"""The supported model families by ``model_type``, and the only list of them; a module for each set of tensor names."""

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.albert import ALBERT
from fastattn.checkpoint.families.bert import BERT
from fastattn.checkpoint.families.distilbert import DISTILBERT
from fastattn.checkpoint.families.electra import ELECTRA
from fastattn.checkpoint.families.ernie import ERNIE
from fastattn.checkpoint.families.family import Block, Family, Head, Names, Step
from fastattn.checkpoint.families.modernbert import MODERNBERT
from fastattn.checkpoint.families.mpnet import MPNET
from fastattn.checkpoint.families.nomic_bert import NOMIC_BERT
from fastattn.checkpoint.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA

__all__ = ["FAMILIES", "Block", "Family", "Head", "Names", "Settings", "Step"]

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "camembert": CAMEMBERT,
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "electra": ELECTRA,
    "ernie": ERNIE,
    "albert": ALBERT,
    "modernbert": MODERNBERT,
    "nomic_bert": NOMIC_BERT,
}
