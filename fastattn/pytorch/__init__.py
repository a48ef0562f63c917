"""Between torch modules and the encoder.  Whatever here imports torch is itself imported only where a module is given."""
