"""A deprecated call of this package fails the tests, whatever module the warning blames."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from tests.conftest import own_deprecations_raised


def deprecated() -> None:
    """Blame itself, as with the default of ``stacklevel``."""
    warnings.warn("deprecated", DeprecationWarning, stacklevel=1)


def wrapper() -> None:
    deprecated()


def library() -> None:
    wrapper()


def call_from_the_package(function: Callable[[], None]) -> None:
    module: dict[str, Any] = {"__name__": "airflow_provider_unpod.hooks.unpod", "function": function}
    exec("def call(): function()", module)
    module["call"]()


@pytest.mark.parametrize("function", [deprecated, wrapper])
def test_a_deprecated_function_may_be_called_neither_directly_nor_in_a_wrapper(function: Callable[[], None]) -> None:
    with pytest.raises(DeprecationWarning):
        call_from_the_package(function)


def test_what_a_library_calls_itself_and_what_tests_call_is_only_reported() -> None:
    with warnings.catch_warnings(record=True) as reported, own_deprecations_raised():
        warnings.simplefilter("always")
        call_from_the_package(library)
        deprecated()

    assert len(reported) == 2
