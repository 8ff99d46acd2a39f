"""From a scan to z-scored slices and back; a cohort prepared on disk."""
