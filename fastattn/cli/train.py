"""`fastattn train`: a model fine-tuned on pairs, triplets or labels, or made from plain text."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastattn.cli import options
from fastattn.cli.terminal import announced_compiling, counted, is_watched, note, reported

if TYPE_CHECKING:
    from fastattn.training.state import TrainerState
    from fastattn.training.trainer import Trainer

__all__ = ["train"]

# Options by the names that arguments of a run have.
_OPTIONS = {
    "num_train_epochs": "--epochs",
    "per_device_train_batch_size": "--batch-size",
    "learning_rate": "--lr",
    "warmup_steps": "--warmup",
}
# Seconds between two lines where no bar is shown, and the share of all steps between two entries of the log.
_EVERY, _LOGGED = 10.0, 0.002


def train(
    data: Annotated[
        str,
        typer.Argument(
            help="Rows of a .jsonl, .csv, .tsv or .parquet file: pairs, triplets, pairs with a score, or texts with a label. "
            "With --mlm or --causal, texts: as for embed."
        ),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The model folder to write.", metavar="FOLDER")],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="The model to start from: a folder, or a name on the Hugging Face Hub.",
            show_default="all-MiniLM-L6-v2; none with --mlm and --causal",
            metavar="MODEL",
        ),
    ] = None,
    loss: Annotated[
        str | None,
        typer.Option(
            help="A loss of sentence-transformers.",
            show_default="MultipleNegativesRankingLoss, with labels CoSENTLoss",
            metavar="NAME",
        ),
    ] = None,
    epochs: Annotated[float, typer.Option(help="Passes over the data; a part of one counts.", metavar="NUMBER")] = 1.0,
    batch_size: Annotated[int, typer.Option(help="Rows of a step.", min=1)] = 32,
    lr: Annotated[
        float | None,
        typer.Option(
            help="The greatest learning rate.", show_default="2e-5; words 5e-5; LoRA 2e-4; from nothing 1e-3", metavar="NUMBER"
        ),
    ] = None,
    warmup: Annotated[
        float, typer.Option(help="Steps in which the rate rises, or, below 1, their share.", min=0, metavar="NUMBER")
    ] = 0.1,
    seed: Annotated[int, typer.Option(help="Of the order of the rows, of masks, dropout and new weights.", min=0)] = 42,
    dropout: Annotated[
        float | None,
        typer.Option(
            help="Probability that training drops an element.", show_default="the model's; from nothing 0", metavar="NUMBER"
        ),
    ] = None,
    lora_r: Annotated[
        int | None,
        typer.Option("--lora-r", help="Train a LoRA adapter of this rank, merged in FOLDER, in place of all weights.", min=1),
    ] = None,
    lora_alpha: Annotated[
        float | None, typer.Option("--lora-alpha", help="Its scale, times its rank.", show_default="--lora-r", metavar="NUMBER")
    ] = None,
    lora_target: Annotated[
        list[str] | None,
        typer.Option(
            "--lora-target",
            help="A product that it changes, by name, such as query or q_proj; all-linear for each.",
            show_default="queries and values",
            metavar="NAME",
        ),
    ] = None,
    mlm: Annotated[bool, typer.Option("--mlm", help="Learn masked words, from texts alone.")] = False,
    causal: Annotated[bool, typer.Option("--causal", help="Learn the next word, from texts alone.")] = False,
    vocab_size: Annotated[
        int | None,
        typer.Option(help="Tokens of a vocabulary trained on the texts.", show_default="each character is a token", min=1),
    ] = None,
    layers: Annotated[int | None, typer.Option(help="Layers of a model from nothing.", show_default="4", min=1)] = None,
    heads: Annotated[int | None, typer.Option(help="Its attention heads; must divide --dim.", show_default="4", min=1)] = None,
    dim: Annotated[int | None, typer.Option(help="Channels of its hidden states.", show_default="128", min=1)] = None,
    ff: Annotated[
        int | None, typer.Option(help="Channels inside its feed-forward network.", show_default="4 times --dim", min=1)
    ] = None,
    length: Annotated[
        int | None,
        typer.Option(help="Tokens of a block of text.", show_default="128; of a model 512 or what it takes", min=4),
    ] = None,
    eval_file: Annotated[
        str | None, typer.Option("--eval", help="Data whose loss is shown after each pass, read as DATA.", metavar="FILE")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            help="A column to train on, in this order; several are given each by itself.",
            show_default="all; of --mlm and --causal text",
            metavar="NAME",
        ),
    ] = None,
    format: options.Format = None,
    paragraphs: options.Paragraphs = False,
    encoding: options.Encoding = "utf-8",
    bf16: Annotated[
        bool, typer.Option("--bf16", help="Multiply in bfloat16: faster on a CPU with instructions for it, see info.")
    ] = False,
    save_every: Annotated[int, typer.Option(help="Steps between two checkpoints; 0 writes none.", min=0)] = 500,
    resume: Annotated[bool, typer.Option("--resume", help="Continue a run that did not finish.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace FOLDER, which may be MODEL, and an unfinished run.")
    ] = False,
    plot: Annotated[
        Path | None, typer.Option(help="Draw the loss into a .png, .svg or .pdf file; needs the extra viz.", metavar="FILE")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the closing line as a JSON object on stdout.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only warnings and errors.")] = False,
) -> None:
    """Train a model: fine-tune one on rows, or teach one words.

    Columns of texts in a row are an anchor, its match and perhaps others that do not match; one named label, labels, score or
    scores holds numbers. A reranker learns from pairs with a label. With --mlm or --causal and without --model, a model is made
    from nothing, with a tokenizer of its own.

    FOLDER is written in one step at the end. Until then checkpoints are in FOLDER.partial, each whole: whenever a run ends,
    --resume with the same options continues it, and the weights are the same bits as of a run in one piece, for any number of
    threads.
    """
    with reported(prints=as_json), announced_compiling():
        # What trains is imported when it is needed: the help does not wait for it.
        from fastattn.cli import training_run
        from fastattn.cli.training_curve import check_plot
        from fastattn.training.arguments import TrainingArguments

        sizes = training_run.Sizes(layers, heads, dim, ff, vocab_size)
        lora = training_run.Lora(lora_r, lora_alpha, lora_target or [])
        reading = (data, eval_file, format, column or [], paragraphs, encoding)
        request = training_run.Request(*reading, model, loss, mlm, causal, sizes, length, dropout, seed, lora)
        training_run.check_request(request)
        if plot is not None:
            check_plot(plot)
        if out.name in ("", ".."):
            raise ValueError(f"--out must name a folder to be written, got {str(out)!r}")
        work = out.with_name(f"{out.name}.partial")
        _check_output(out, work, resume, overwrite)
        with _by_option():
            args = TrainingArguments(
                str(work),
                num_train_epochs=epochs,
                per_device_train_batch_size=batch_size,
                per_device_eval_batch_size=batch_size,
                learning_rate=training_run.learning_rate(request) if lr is None else lr,
                warmup_steps=warmup,
                logging_steps=_LOGGED,
                logging_first_step=True,
                save_strategy="steps" if save_every else "no",
                save_steps=max(1, save_every),
                save_total_limit=1,
                eval_strategy="no" if eval_file is None else "epoch",
                seed=seed,
                bf16=bf16,
                disable_tqdm=quiet or not is_watched(),
            )
        trainer = training_run.make_trainer(request, args, [] if quiet else [_Lines()])
        if not resume:
            shutil.rmtree(work, ignore_errors=True)
        try:
            result = trainer.train(resume_from_checkpoint=resume or None)
            _replace(out, trainer)
        except FloatingPointError as error:
            raise ValueError(f"{error} (--lr)") from None
        except BaseException as error:
            if not isinstance(error, (ValueError, TypeError)):
                _say_how_to_resume(work)
            raise
        finally:
            # A run that ended before its first checkpoint leaves nothing.
            with contextlib.suppress(OSError):
                work.rmdir()
        shutil.rmtree(work, ignore_errors=True)
        _close(trainer, result.metrics, out, plot, as_json, quiet)


@contextlib.contextmanager
def _by_option() -> Iterator[None]:
    """Let the message about an argument begin with the name of its option."""
    try:
        yield
    except ValueError as error:
        name, _, rest = str(error).partition(" ")
        raise ValueError(f"{_OPTIONS.get(name, name)} {rest}") from None


def _check_output(out: Path, work: Path, resume: bool, overwrite: bool) -> None:
    """Raise unless the output may be written, and an unfinished run continued or removed."""
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out}: is there already: --overwrite replaces it")
    if out.exists() and not any((out / name).is_file() for name in ("config.json", "modules.json")):
        raise FileExistsError(f"{out}: is not a model folder, so it is not replaced: give another --out")
    if not out.absolute().parent.is_dir():
        raise FileNotFoundError(f"{out.absolute().parent}: no such folder")
    if work.is_dir() and any(work.iterdir()) and not resume and not overwrite:
        raise FileExistsError(f"{work}: has an unfinished run: --resume continues it, --overwrite begins anew")


def _newest(work: Path) -> Path | None:
    from fastattn.training.checkpoints import find

    with contextlib.suppress(FileNotFoundError):
        return find(str(work), True)
    return None


def _say_how_to_resume(work: Path) -> None:
    found = _newest(work)
    if found is None:
        note(f"{work}: has no checkpoint yet: begin anew, perhaps with a smaller --save-every", style="yellow")
        shutil.rmtree(work, ignore_errors=True)
    else:
        note(f"{found}: is whole: the same command with --resume continues from there", style="yellow")


def _replace(out: Path, trainer: Trainer) -> None:
    """Write the model under another name, then put it in the place of the output."""
    # The folder behind a link is replaced, not the link.
    out, mark = Path(os.path.realpath(out)), uuid.uuid4().hex[:8]
    new, old = (out.with_name(f".{out.name}.{mark}.{kind}") for kind in ("new", "old"))
    try:
        trainer.save_model(str(new))
        if out.exists():
            out.rename(old)
        new.rename(out)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        if old.exists() and not out.exists():
            old.rename(out)
    shutil.rmtree(old, ignore_errors=True)


class _Lines:
    """Prints how far a run is, from time to time where no bar is shown, and each evaluation."""

    def __init__(self) -> None:
        self._said = self._begun = time.perf_counter()
        self._first: tuple[int, int] | None = None

    def __call__(self, state: TrainerState, entry: dict[str, Any]) -> None:
        """Take an entry of the log."""
        if "eval_loss" in entry:
            shown = ", ".join(f"{name.removeprefix('eval_')} {entry[name]:.4f}" for name in entry if name.startswith("eval_"))
            note(f"step {state.global_step:,}: evaluation {shown}")
        if "learning_rate" not in entry:
            return
        now, tokens = time.perf_counter(), state.num_input_tokens_seen
        if self._first is None:
            # From the first entry on: before it, kernels may be compiled.
            self._first, self._begun = (state.global_step, tokens), now
        steps = state.global_step - self._first[0]
        if is_watched() or now - self._said < _EVERY or not steps:
            return
        self._said = now
        seconds = now - self._begun
        rate, left = (tokens - self._first[1]) / seconds, seconds * (state.max_steps - state.global_step) / steps
        note(
            f"step {state.global_step:,} of {state.max_steps:,}, loss {entry['loss']:.4f}, {rate:,.0f} tokens/s, {left:,.0f} s left"
        )


def _close(trainer: Trainer, metrics: dict[str, float], out: Path, plot: Path | None, as_json: bool, quiet: bool) -> None:
    """Draw the loss, and say what was done."""
    from fastattn.cli.training_curve import curve, draw_curve, sparkline

    state = trainer.state
    if plot is not None:
        draw_curve(plot, state.log_history)
    _, values = curve(state.log_history)
    evaluation = {name: value for entry in state.log_history for name, value in entry.items() if name.startswith("eval_")}
    speed = metrics["train_tokens_per_second"]
    if as_json:
        report = {
            "out": str(out),
            "steps": state.global_step,
            "epochs": state.epoch,
            "tokens": state.num_input_tokens_seen,
            "tokens_per_second": speed,
            "seconds": metrics["train_runtime"],
            "first_loss": values[0],
            "loss": values[-1],
            **evaluation,
        }
        typer.echo(json.dumps(report))
    elif not quiet:
        note(f"loss {values[0]:.4f} {sparkline(values)} {values[-1]:.4f}")
        note(f"{counted(state.global_step, 'step')}, {counted(state.num_input_tokens_seen, 'token')}, {speed:,.0f} tokens/s: {out}")
