"""Ray: embeddings by the actors of a cluster, of a dataset of Ray Data or of the files of a corpus."""

from fastattn.ray.dataset import embed_dataset
from fastattn.ray.engine import Engine

__all__ = ["Engine", "embed_dataset"]
