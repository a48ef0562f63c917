"""Backend of BERTopic."""

from __future__ import annotations

from bertopic.backend import BaseEmbedder

from fastattn.integrations.backend import ModelBackend

__all__ = ["Backend"]


class Backend(ModelBackend, BaseEmbedder):
    """Embeds with a fastattn model."""
