"""Packages and rooms that are imported when they are first used."""

import importlib
from types import ModuleType

from dovetail.errors import MissingPackageError


class _Lazy(ModuleType):
    def __getattr__(self, name: str) -> object:
        try:
            module = importlib.import_module(self.__name__)
        except ModuleNotFoundError as error:
            package = self.__name__.partition(".")[0]
            if error.name != package:
                raise
            raise MissingPackageError(f"This needs the package {package}: pip install {package}") from None
        return getattr(module, name)


def lazy(name: str) -> ModuleType:
    """The module called `name`, imported when one of its attributes is first asked for.

    Type checkers see a plain module if the real import stands beside it under `if TYPE_CHECKING:`. Asking raises
    MissingPackageError, which says what to install, if the package is not there.
    """
    return _Lazy(name)
