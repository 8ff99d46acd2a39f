"""From what a user has to slices that a model reads, and the way back."""
