"""Scalars for TensorBoard, in a file whose name does not tell the machine's, as those of the library's writer do."""

import pathlib
import time

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar


class Scalars:
    """A file of events."""

    def __init__(self, folder: pathlib.Path, start: int):
        """Opens a new file; TensorBoard forgets what other files of the folder hold from step `start` on."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}"))
        self._write(step=start, file_version="brain.Event:2")
        self._write(step=start, session_log=SessionLog(status=SessionLog.START))

    def add(self, name: str, value: float, step: int) -> None:
        """Adds one value."""
        self._write(step=step, summary=scalar(name, value))

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _write(self, **fields) -> None:
        self._file.write(Event(wall_time=time.time(), **fields).SerializeToString())
        self._file.flush()
