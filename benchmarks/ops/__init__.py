"""Each kernel against the reference: `pytest benchmarks`."""
