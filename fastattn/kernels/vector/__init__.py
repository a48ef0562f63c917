"""The language that kernels are written in: vectors, elementary functions, rows, and the tile of the product."""
