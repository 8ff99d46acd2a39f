"""What can go wrong for a user, and the exit code each fault ends with."""


def printable(text: str, kept: str = "") -> str:
    """Returns a text with everything escaped that a terminal would obey or cannot show, but for `kept` characters."""
    return "".join(c if c.isprintable() or c in kept else c.encode("unicode_escape").decode() for c in text)


class LgjaxError(Exception):
    """A fault that a user can mend: shown as one message, without a traceback unless --debug is given."""

    exit_code = 1


class UsageError(LgjaxError):
    """A flag, a config value or a combination of them is wrong."""

    exit_code = 2


class InputError(LgjaxError):
    """One input is unusable: the message names the file, what is wrong with it and what to do.

    Args:
      path: the file or subject at fault.
      problem: what is wrong with it.
      remedy: what the user can do about it.
    """

    exit_code = 3

    def __init__(self, path, problem: str, remedy: str):
        shown = printable(problem, kept="\n")  # affines take several lines
        super().__init__(f"{printable(str(path))}: {shown}. {remedy}.")
        self.path = str(path)
        self.problem = problem
        self.remedy = remedy

    def __reduce__(self):
        return type(self), (self.path, self.problem, self.remedy)  # comes whole out of another process


class EnvironmentFault(LgjaxError):
    """The machine refuses: device, disk, memory or permission."""

    exit_code = 4
