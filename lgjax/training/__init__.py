"""The training step, its batches and the slices that they are drawn from."""
