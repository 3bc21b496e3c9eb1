"""The one family of errors that a user's input can cause."""


class OmniStreamError(Exception):
    """Bad input from outside: a file, a topic, a checkpoint, a setting.

    The message is one line that names the value and the valid choices. The command line prints it
    and exits with code 2; a traceback is never needed to understand it.
    """


class ConfigError(OmniStreamError, ValueError):
    """A configuration value outside its valid range."""


class SourceError(OmniStreamError):
    """An input that cannot be opened or read: missing, empty, truncated, unknown encoding or topic."""


class SinkError(OmniStreamError):
    """An output that cannot be written."""


class CheckpointError(OmniStreamError):
    """A checkpoint that is missing, of another shape, or in a refused format."""
