"""The model families that are read: one module for each kind of names, one entry for each ``model_type``."""

from fastattn.families._family import Dense, Family, Head, Names, Rows
from fastattn.families._settings import Settings
from fastattn.families.albert import ALBERT
from fastattn.families.bert import BERT
from fastattn.families.distilbert import DISTILBERT
from fastattn.families.electra import ELECTRA
from fastattn.families.modernbert import MODERNBERT
from fastattn.families.mpnet import MPNET
from fastattn.families.nomic_bert import NOMIC_BERT
from fastattn.families.roberta import ROBERTA

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
