"""What a command prints: printing never fails, whatever the terminal can show and whoever has stopped reading."""

import io
import sys


class _Forgiving(io.RawIOBase):
    """A raw stream that drops what nobody reads any more."""

    def __init__(self, raw: io.RawIOBase):
        self._raw = raw

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._raw.isatty()

    def fileno(self) -> int:
        return self._raw.fileno()

    def write(self, data) -> int:
        try:
            return self._raw.write(data) or 0
        except BrokenPipeError:  # `| head` has seen enough
            return len(data)


def forgive() -> None:
    """Makes standard output and error take any text: what an encoding lacks is escaped, a closed pipe is ignored."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        raw = getattr(getattr(stream, "buffer", None), "raw", None)
        if raw is None:  # a notebook's, a test's, or none at all
            continue
        stream.flush()
        buffer = io.BufferedWriter(_Forgiving(raw))  # type: ignore[type-var]
        errors, at_once = "backslashreplace", name == "stderr" or raw.isatty()
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, errors, line_buffering=at_once))
