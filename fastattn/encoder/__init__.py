"""The encoder: packed weights, one forward over packed sequences, heads."""
