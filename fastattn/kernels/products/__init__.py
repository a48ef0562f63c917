"""Products of rows with packed weights: float32, bfloat16 and int8, chosen by the dtype of the weights."""
