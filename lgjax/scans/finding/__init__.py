"""Which files of a folder, a list or a table are whose scan, mask and reference; images are hardly looked at."""
