"""The few exception types users meet. Each message says what was expected, what was found and what to do."""


class DovetailError(ValueError):
    """Anything a user can put right. The command line prints it as one sentence and exits with code 2."""


class FormatError(DovetailError):
    """A tensor or stored array that a storage format cannot hold or read."""


class ModelError(DovetailError):
    """A network that cannot be found, read, traced or exported."""


class DataError(DovetailError):
    """A data set that is missing, damaged or of the wrong shape."""


class RecipeError(DovetailError):
    """A recipe with an unknown method, key or value."""


class ArtefactError(DovetailError):
    """A .dvt file that is foreign, damaged or of a newer version."""


class TargetError(DovetailError):
    """A target that does not exist or cannot cost this network."""


class MissingPackageError(DovetailError):
    """An optional package that is needed for what was asked."""
