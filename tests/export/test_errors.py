"""Errors of exports are in the same tree as those of the API, and can be pickled."""

from __future__ import annotations

import pickle

import pytest

from airflow_provider_unpod.billing.errors import UnpodConfigError, UnpodError
from airflow_provider_unpod.export.errors import ExportError, ExportRefused


@pytest.mark.parametrize(("kind", "permanent"), [(ExportError, False), (ExportRefused, True)])
def test_an_export_error_is_an_unpod_error_that_says_whether_a_retry_can_help(
    kind: type[ExportError], permanent: bool
) -> None:
    error = pickle.loads(pickle.dumps(kind("file:///data/invoices could not be written.")))

    assert (type(error), str(error)) == (kind, "file:///data/invoices could not be written.")
    assert isinstance(error, UnpodError)
    assert not isinstance(error, UnpodConfigError)
    assert error.permanent is permanent
