"""Products of the layers in each precision."""
