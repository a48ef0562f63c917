"""Kernels: everything that Numba compiles.

Shape letters: B batch, T tokens, C hidden, H heads, D = C / H, F feed-forward, V vocabulary, N packed tokens, L query tokens,
S key tokens.

The contract of every ``*_kernel``: its arrays are C-contiguous, of the documented shape and already checked; it allocates nothing,
writes every element of ``out`` and reads none before writing it.  Inside, a matrix is a flat array, the offset of its first
element and the distance of its rows: `records.Matrix`, or loose as ``x, ix, ldx``.  The order of every sum is fixed by the shape of
its own row or sequence, so the bits of a result depend on nothing else: not on the batch, the thread count or the schedule.
"""
