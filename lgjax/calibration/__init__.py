"""Lambda and thresholds from held-out healthy scans."""
