"""Bags of hashed character n-grams: the rows of the table that a text looks up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..common.bags import Bags

LONGEST = 3  # characters of an n-gram; the shortest has one
ROW_BITS = 18
NUM_ROWS = 1 << ROW_BITS

MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 / golden ratio: it spreads a difference upwards
FOLD = np.uint64(29)  # and this brings it down again, for the next character


def gram_bags(texts: Sequence[str]) -> Bags:
    """Makes a bag of the n-grams of each text, in small letters and with a space at either end.

    An n-gram is hashed character by character, all of them at once, however long the texts are.

    Args:
        texts: B texts; one of L characters has 3 L + 3 n-grams of one to three characters.

    Returns:
        B bags of rows below NUM_ROWS.
    """
    padded = [f" {text.lower()} " for text in texts]
    lengths = np.array([len(text) for text in padded], dtype=np.int64)
    characters = np.frombuffer("".join(padded).encode("utf-32-le"), dtype=np.uint32)
    position = np.arange(len(characters))
    end = np.repeat(lengths.cumsum(), lengths)  # where the text of each character ends

    # rows[i, n - 1] is the row of the n-gram that begins at character i, if the text has it.
    rows = np.empty((len(characters), LONGEST), dtype=np.int64)
    within = np.empty(rows.shape, dtype=np.bool_)
    hashes = np.zeros(len(characters), dtype=np.uint64)
    for n in range(LONGEST):
        hashes[: len(hashes) - n] ^= characters[n:]
        hashes *= MULTIPLIER
        hashes ^= hashes >> FOLD
        rows[:, n] = (hashes * MULTIPLIER) >> np.uint64(64 - ROW_BITS)
        within[:, n] = position + n < end
    counts = sum(np.maximum(lengths - n, 0) for n in range(LONGEST))
    offsets = np.append(0, np.cumsum(counts))
    return Bags(torch.from_numpy(rows[within]), torch.from_numpy(offsets))
