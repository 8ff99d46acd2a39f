"""Methods by name, each a compiled function from slices to restored slices."""
