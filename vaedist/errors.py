"""Typed errors whose messages are for the user; the command line turns each into one line and an exit code."""


class VaedistError(Exception):
    """Base class of errors for the user. Messages name what is wrong, where, and what is allowed.

    Attributes:
        exit_code: exit code of a command that ends with this error.
    """

    exit_code = 2


class ConfigError(VaedistError):
    """An experiment cannot be read: no such file, unknown key, wrong type, value out of range."""


class UserCodeError(VaedistError):
    """An exception in a user's own code; the message has several lines, which include the user's traceback."""


class DataError(VaedistError):
    """A data set or a source is missing, damaged, or does not fit the experiment."""


class RunError(VaedistError):
    """A run folder is missing, already exists, or does not fit the experiment."""


class CheckpointError(RunError):
    """There is no committed and intact checkpoint to load, or a checkpoint would hold invalid values."""


class StorageError(VaedistError):
    """Reading or writing failed: a disk is full, read-only or gone, or an object store does not respond."""


class ClusterError(VaedistError):
    """The Ray cluster cannot be reached, or lacks the resources that a job requests."""


class NoiseError(VaedistError):
    """A model that needs pixel noise was called without it."""


class ModelError(VaedistError):
    """A model violates the interface of models."""


class NonFiniteError(VaedistError):
    """A loss or gradient became NaN or infinite, or the square of a gradient overflowed; no weight was changed."""


class Interrupted(VaedistError):  # noqa: N818 - a request, not an error
    """The user stopped a run; committed checkpoints are kept."""

    exit_code = 130


class WorkerError(VaedistError):
    """Workers failed more often than the retry limit allows."""

    exit_code = 1


class JobError(VaedistError):
    """A job on a cluster failed."""

    exit_code = 1
