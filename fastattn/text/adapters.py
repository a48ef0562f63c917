"""LoRA adapters of a text model, under the names of sentence-transformers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastattn.checkpoint.lora import adapter_folder
from fastattn.checkpoint.lora_config import LoraConfig
from fastattn.checkpoint.trainable import TrainableCheckpoint
from fastattn.text.modules import Transformer
from fastattn.text.modules.learned import learn

__all__ = ["AdapterModel"]


class AdapterModel:
    """Adapters of a model whose first module is a Transformer."""

    _first_module: Callable[[], Any]
    model_card_data: Any

    def add_adapter(self, adapter_config: Any, adapter_name: str | None = None) -> None:
        """Let low-rank changes of some products learn in place of the Transformer's weights, which stay as they are.

        Modules behind the Transformer learn as before.  A trainer that is made afterwards trains the adapter, one that was made
        before raises a ValueError; then the model encodes with it, `save_pretrained` writes the weights with it, and
        `save_adapter` writes it alone.

        Parameters
        ----------
        adapter_config : fastattn.training.LoraConfig, or peft.LoraConfig
            Which products, and how.
        adapter_name : str, optional
            Ignored, for compatibility.

        Raises
        ------
        TypeError
            `adapter_config` is of another kind.
        ValueError
            The model has an adapter already, no product that the configuration names, or no Transformer.
        """
        config = LoraConfig.of(adapter_config)
        learn(self._adapted()).checkpoint.add_adapter(config)

    def load_adapter(self, peft_model_id: str | os.PathLike[str], adapter_name: str | None = None) -> None:
        """Take over the adapter of a folder, which learns where the model is trained further.

        Parameters
        ----------
        peft_model_id : str or path
            A folder with ``adapter_config.json`` and ``adapter_model.safetensors``, or a name on the Hugging Face Hub.
        adapter_name : str, optional
            Ignored, for compatibility.

        Raises
        ------
        FileNotFoundError
            A file is missing.
        CheckpointError
            The adapter is of another model, or of a kind that is not supported.
        ValueError
            The model has an adapter already, or no Transformer.
        """
        module = self._adapted()
        learned = learn(module)
        learned.checkpoint.load_adapter(adapter_folder(peft_model_id))
        learned.install(module)

    def save_adapter(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the adapter alone, as peft does: ``adapter_config.json`` and ``adapter_model.safetensors``.

        Parameters
        ----------
        save_directory : str or path
            Folder to write; created if missing.

        Raises
        ------
        ValueError
            The model has no adapter.
        """
        base = self.model_card_data.base_model if hasattr(self.model_card_data, "base_model") else None
        self._checkpoint_with_adapter().write_adapter(Path(save_directory), base or str(self._adapted().folder))

    def get_adapter_state_dict(self, adapter_name: str | None = None) -> dict[str, NDArray[np.float32]]:
        """Return the arrays of the adapter by the names that they have in peft's file.

        Parameters
        ----------
        adapter_name : str, optional
            Ignored, for compatibility.

        Returns
        -------
        dict of str to float32 arrays
            A as ``<module>.lora_A.weight`` (r, C_in), B as ``<module>.lora_B.weight`` (C_out, r), and what learns as a whole.

        Raises
        ------
        ValueError
            The model has no adapter.
        """
        adapter = self._checkpoint_with_adapter().adapter
        return {} if adapter is None else {name: array.copy() for name, array in adapter.state_dict().items()}

    def active_adapters(self) -> list[str]:
        """Return the names of the adapters.

        Returns
        -------
        list of str
            "default" for one, nothing without.
        """
        learned = getattr(self._first_module(), "_learned", None)
        return [] if learned is None or learned.checkpoint.adapter is None else ["default"]

    def _adapted(self) -> Transformer:
        module = self._first_module()
        if not isinstance(module, Transformer):
            raise ValueError(f"adapters need a model that begins with a Transformer, got a {type(module).__name__}")
        return module

    def _checkpoint_with_adapter(self) -> TrainableCheckpoint:
        module = self._adapted()
        if not self.active_adapters():
            raise ValueError("the model has no adapter: add_adapter adds one")
        return learn(module).checkpoint
