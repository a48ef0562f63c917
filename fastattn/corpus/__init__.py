"""Corpora: files of texts to files of embeddings, by runs that can be killed and continued."""

from fastattn.corpus.job import Progress, Report, embed_file
from fastattn.corpus.verify import Verification, verify_file

__all__ = ["Progress", "Report", "Verification", "embed_file", "verify_file"]
