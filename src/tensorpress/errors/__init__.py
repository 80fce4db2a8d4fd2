"""Exceptions whose messages are written for the user, shown without a traceback."""

from pathlib import Path

UNKEYED = "what an error is called changes no result"


class TensorpressError(Exception):
    """A condition that the user can mend: the message names what, where and what is allowed."""


class DamagedFile(TensorpressError):
    """A file that does not hold what was once written; the job that meets an artifact moves it."""

    def __init__(self, path: Path, why: object) -> None:
        super().__init__(f"{path}: damaged ({' '.join(str(why).split())})")
        self.path = path
