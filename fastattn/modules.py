"""The modules of a sentence-transformers model, with that library's names, arguments and folders."""

from fastattn.text.modules import Dense, Dropout, LayerNorm, Module, Normalize, Pooling, Transformer

__all__ = ["Dense", "Dropout", "LayerNorm", "Module", "Normalize", "Pooling", "Transformer"]
