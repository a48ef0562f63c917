"""The modules of a sentence-transformers model, with that library's names, arguments and folders."""

from fastattn.text.modules.dense import Dense
from fastattn.text.modules.input_module import InputModule
from fastattn.text.modules.logit_score import LogitScore
from fastattn.text.modules.module import Module
from fastattn.text.modules.multi_vector_mask import MultiVectorMask
from fastattn.text.modules.norms import Dropout, LayerNorm, Normalize
from fastattn.text.modules.pooling import Pooling
from fastattn.text.modules.router import Router
from fastattn.text.modules.sparse_auto_encoder import SparseAutoEncoder
from fastattn.text.modules.sparse_linear import SparseLinear
from fastattn.text.modules.sparse_static_embedding import SparseStaticEmbedding
from fastattn.text.modules.splade_pooling import SpladePooling
from fastattn.text.modules.static_embedding import StaticEmbedding
from fastattn.text.modules.token_pooling import BaseTokenPooling, HierarchicalTokenPooling, LambdaTokenPooling
from fastattn.text.modules.transformer import Transformer

__all__ = [
    "BaseTokenPooling",
    "Dense",
    "Dropout",
    "HierarchicalTokenPooling",
    "InputModule",
    "LambdaTokenPooling",
    "LayerNorm",
    "LogitScore",
    "Module",
    "MultiVectorMask",
    "Normalize",
    "Pooling",
    "Router",
    "SparseAutoEncoder",
    "SparseLinear",
    "SparseStaticEmbedding",
    "SpladePooling",
    "StaticEmbedding",
    "Transformer",
]
