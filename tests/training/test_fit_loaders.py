"""What `fit` takes from a DataLoader: rows in an order of their own, labels, batches without duplicates or grouped by label."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastattn import CrossEncoder, SentenceTransformer
from fastattn.training import InputExample, data, fit, losses
from tests.support.models import write_sentence_model
from tests.training.test_fit import POSITIVES, QUICK, TEXTS, examples

pytestmark = pytest.mark.jit


class RandomSampler:
    """Rows in any order, as torch's."""

    def __init__(self, data_source: Any, replacement: bool = False, num_samples: int | None = None) -> None:
        self.data_source, self.replacement = data_source, replacement
        self.num_samples = len(data_source) if num_samples is None else num_samples

    def __iter__(self) -> Iterator[int]:
        order = np.random.default_rng().permutation(len(self.data_source))
        return iter(order[: self.num_samples].tolist())


class Chosen(list[int]):
    """Rows that a program chose."""


class BatchSampler:
    """Rows of each batch, as torch's."""

    def __init__(self, sampler: Any, batch_size: int, drop_last: bool = False) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[int]]:
        rows = list(self.sampler)
        for start in range(0, len(rows), self.batch_size):
            if not self.drop_last or start + self.batch_size <= len(rows):
                yield rows[start : start + self.batch_size]


class BatchesOfOwn(BatchSampler):
    """Batches that a program chose."""


class Loader:
    """Reads a dataset by a sampler, as torch's DataLoader."""

    def __init__(self, dataset: Any, batch_sampler: Any = None, sampler: Any = None, batch_size: int | None = None) -> None:
        self.dataset, self.batch_sampler, self.batch_size = dataset, batch_sampler, batch_size
        self.sampler = sampler if batch_sampler is None else batch_sampler.sampler
        self.collate_fn: Callable[[Any], Any] = tuple

    def __iter__(self) -> Iterator[Any]:
        for rows in self.sampler if self.batch_sampler is None else self.batch_sampler:
            yield self.collate_fn([self.dataset[i] for i in rows] if self.batch_sampler is not None else self.dataset[rows])


class NoDuplicatesDataLoader:
    """Shuffles its examples where they stand, as that of sentence-transformers."""

    def __init__(self, train_examples: list[InputExample], batch_size: int) -> None:
        self.train_examples, self.batch_size, self.collate_fn = train_examples, batch_size, None
        np.random.default_rng().shuffle(self.train_examples)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[InputExample]]:
        for start in range(0, len(self.train_examples), self.batch_size):
            yield self.train_examples[start : start + self.batch_size]


class SentenceLabelDataset:
    """Examples of a label together, as that of sentence-transformers."""

    def __init__(self, rows: list[InputExample]) -> None:
        self.grouped_inputs = sorted(rows, key=lambda row: row.label)

    def __iter__(self) -> Iterator[InputExample]:
        order = np.random.default_rng().permutation(len(self.grouped_inputs))
        return (self.grouped_inputs[i] for i in order)


class IterableLoader(Loader):
    """Reads a dataset that has no places, as torch's DataLoader."""

    def __iter__(self) -> Iterator[Any]:
        rows = list(self.dataset)
        for start in range(0, len(rows), self.batch_size or 1):
            yield self.collate_fn(rows[start : start + (self.batch_size or 1)])


def shuffled(rows: Any, batch_size: int = 8, drop_last: bool = False) -> Loader:
    return Loader(rows, BatchSampler(RandomSampler(rows), batch_size, drop_last), batch_size=batch_size)


def taken(loader: Any) -> list[str]:
    return list(fit._read(loader, "loader").columns["sentence_0"])


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Return the batch sampler of each epoch's batches, and the rows of a batch, as a run asks for them."""
    found = []
    theirs = data.epoch_batches

    def batches(rows: Any, args: Any, epoch: int) -> Any:
        found.append((args.batch_sampler, args.per_device_train_batch_size))
        return theirs(rows, args, epoch)

    monkeypatch.setattr("fastattn.training.trainer.epoch_batches", batches)
    return found


@pytest.mark.parametrize("label", [0, 0.0, np.float32(0)])
def test_labels_that_are_all_zero_are_none(label: Any, tmp_path: Path) -> None:
    # AnglELoss would take them for scores, and push the positives away.
    write_sentence_model(tmp_path / "model")
    found = []
    for given in (None, label):
        model = SentenceTransformer(str(tmp_path / "model"))
        rows = [
            InputExample(texts=[a, b, c], label=given)
            for a, b, c in zip(TEXTS, POSITIVES, POSITIVES[1:] + POSITIVES[:1], strict=True)
        ]
        before = margin(model)
        model.fit([(rows, losses.AnglELoss(model))], epochs=2, **QUICK)
        assert margin(model) > before
        found.append(model.encode(TEXTS))
    assert np.array_equal(*found)


def margin(model: SentenceTransformer) -> float:
    """Return by how much texts are nearer to their positives than to others."""
    a, b = (model.encode(texts, normalize_embeddings=True) for texts in (TEXTS, POSITIVES))
    return float((a * b).sum(1).mean() - (a * np.roll(b, -1, 0)).sum(1).mean())


@pytest.mark.parametrize("labels", [[0] * 31 + [1], [[0, 0]] * 32, [np.zeros(2)] * 32])
def test_other_labels_stay(labels: list[Any]) -> None:
    assert "label" in fit._read(examples(labels), "rows", zeros=False).columns


def test_a_cross_encoder_keeps_its_zeros(reranker: CrossEncoder) -> None:
    rows = examples([0.0] * len(TEXTS))
    before = reranker.predict([row.texts for row in rows])  # type: ignore[misc]
    reranker.fit(rows, **QUICK)
    assert reranker.predict([row.texts for row in rows]).mean() < before.mean()  # type: ignore[misc,union-attr]


def test_a_shuffled_loader_gives_its_dataset_in_its_order() -> None:
    rows = examples()
    explicit = Loader(rows, BatchSampler(RandomSampler(rows), 5))
    single = Loader(rows, sampler=RandomSampler(rows))
    for loader, size in ((shuffled(rows, 8), 8), (explicit, 5), (single, 8)):
        found = fit._read(loader, "loader")
        assert found.columns["sentence_0"] == TEXTS and found.batch_size == size
    assert taken(shuffled(rows, 5, drop_last=True)) == TEXTS[:30]


def test_another_sampler_decides() -> None:
    rows = examples()
    chosen = Chosen([3, 1, 1, 2])
    assert taken(Loader(rows, BatchSampler(chosen, 2), batch_size=2)) == [TEXTS[i] for i in chosen]
    assert taken(Loader(rows, sampler=chosen)) == [TEXTS[i] for i in chosen]
    assert taken(Loader(rows, BatchesOfOwn(RandomSampler(rows), 8))) != TEXTS
    assert len(taken(Loader(rows, BatchSampler(RandomSampler(rows, num_samples=6), 2), batch_size=2))) == 6
    assert taken(Loader(rows, BatchSampler(RandomSampler(rows, replacement=True), 2), batch_size=2)) != TEXTS
    assert len(taken(Loader(rows, BatchSampler(RandomSampler(rows[:6]), 2), batch_size=2))) == 6


@pytest.mark.parametrize("kind", [shuffled, NoDuplicatesDataLoader])
def test_a_run_of_a_shuffled_loader_is_resumed(kind: Any, tmp_path: Path) -> None:
    write_sentence_model(tmp_path / "model")
    options = {**QUICK, "checkpoint_path": str(tmp_path / "c"), "resume_from_checkpoint": True}
    encoded = []
    for steps in (3, 100):
        model = SentenceTransformer(str(tmp_path / "model"))
        model.fit([(kind(examples(), 8), losses.MultipleNegativesRankingLoss(model))], checkpoint_save_steps=steps, **options)
        encoded.append(model.encode(TEXTS))
    assert np.array_equal(*encoded)


def test_batches_without_duplicates(model: SentenceTransformer, reranker: CrossEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    found = watched(monkeypatch)

    class Derived(NoDuplicatesDataLoader):
        pass

    for kind in (NoDuplicatesDataLoader, Derived):
        model.fit([(kind(examples(), 4), losses.MultipleNegativesRankingLoss(model))], **QUICK)
        assert set(found) == {("no_duplicates", 4)}
    reranker.fit(NoDuplicatesDataLoader(examples(), 4), **QUICK)
    assert set(found) == {("no_duplicates", 4)}
    found.clear()
    model.fit([(shuffled(examples(), 4), losses.MultipleNegativesRankingLoss(model))], **QUICK)
    assert set(found) == {("batch_sampler", 4)}


def test_batches_grouped_by_label(model: SentenceTransformer, monkeypatch: pytest.MonkeyPatch) -> None:
    found = watched(monkeypatch)
    rows = SentenceLabelDataset(examples([i % 4 for i in range(len(TEXTS))]))
    loader = IterableLoader(rows, batch_size=4)
    assert taken(loader) == [row.texts[0] for row in rows.grouped_inputs]  # type: ignore[index]
    model.fit([(loader, losses.SoftmaxLoss(model, model.get_embedding_dimension(), 4))], **QUICK)
    assert set(found) == {("group_by_label", 4)}
    objective = (shuffled(examples(), 4), losses.MultipleNegativesRankingLoss(model))
    with pytest.raises(ValueError, match=r"train_objectives.*SentenceLabelDataset.*train_objectives\[1\]"):
        model.fit([(loader, losses.CoSENTLoss(model)), objective], **QUICK)


def test_loaders_of_the_libraries(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch.utils.data")
    theirs = pytest.importorskip("sentence_transformers.sentence_transformer.datasets")
    rows = examples([i % 4 for i in range(len(TEXTS))])
    for kept, options in ((32, {}), (30, {"drop_last": True, "num_workers": 1})):
        found = fit._read(torch.DataLoader(rows, 5, shuffle=True, **options), "loader")
        assert found.columns["sentence_0"] == TEXTS[:kept] and found.batch_size == 5
    assert taken(torch.DataLoader(rows, batch_size=None, shuffle=True)) == TEXTS
    chosen = torch.SubsetRandomSampler([3, 1, 2])
    assert set(taken(torch.DataLoader(rows, batch_size=2, sampler=chosen))) == {TEXTS[i] for i in (1, 2, 3)}
    assert taken(torch.DataLoader(rows, batch_size=None, sampler=Chosen([3, 1]))) == [TEXTS[3], TEXTS[1]]
    batches = torch.BatchSampler(torch.RandomSampler(rows), 5, True)
    assert taken(torch.DataLoader(rows, batch_sampler=batches)) == TEXTS[:30]
    without = [fit._read(theirs.NoDuplicatesDataLoader(list(rows), 4), "loader") for _ in range(2)]
    assert without[0] == without[1] and without[0].batch_sampler == "no_duplicates"
    assert sorted(without[0].columns["sentence_0"]) == sorted(TEXTS)
    grouped = [fit._read(torch.DataLoader(theirs.SentenceLabelDataset(rows), 4), "loader") for _ in range(2)]
    assert grouped[0] == grouped[1] and grouped[0].batch_sampler == "group_by_label"
