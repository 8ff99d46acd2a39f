"""A work directory: its config, checkpoints, weights and calibrations."""
