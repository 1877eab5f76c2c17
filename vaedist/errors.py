"""What a user can get wrong, as typed errors; the command line turns each into one line and an exit code."""


class VaedistError(Exception):
    """Base of every error whose message is meant for the user: what, where, and what is allowed.

    `exit_code` is what the command line ends with.
    """

    exit_code = 2


class ConfigError(VaedistError):
    """An experiment cannot be read: no such file, unknown key, wrong type, value out of range."""


class UserCodeError(VaedistError):
    """An exception in a user's own code; the message has several lines, the last ones of the traceback there."""


class DataError(VaedistError):
    """A data set or a source is missing, damaged, or does not fit the experiment."""


class RunError(VaedistError):
    """A run folder is missing, exists already, or does not fit the experiment."""


class CheckpointError(RunError):
    """No committed and intact checkpoint can be loaded, or one would not be fit to be."""


class StorageError(VaedistError):
    """Nothing could be written, or read from a store: a disk is full, read-only, or gone; a store does not answer."""


class ClusterError(VaedistError):
    """The Ray cluster cannot be reached, or does not have what a job asks for."""


class NoiseError(VaedistError):
    """A model that sees its pixels through noise was given none."""


class ModelError(VaedistError):
    """A model does not do what the interface of models asks for."""


class NonFiniteError(VaedistError):
    """A loss or a gradient became NaN or infinite, or a gradient too large to be squared; no weight was changed."""


class Interrupted(VaedistError):  # noqa: N818 - it is a request, not a fault
    """The user stopped a run; what was committed stays."""

    exit_code = 130


class WorkerError(VaedistError):
    """Workers died or failed more often than they may be started again."""

    exit_code = 1


class JobError(VaedistError):
    """A job on a cluster failed."""

    exit_code = 1
