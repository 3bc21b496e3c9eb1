"""The one family of errors that a user's input can cause."""


class SimError(ValueError):
    """Bad input from outside: a setting, a task, a camera, a folder, a missing renderer.

    The message is one line that names the value and the valid choices.
    """
