"""The model families that are read: one module for each kind of names, one entry for each ``model_type``."""

from fastattn.checkpoint.config_json import Settings
from fastattn.checkpoint.families.albert import ALBERT
from fastattn.checkpoint.families.bert import BERT
from fastattn.checkpoint.families.distilbert import DISTILBERT
from fastattn.checkpoint.families.electra import ELECTRA
from fastattn.checkpoint.families.family import Dense, Family, Head, Names, Rows
from fastattn.checkpoint.families.modernbert import MODERNBERT
from fastattn.checkpoint.families.mpnet import MPNET
from fastattn.checkpoint.families.nomic_bert import NOMIC_BERT
from fastattn.checkpoint.families.roberta import ROBERTA

__all__ = ["FAMILIES", "Dense", "Family", "Head", "Names", "Rows", "Settings"]

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
    "distilbert": DISTILBERT,
    "mpnet": MPNET,
    "electra": ELECTRA,
    "albert": ALBERT,
    "modernbert": MODERNBERT,
    "nomic_bert": NOMIC_BERT,
}
