"""One root seed, and from it independent streams of random numbers keyed by what they are for.

A stream depends on (root seed, purpose, indices) alone: never on a worker, an actor, or the order of calls. This is
what makes every stage give the same bytes on one core and on a cluster.
"""

import zlib

import numpy as np


def _sequence(root_seed: int, purpose: str, indices: tuple[int, ...]) -> np.random.SeedSequence:
    if not purpose:
        raise ValueError("purpose is ''; expected a non-empty word that names what the random numbers are for.")
    return np.random.SeedSequence(entropy=root_seed, spawn_key=(zlib.crc32(purpose.encode()), *indices))


def stream(root_seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """Returns the generator of `purpose` and `indices`, for example `stream(7, "episode", 12)`.

    Philox: counter-based, so that streams are independent however many there are and cost nothing to make.
    """
    return np.random.Generator(np.random.Philox(_sequence(root_seed, purpose, indices)))


def derived_seed(root_seed: int, purpose: str, *indices: int) -> int:
    """Returns a 31-bit seed for libraries that take an integer (Gymnasium's `reset(seed=...)`, torch)."""
    return int(_sequence(root_seed, purpose, indices).generate_state(1, np.uint32)[0] >> 1)
