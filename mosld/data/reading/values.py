"""Values of cells as texts, and the names of their types."""

import math
from datetime import date, datetime, time, timedelta
from decimal import Decimal

_TYPES: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "a truth value"),
    (str, "text"),
    ((int, float), "a number"),
    (Decimal, "a decimal number"),
    (dict, "an object"),
    ((list, tuple), "a list"),
    ((bytes, bytearray), "bytes"),
    (datetime, "a time stamp"),
    (date, "a date"),
    (time, "a time of day"),
    (timedelta, "a duration"),
    (type(None), "null"),
)


def type_name(value: object) -> str:
    """The type of a value in words, for messages."""
    return next((name for types, name in _TYPES if isinstance(value, types)), type(value).__name__)


def is_missing(value: object) -> bool:
    """Whether a value is missing: null, blank text, or the NaN that tables have for it."""
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def text_of(value: object) -> object:
    """Numbers and UTF-8 bytes as text, missing values as ""; other values as they are, which the checks report."""
    if isinstance(value, str):
        return value if value.strip() else ""
    if is_missing(value):
        return ""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value
    if isinstance(value, Decimal):
        return format(value, "f")
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def whole_number(value: object) -> int | None:
    """A whole number, also one that a table wrote as 1.0; None for any other value."""
    if isinstance(value, str):
        text = value.strip().removesuffix(".0")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 4 else None
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return int(value)
    return None


def is_utf8(text: str) -> bool:
    """Whether a text read with the error handler `surrogateescape` holds no byte that is not UTF-8."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
