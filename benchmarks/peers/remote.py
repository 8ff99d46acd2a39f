"""A side of the comparison in a process of its own, whose faults are told and end nothing."""

import importlib
import multiprocessing
import traceback


class RemoteFault(Exception):
    """What was asked of a side failed there; says the last line of its traceback."""


class Remote:
    """A `Side` in a process of its own: its methods are called by name, one at a time."""

    def __init__(self, module: str, *arguments):
        """Starts the process and makes module.Side(*arguments) there."""
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        context.Process(target=_serve, args=(other, module, arguments), daemon=True).start()
        other.close()  # so that the end of the process ends the wait for its answer
        self._answer()

    def __getattr__(self, name: str):
        def call(*arguments):
            try:
                self.pipe.send((name, arguments))
            except OSError as error:
                raise RemoteFault("its process has ended") from error
            return self._answer()

        return call

    def _answer(self):
        try:
            failed, value = self.pipe.recv()
        except (EOFError, OSError) as error:
            raise RemoteFault("its process has ended") from error
        if failed:
            print(value, flush=True)
            raise RemoteFault(value.strip().splitlines()[-1])
        return value


def _serve(pipe, module: str, arguments) -> None:
    """What the process of a `Remote` does until its pipe is closed."""
    side = None
    while True:
        try:
            if side is None:
                side, value = importlib.import_module(module).Side(*arguments), None
            else:
                try:
                    name, arguments = pipe.recv()
                except EOFError:
                    return
                value = getattr(side, name)(*arguments)
            pipe.send((False, value))
        except Exception:
            pipe.send((True, traceback.format_exc()))
            if side is None:
                return
