"""Load trial of `fastattn serve`, beside an application around sentence-transformers."""
