"""The errors that a user of the pipeline can cause, and nothing else.

Every message has the house's form: "`argument` is `value`; expected `rule`. Where it came from. What to do."
Each error takes exactly one positional argument, its message, so that it survives pickling between Ray processes.
"""


class PipelineError(ValueError):
    """Anything that a user of the pipeline can cause and can put right."""


class ConfigError(PipelineError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another one."""


class RunFolderError(PipelineError):
    """A run folder holds results of another configuration, or is not a run folder."""


class DataError(PipelineError):
    """A dataset is missing, empty, malformed, or of a kind that is not supported."""


class ManifestError(PipelineError):
    """Shards without a manifest, with a wrong checksum, or made for another layout."""


class CheckpointError(PipelineError):
    """A checkpoint is missing, corrupt, of an unknown format, or made for another layout."""


class EnvironmentSetupError(PipelineError):
    """A Gymnasium environment is unknown or does not fit the data."""


class EnvironmentFaultError(PipelineError):
    """A Gymnasium environment raised in an episode, or gave what Gymnasium's interface does not allow."""


class StorageError(PipelineError):
    """A path cannot be read or written."""


class TrainingDivergedError(PipelineError):
    """The loss became NaN, infinite, or jumped; the message names the last good checkpoint."""


class EvaluationError(PipelineError):
    """Episodes could not be run within their attempts."""


class ClusterError(PipelineError):
    """The Ray cluster cannot be reached, or cannot give what the configuration asks for."""
