"""The kernels of the fused forward: its steps, a layer, embedding, pooling."""
