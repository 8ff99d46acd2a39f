"""How fast programs run and how fast a device could be."""
