"""Evaluators of models, with sentence-transformers' names, arguments and metrics."""

from fastattn.training.evaluation.classification import BinaryClassificationEvaluator, LabelAccuracyEvaluator
from fastattn.training.evaluation.evaluator import BaseEvaluator, SequentialEvaluator
from fastattn.training.evaluation.retrieval import InformationRetrievalEvaluator
from fastattn.training.evaluation.similarity import EmbeddingSimilarityEvaluator, TripletEvaluator

__all__ = [
    "BaseEvaluator",
    "BinaryClassificationEvaluator",
    "EmbeddingSimilarityEvaluator",
    "InformationRetrievalEvaluator",
    "LabelAccuracyEvaluator",
    "SequentialEvaluator",
    "TripletEvaluator",
]
