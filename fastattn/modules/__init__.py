"""The modules of a sentence-transformers model, with that library's names, arguments and folders."""

from fastattn.modules._module import Module
from fastattn.modules.dense import Dense
from fastattn.modules.norms import Dropout, LayerNorm, Normalize
from fastattn.modules.pooling import Pooling
from fastattn.modules.transformer import Transformer

__all__ = ["Dense", "Dropout", "LayerNorm", "Module", "Normalize", "Pooling", "Transformer"]
