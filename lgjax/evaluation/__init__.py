"""Metrics of restorations against references, one subject at a time."""
