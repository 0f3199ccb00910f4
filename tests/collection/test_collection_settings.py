"""Settings that cannot be right are refused when they are made, before a document is queued for them."""

from __future__ import annotations

import pytest

from preread.collection.settings import Settings
from preread.core.errors import UsageError
from preread.methods import METHODS


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"text"}))
@pytest.mark.parametrize("options", [{"ratio": 0}, {"ratio": -4.0}, {"ratio": float("inf")}, {"ratioo": 4}])
def test_senseless_options_are_refused(method, options):
    with pytest.raises(UsageError, match="ratio"):
        Settings(method=method, options=options)


def test_an_unknown_method_is_refused():
    with pytest.raises(UsageError, match="nonsense"):
        Settings(method="nonsense")
