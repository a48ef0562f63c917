"""Everything against the peers: `python -m benchmarks.suite`."""
