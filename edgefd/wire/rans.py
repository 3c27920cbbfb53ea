"""Entropy coding of hexadecimal digits: an adaptive model, and rANS whose lanes numpy codes all at once.

A digit s in a context costs about -log2(f(s) / 2^15) bits, where f(s) is its frequency in that context so far. Both
sides count the digits that they have coded, so no table is sent. Source of rANS: Duda, arXiv:1311.2540; of the lanes:
Giesen, arXiv:1402.3392. docs/reference/wire-format.md specifies the bytes.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from edgefd.core.arrays import Int64

DIGITS = 16
"""number of values of a digit"""
MOST_BITS = 15
"""most bits that one digit can cost"""
_SCALE = 1 << MOST_BITS
_LEAST_STATE = 1 << 16
_SEEN = 8  # what a coded digit adds to its count, which is 1 at the beginning
_FIRST, _GROWTH = 1, 4  # frequencies are computed anew after one digit more than a fourth of those of the call


class Model:
    """Frequencies of the digits in each context, learned from the digits that were coded before."""

    def __init__(self, contexts: int) -> None:
        self._counts = np.ones(contexts * DIGITS, np.int64)
        self._recent: list[Int64] = []
        self._coded = self._next = 0
        self.frequencies = self.starts = self.ends = self._counts

    def begin(self) -> None:
        """Begin a call: the frequencies are computed before its first step."""
        self._coded = self._next = 0

    def prepare(self) -> None:
        """Compute the frequencies anew if enough digits were coded since the last time. Called before each step.

        In each context, f(s) = 1 + floor((2^15 - 16) n(s) / sum n), and what is missing to 2^15 is added to the first
        of the most frequent digits. For digit s in context c, `starts` holds 2^15 c + f(0) + ... + f(s - 1), and `ends`
        holds f(s) more.
        """
        if self._coded < self._next:
            return
        if self._recent:
            seen = np.concatenate(self._recent)
            self._counts = self._counts + _SEEN * np.bincount(seen, minlength=len(self._counts))
            self._recent = []
        self._next = self._coded + _FIRST + self._coded // _GROWTH
        counts = self._counts.reshape(-1, DIGITS)
        frequencies = 1 + counts * (_SCALE - DIGITS) // counts.sum(1, keepdims=True)
        frequencies[np.arange(len(counts)), counts.argmax(1)] += _SCALE - frequencies.sum(1)
        self.frequencies = frequencies.reshape(-1)
        self.ends = np.cumsum(self.frequencies)
        self.starts = self.ends - self.frequencies

    def count(self, places: Int64) -> None:
        """Count coded digits; a place is 16 times the context, plus the digit."""
        self._recent.append(places)
        self._coded += len(places)


class Coder(Protocol):
    """Either side of the coder. Both are called with the same models and contexts in the same order."""

    def code(self, model: Model, contexts: Int64, digits: Int64 | None = None) -> Int64:
        """Code one digit in each of the contexts, and return the digits. Only the encoder is given them."""


class Encoder:
    """Coder that turns digits into bytes."""

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._steps: list[tuple[Int64, Int64]] = []

    def code(self, model: Model, contexts: Int64, digits: Int64 | None = None) -> Int64:
        """Code digits. See `Coder`."""
        assert digits is not None  # the decoder alone finds them itself
        places = contexts * DIGITS + digits
        model.begin()
        for first in range(0, len(places), self._lanes):
            model.prepare()
            step = places[first : first + self._lanes]
            self._steps.append((model.frequencies[step], model.starts[step] & (_SCALE - 1)))
            model.count(step)
        return digits

    def bytes(self) -> bytes:
        """Return the coded digits: four bytes for the state of each lane, then words of two bytes."""
        state = np.full(self._lanes, _LEAST_STATE, np.int64)
        words: list[Int64] = []
        for frequency, start in reversed(self._steps):  # rANS decodes last what it encodes first
            x = state[: len(frequency)]
            full = x >= frequency << 17
            words.append(x[full] & 0xFFFF)
            x = np.where(full, x >> 16, x)
            quotient, rest = np.divmod(x, frequency)
            state[: len(frequency)] = (quotient << MOST_BITS) + start + rest
        return state.astype("<u4").tobytes() + np.concatenate([*words[::-1], []]).astype("<u2").tobytes()


class Decoder:
    """Coder that finds the digits in bytes.

    Raises:
        ValueError: if there are fewer bytes than the lanes need. `code` and `finish` raise it for malformed bytes.
    """

    def __init__(self, data: bytes, lanes: int) -> None:
        if len(data) < 4 * lanes or len(data) % 2:
            raise ValueError(f"values has {len(data)} bytes: it must have at least {4 * lanes}, and an even number")
        self._state = np.frombuffer(data, "<u4", lanes).astype(np.int64)
        self._words = np.frombuffer(data, "<u2", offset=4 * lanes).astype(np.int64)
        self._lanes, self._read = lanes, 0
        if (self._state < _LEAST_STATE).any():
            raise ValueError("values does not begin with the states of the lanes")

    def code(self, model: Model, contexts: Int64, digits: Int64 | None = None) -> Int64:
        """Return digits. See `Coder`."""
        bases, found = contexts << MOST_BITS, np.empty(len(contexts), np.int64)
        model.begin()
        for first in range(0, len(bases), self._lanes):
            model.prepare()
            base = bases[first : first + self._lanes]
            x = self._state[: len(base)]
            slots = (x & (_SCALE - 1)) + base
            places = model.ends.searchsorted(slots, "right")
            x = model.frequencies[places] * (x >> MOST_BITS) + slots - model.starts[places]
            empty = (x < _LEAST_STATE).nonzero()[0]
            if len(empty):
                x[empty] = x[empty] << 16 | self._next_words(len(empty))
            self._state[: len(base)] = x
            found[first : first + self._lanes] = places
            model.count(places)
        return found & (DIGITS - 1)

    def _next_words(self, count: int) -> Int64:
        words = self._words[self._read : self._read + count]
        if len(words) < count:
            raise ValueError("values ends before all rows are decoded")
        self._read += count
        return words

    def finish(self) -> None:
        """Check that all bytes were used, and that each lane ended where the encoder began.

        Raises:
            ValueError: if not.
        """
        if self._read != len(self._words) or (self._state != _LEAST_STATE).any():
            raise ValueError(
                "values is not what an encoder writes: it has other bytes after the rows, or changed bytes"
            )
