"""`fit`, the training method of sentence-transformers' older interface."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from fastattn.text.adapters import AdapterModel

__all__ = ["CrossEncoderFit", "SentenceTransformerFit"]

_RATE: Mapping[str, Any] = MappingProxyType({"lr": 2e-5})


def _training() -> Any:
    # Training stands above the text models, and nobody who only encodes waits for it.
    return importlib.import_module("fastattn.training.fit")


class SentenceTransformerFit(AdapterModel):
    """Training of a SentenceTransformer under its older name."""

    def fit(
        self,
        train_objectives: Iterable[tuple[Any, Any]],
        evaluator: Callable[..., Any] | None = None,
        epochs: int = 1,
        steps_per_epoch: int | None = None,
        scheduler: str = "WarmupLinear",
        warmup_steps: int = 10000,
        optimizer_class: Any = None,
        optimizer_params: Mapping[str, Any] = _RATE,
        weight_decay: float = 0.01,
        evaluation_steps: int = 0,
        output_path: str | None = None,
        save_best_model: bool = True,
        max_grad_norm: float = 1,
        use_amp: bool = False,
        callback: Callable[[float, float, int], object] | None = None,
        show_progress_bar: bool = True,
        checkpoint_path: str | None = None,
        checkpoint_save_steps: int = 500,
        checkpoint_save_total_limit: int = 0,
        resume_from_checkpoint: bool = False,
    ) -> None:
        """Train the model on examples: `fastattn.training.SentenceTransformerTrainer` under its older name.

        Parameters
        ----------
        train_objectives : sequence of (examples, loss)
            Examples are `fastattn.training.InputExample`, in a list (batches of 8), in batches of them, or in a DataLoader of
            torch or sentence-transformers.  The loss is one of `fastattn.training.losses`.  Of several, each gives a batch in
            turn, and the batch size is that of the last.  Labels that are all 0, the default, are none.  A loader that shuffles
            is read in its dataset's order, since the trainer shuffles; another sampler decides which rows there are.  A
            `NoDuplicatesDataLoader` keeps texts from standing twice in any batch; a `SentenceLabelDataset` groups batches by
            label, and then all must.
        evaluator : callable, optional
            Called with the model, a folder, epoch and step, after each epoch and every `evaluation_steps`.
        epochs : int
            Passes over the data.
        steps_per_epoch : int, optional
            Steps of a pass; by default all batches.
        scheduler : str
            "constantlr", "warmupconstant", "warmuplinear", "warmupcosine" or "warmupcosinewithhardrestarts", in any case.
        warmup_steps : int
            Steps in which the learning rate rises.
        optimizer_class : class, optional
            AdamW, Adam, SGD, RMSprop or Adagrad, of `fastattn.training` or of torch; by default AdamW.
        optimizer_params : mapping
            Arguments of the optimiser.
        weight_decay : float
            Of all parameters but biases and norms.
        evaluation_steps : int
            Steps between two evaluations; 0: only after each epoch.
        output_path : str, optional
            Folder to which the model is written.
        save_best_model : bool
            With an evaluator, write the model whose score is best; else the last.
        max_grad_norm : float
            Norm to which the gradient of a step is clipped.
        use_amp : bool
            Must be False: training computes in float32.
        callback : callable, optional
            Called with score, epoch and step after each evaluation.
        show_progress_bar : bool
            Show a progress bar.
        checkpoint_path : str, optional
            Folder of checkpoints.
        checkpoint_save_steps : int
            Steps between two checkpoints.
        checkpoint_save_total_limit : int
            Checkpoints that are kept; 0 keeps all.
        resume_from_checkpoint : bool
            Go on from the newest checkpoint in `checkpoint_path`, if there is one.
        """
        _training().fit_sentence_transformer(
            self,
            train_objectives,
            learning={
                "scheduler": scheduler,
                "optimizer_class": optimizer_class,
                "optimizer_params": optimizer_params,
                "use_amp": use_amp,
            },
            arguments={
                "epochs": epochs,
                "warmup_steps": warmup_steps,
                "weight_decay": weight_decay,
                "max_grad_norm": max_grad_norm,
                "disable_tqdm": not show_progress_bar,
                "checkpoint_path": checkpoint_path,
                "save_steps": checkpoint_save_steps,
                "save_total_limit": checkpoint_save_total_limit,
                "resume_from_checkpoint": resume_from_checkpoint,
            },
            evaluator=evaluator,
            steps_per_epoch=steps_per_epoch,
            evaluation_steps=evaluation_steps,
            output_path=output_path,
            save_best_model=save_best_model,
            callback=callback,
        )


class CrossEncoderFit(AdapterModel):
    """Training of a CrossEncoder under its older name."""

    def fit(
        self,
        train_dataloader: Any,
        evaluator: Callable[..., Any] | None = None,
        epochs: int = 1,
        loss_fct: Any = None,
        activation_fct: Any = None,
        scheduler: str = "WarmupLinear",
        warmup_steps: int = 10000,
        optimizer_class: Any = None,
        optimizer_params: Mapping[str, Any] = _RATE,
        weight_decay: float = 0.01,
        evaluation_steps: int = 0,
        output_path: str | None = None,
        save_best_model: bool = True,
        max_grad_norm: float = 1,
        use_amp: bool = False,
        callback: Callable[[float, float, int], object] | None = None,
        show_progress_bar: bool = True,
    ) -> None:
        """Train the model on examples of pairs: `fastattn.training.CrossEncoderTrainer` under its older name.

        Parameters
        ----------
        train_dataloader : examples
            `fastattn.training.InputExample` of two texts, in a list (batches of 8), in batches of them, or in a DataLoader,
            which is read as by `SentenceTransformer.fit`; labels of 0 stay.
        evaluator : callable, optional
            Called with the model, a folder, epoch and step, after each epoch and every `evaluation_steps`.
        epochs : int
            Passes over the data.
        loss_fct : Loss or class of one, optional
            Of `fastattn.training.cross_encoder_losses`; by default binary cross-entropy, of several labels cross-entropy.
        activation_fct : callable or str, optional
            Of the logits, before the default loss.
        scheduler : str
            As of `SentenceTransformer.fit`.
        warmup_steps : int
            Steps in which the learning rate rises.
        optimizer_class : class, optional
            AdamW, Adam, SGD, RMSprop or Adagrad, of `fastattn.training` or of torch; by default AdamW.
        optimizer_params : mapping
            Arguments of the optimiser.
        weight_decay : float
            Of all parameters but biases and norms.
        evaluation_steps : int
            Steps between two evaluations; 0: only after each epoch.
        output_path : str, optional
            Folder to which the model is written.
        save_best_model : bool
            With an evaluator, write the model whose score is best; else the last.
        max_grad_norm : float
            Norm to which the gradient of a step is clipped.
        use_amp : bool
            Must be False: training computes in float32.
        callback : callable, optional
            Called with score, epoch and step after each evaluation.
        show_progress_bar : bool
            Show a progress bar.
        """
        _training().fit_cross_encoder(
            self,
            train_dataloader,
            learning={
                "scheduler": scheduler,
                "optimizer_class": optimizer_class,
                "optimizer_params": optimizer_params,
                "use_amp": use_amp,
            },
            arguments={
                "epochs": epochs,
                "loss_fct": loss_fct,
                "activation_fct": activation_fct,
                "warmup_steps": warmup_steps,
                "weight_decay": weight_decay,
                "max_grad_norm": max_grad_norm,
                "disable_tqdm": not show_progress_bar,
            },
            evaluator=evaluator,
            evaluation_steps=evaluation_steps,
            output_path=output_path,
            save_best_model=save_best_model,
            callback=callback,
        )
