"""The last lines of a command: what was done to how many scans, and which of them failed."""

import pathlib
import sys
from collections.abc import Sequence

from lgjax.runtime.counting import counted


def tell(total: int, skipped: int, failures: Sequence[tuple[str, str]], folder: pathlib.Path) -> None:
    """Says what was done; failures come last, by identifier."""
    done = total - skipped - len(failures)
    print(
        f"{done} restored, {skipped} finished before, {len(failures)} failed of {counted(total, 'scan')} -> {folder}",
        flush=True,
    )
    for name, error in failures:
        print(f"failed: {name}: {error}", file=sys.stderr)
