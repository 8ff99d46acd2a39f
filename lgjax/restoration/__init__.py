"""Restoration of one slice by MAP ascent, as pure functions of JAX arrays."""
