"""`accelerate`, and the forwards of accelerated torch modules.  Only `accelerate` and `fallback` are imported without torch."""
