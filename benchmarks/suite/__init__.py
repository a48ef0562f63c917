"""Benchmark suite against the peers: `python -m benchmarks.suite`."""
