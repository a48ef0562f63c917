"""Corpora: the figures of `benchmarks/results/corpus.md`."""
