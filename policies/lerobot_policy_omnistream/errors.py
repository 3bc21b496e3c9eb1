"""The one family of errors that a user's input can cause."""


class PolicyError(ValueError):
    """Bad input from outside: a setting, a dataset that does not fit, a camera that is missing, a foreign cache.

    The message is one line that names the value and the valid choices.
    """
