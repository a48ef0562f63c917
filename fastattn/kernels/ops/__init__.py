"""The public ops, one a file: checks in NumPy, the kernel beneath."""
