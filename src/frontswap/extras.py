"""Packages that only parts of frontswap need: the optional dependencies of pyproject.toml."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from .errors import MissingPackageError, ParameterError


def find_package(name: str, extra: str) -> Path:
    """The folder of a package, without importing it; ``extra``: which of ours brings it. MissingPackageError."""
    spec = find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingPackageError(f"the package {name} is not installed: pip install 'frontswap[{extra}]'")
    return Path(spec.origin).parent


def check_picture(path: Path, parameter: str, extra: str) -> None:
    """Fail before the work begins if there will be no picture: MissingPackageError, or ParameterError."""
    find_package("matplotlib", extra)
    if path.suffix.lower() != ".png" or not path.parent.is_dir():
        raise ParameterError(parameter, str(path), "the name of a .png file in a directory that exists")
