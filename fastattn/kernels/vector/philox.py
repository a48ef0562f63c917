"""Philox 4x32-10: random words by their number.  Salmon et al. 2011, doi:10.1145/2063384.2063405, section 3.3 and table 2.

Words are int64 below 2**32: with signed products alone, Python computes the same without the JIT.
"""

from __future__ import annotations

from fastattn.kernels.compile.jit import inline

_LOW = 0xFFFFFFFF


@inline
def philox(a, b, c, d, key, other_key):  # type: ignore[no-untyped-def]
    """Four random words for a counter of four words and a key of two."""
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (q >> 32) & _LOW ^ b ^ key, q & _LOW, (p >> 32) & _LOW ^ d ^ other_key, p & _LOW
        key, other_key = (key + 0x9E3779B9) & _LOW, (other_key + 0xBB67AE85) & _LOW
    return a, b, c, d
