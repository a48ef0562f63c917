"""Backend of KeyBERT."""

from __future__ import annotations

from keybert.backend import BaseEmbedder

from fastattn.integrations.backend import ModelBackend

__all__ = ["Backend"]


class Backend(ModelBackend, BaseEmbedder):
    """Embeds with a fastattn model."""
