"""Every error has its reason, its status row, its enum value and its line in the tree."""

import inspect
from pathlib import Path

import pytest

from sidecar import errors
from sidecar.edge.status import CODES, status_of
from sidecar.errors import BudgetExceeded, SidecarError
from sidecar.v1 import errors_pb2

CONCRETE = [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, SidecarError) and "reason" in vars(c)]
ENUM = {name.removeprefix("ERROR_REASON_") for name in dict(errors_pb2.ErrorReason.items())} - {"UNSPECIFIED"}


def make(error):
    if error is BudgetExceeded:
        return BudgetExceeded("m", account="a", unit="tokens", limit=1, used=1, asked=1, resets_at_ns=None, retry_after_ms=5)
    return error("m")


@pytest.mark.parametrize("error", CONCRETE, ids=lambda c: c.__name__)
def test_error_is_complete(error):
    assert error.reason in CODES
    assert error.reason in ENUM
    assert f"── {error.__name__} " in errors.__doc__
    code, message, details = status_of(make(error), None)
    assert code is CODES[error.reason]
    assert message == "m"
    assert details


def test_no_row_and_no_enum_value_is_left_over():
    reasons = {error.reason for error in CONCRETE}
    assert set(CODES) == reasons
    assert reasons == ENUM


def test_enum_comment_names_the_status():
    """The contract tells each reason's status; it must be the one that is sent."""
    text = (Path(__file__).parents[2] / "proto/sidecar/v1/errors.proto").read_text()
    for error in CONCRETE:
        before = text[: text.index(f"ERROR_REASON_{error.reason} =")]
        comment = before[before.rindex(" = ") :]  # from the value before
        assert f"// {CODES[error.reason].name}. " in comment, error.reason
