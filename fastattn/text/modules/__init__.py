"""The modules of a sentence-transformers model, with that library's names, arguments and folders."""

from fastattn.text.modules.dense import Dense
from fastattn.text.modules.module import Module
from fastattn.text.modules.norms import Dropout, LayerNorm, Normalize
from fastattn.text.modules.pooling import Pooling
from fastattn.text.modules.transformer import Transformer

__all__ = ["Dense", "Dropout", "LayerNorm", "Module", "Normalize", "Pooling", "Transformer"]
