"""Repair of double-encoded text, for the contenders that are not Spark."""

from __future__ import annotations


def repaired(text: str) -> str:
    """Text after undoing UTF-8 that was taken for Latin-1 and encoded again, once or twice."""
    return decoded_again(decoded_again(text))


def decoded_again(text: str) -> str:
    """Text with one such mistake undone; text that does not carry it as it is."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
