"""Benchmarks of each kernel against the reference: `pytest benchmarks`."""
