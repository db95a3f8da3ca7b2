"""Shuffled epochs without end, whose only state is one integer; split over hosts; read ahead.

The stream of examples is epoch after epoch, each a permutation of its own of all examples. Its
entry at any position is computed, not stored: a Feistel network keyed by (seed, epoch) permutes the
numbers below a power of two, and a number that is too large is sent through again ("cycle walking",
Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains"). Ten million examples take no more
memory than ten.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int

from jrecon.synth.example import Example
from jrecon.synth.reading import Database, read

# An even number, so that the halves of the network have their widths back at the end.
ROUNDS = 8

# Weyl increment and multipliers of SplitMix64 (Steele et al. 2014).
GOLDEN = 0x9E3779B97F4A7C15
MIX_1 = 0xBF58476D1CE4E5B9
MIX_2 = 0x94D049BB133111EB


def shuffled(count: int, seed: int, positions: Any) -> Int[np.ndarray, " n"]:
    """The examples at `positions` (n,) of the endless stream over `count` examples.

    Positions e * count .. (e + 1) * count - 1 hold every example once, in an order of epoch e's
    own. A pure function: the same on every host and in every run.

    Raises:
      ValueError: no examples, or a negative position.
    """
    positions = np.asarray(positions, np.int64)
    if count < 1:
        raise ValueError(f"count: got {count}, need at least one example.")
    if positions.size and positions.min() < 0:
        raise ValueError(f"positions: got {positions.min()}, need positions >= 0.")
    epoch, offset = np.divmod(positions, count)
    key = _mix(epoch.astype(np.uint64) + _mix(np.array([seed % 2**64], np.uint64)))
    return _permute(offset.astype(np.uint64), key, count).astype(np.int64)


def _permute(values: np.ndarray, keys: np.ndarray, count: int) -> np.ndarray:
    """Permutes the numbers below `count`, by another permutation for every key."""
    bits = max(2, (count - 1).bit_length())
    values = _feistel(values, keys, bits)
    while (outside := np.flatnonzero(values >= count)).size:
        values[outside] = _feistel(values[outside], keys[outside], bits)
    return values


def _feistel(values: np.ndarray, keys: np.ndarray, bits: int) -> np.ndarray:
    right_bits = bits // 2
    left_bits = bits - right_bits
    for turn in range(ROUNDS):
        left = values >> np.uint64(right_bits)
        right = values & np.uint64((1 << right_bits) - 1)
        noise = _mix(right + keys + np.uint64((turn + 1) * GOLDEN % 2**64))
        left ^= noise & np.uint64((1 << left_bits) - 1)
        values = right << np.uint64(left_bits) | left
        left_bits, right_bits = right_bits, left_bits
    return values


def _mix(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: every bit of the result depends on every bit of the value."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(MIX_1)
    values = (values ^ values >> np.uint64(27)) * np.uint64(MIX_2)
    return values ^ values >> np.uint64(31)


def batches(
    db: Database,
    batch_size: int,
    *,
    seed: int,
    position: int = 0,
    host: int = 0,
    hosts: int = 1,
    ahead: int = 2,
) -> Iterator[tuple[int, Example]]:
    """Shuffled batches without end: (position after the batch, examples), read ahead.

    To resume, pass the position of the last batch that was used. All batches have the same size
    (an epoch may end within one), and the global batch at a position is the same for any number of
    hosts.

    Args:
      batch_size: of all hosts together.
      position: examples of the stream that all hosts together have used.
      host: this host's number; it gets its share of every global batch.
      ahead: batches in memory besides the one in use.

    Raises:
      ValueError: the batch cannot be divided by the hosts, or a number is out of range.
    """
    if not 0 <= host < hosts or batch_size < 1 or batch_size % hosts:
        raise ValueError(
            f"batches: got host {host} of {hosts} and a batch of {batch_size}; need 0 <= host < "
            "hosts and a batch size that they can divide."
        )
    if position < 0 or ahead < 1:
        raise ValueError(
            f"position, ahead: got {position}, {ahead}; need position >= 0, ahead >= 1."
        )
    share = batch_size // hosts
    return _batches(db, batch_size, seed, position, slice(host * share, (host + 1) * share), ahead)


def _batches(
    db: Database, batch_size: int, seed: int, position: int, share: slice, ahead: int
) -> Iterator[tuple[int, Example]]:
    steps = np.arange(batch_size)[share]

    def indices() -> Iterator[np.ndarray]:
        start = position
        while True:
            yield shuffled(len(db), seed, start + steps)
            start += batch_size

    for example in read_ahead(db, indices(), ahead=ahead):
        position += batch_size
        yield position, example


def in_order(db: Database, batch_size: int, *, ahead: int = 2) -> Iterator[Example]:
    """All examples once, in order; the last batch may be smaller."""
    parts = range(0, len(db), batch_size)
    indices = (np.arange(start, min(start + batch_size, len(db))) for start in parts)
    return read_ahead(db, indices, ahead=ahead)


def read_ahead(db: Database, indices: Iterable[Any], *, ahead: int = 2) -> Iterator[Example]:
    """Reads batches of `indices` in a thread, `ahead` of them in advance and no more."""
    pending: deque = deque()
    wanted = iter(indices)
    # Held here: where the stream is left to the end of the program, modules may be gone by then.
    ending = sys.is_finalizing
    pool = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
    try:
        for batch in wanted:
            pending.append(pool.submit(read, db, batch))
            if len(pending) > ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        # Python itself has ended all threads when it ends.
        if not ending():
            pool.shutdown(cancel_futures=True)
