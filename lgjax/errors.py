"""What can go wrong for a user, and the exit code each fault ends with."""


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
        super().__init__(f"{path}: {problem}. {remedy}.")
        self.path = str(path)
        self.problem = problem
        self.remedy = remedy


class EnvironmentFault(LgjaxError):
    """The machine refuses: device, disk, memory or permission."""

    exit_code = 4
