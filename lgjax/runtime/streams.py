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
        buffer = getattr(stream, "buffer", None)
        raw = getattr(buffer, "raw", buffer)  # python -u has no buffer between
        if not isinstance(raw, io.FileIO):  # a notebook's, a test's, or none at all
            continue
        stream.flush()
        forgiving = io.BufferedWriter(_Forgiving(raw))  # type: ignore[type-var]
        at_once = name == "stderr" or raw.isatty() or raw is buffer
        setattr(sys, name, io.TextIOWrapper(forgiving, stream.encoding, "backslashreplace", line_buffering=at_once))
