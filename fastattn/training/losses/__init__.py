"""Losses of embeddings, with sentence-transformers' names and arguments."""

from fastattn.training.losses.distances import (
    ContrastiveLoss,
    OnlineContrastiveLoss,
    SiameseDistanceMetric,
    TripletDistanceMetric,
    TripletLoss,
)
from fastattn.training.losses.distillation import DistillKLDivLoss, MarginMSELoss, MSELoss
from fastattn.training.losses.loss import Loss
from fastattn.training.losses.matryoshka import MatryoshkaLoss
from fastattn.training.losses.ranking import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from fastattn.training.losses.scored_pairs import AnglELoss, CoSENTLoss, CosineSimilarityLoss
from fastattn.training.losses.softmax import SoftmaxLoss

__all__ = [
    "AnglELoss",
    "CachedMultipleNegativesRankingLoss",
    "CoSENTLoss",
    "ContrastiveLoss",
    "CosineSimilarityLoss",
    "DistillKLDivLoss",
    "Loss",
    "MSELoss",
    "MarginMSELoss",
    "MatryoshkaLoss",
    "MultipleNegativesRankingLoss",
    "MultipleNegativesSymmetricRankingLoss",
    "OnlineContrastiveLoss",
    "SiameseDistanceMetric",
    "SoftmaxLoss",
    "TripletDistanceMetric",
    "TripletLoss",
]
