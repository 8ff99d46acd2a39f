"""The side of lgjax that trains on CPUs: as `lgjax.train`, its process keeps freed memory from its first moment."""

import importlib

from lgjax.runtime import memory

memory.keep_freed()
Side = importlib.import_module("ours").Side  # which imports what begins threads
