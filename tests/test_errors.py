"""The tree of exceptions."""

import inspect
import pickle

import pytest

from frontswap import errors

CLASSES = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, BaseException)]


@pytest.mark.parametrize("error", CLASSES)
def test_is_in_the_tree_and_in_its_drawing(error: type[BaseException]) -> None:
    assert issubclass(error, errors.FrontswapError)
    assert errors.__doc__ is not None
    builtin = [base.__name__ for base in error.__bases__ if base.__module__ == "builtins"]
    drawn = error.__name__ + (f"({builtin[0]})" if builtin and error is not errors.FrontswapError else "")
    assert f" {drawn} " in errors.__doc__.replace("\n", " ")


def test_parameter_error_says_which_what_and_what_is_allowed() -> None:
    error = errors.ParameterError("page", 5000, "a power of two from 4096 to 2097152")
    assert str(error) == "page=5000: must be a power of two from 4096 to 2097152"


@pytest.mark.parametrize("kind", [errors.ParameterError, errors.DtypeError])
def test_parameter_error_survives_pickling(kind: type[errors.ParameterError]) -> None:
    error = pickle.loads(pickle.dumps(kind("page", 5000, "less")))
    assert (type(error), str(error)) == (kind, "page=5000: must be less")


def test_os_errors_keep_their_number() -> None:
    error = errors.SwapDirectoryError(28, "No space left on device", "/var/tmp")
    assert (error.errno, error.filename) == (28, "/var/tmp")
