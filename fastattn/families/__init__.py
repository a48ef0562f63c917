"""The model families that are read: one module for each kind of names, one entry for each ``model_type``."""

from fastattn.families._family import Dense, Family, Head, Rows
from fastattn.families._settings import Settings
from fastattn.families.bert import BERT
from fastattn.families.roberta import ROBERTA

__all__ = ["FAMILIES", "Dense", "Family", "Head", "Rows", "Settings"]

FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": ROBERTA,
    "camembert": ROBERTA,
}
