"""Many scans at once: shared with other processes, resumed, failures kept; the way through all stages."""
