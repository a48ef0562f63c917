"""Benchmark of learning: ``python -m benchmarks.training``."""
