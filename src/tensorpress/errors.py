"""The one exception type whose message is written for the user, shown without a traceback."""


class TensorpressError(Exception):
    """A condition that the user can mend: the message names what, where and what is allowed."""
