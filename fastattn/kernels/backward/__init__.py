"""Backward of the ops: the gradient of each input, given the gradient of the output.

Dropout has its forward here too: it exists for training alone.
"""
