"""The accumulated cloud: one mean point and colour a voxel, in memory that is allocated once. No ROS.

A hash table with open addressing over plain arrays. A voxel is looked for in ``PROBES`` slots that follow from its
cell; where all of them are taken by others, the one that was hit longest ago gives way. So the map never grows,
never slows down, and forgets old places before new ones.

Shape letters: n points of one frame, s slots.
"""

from __future__ import annotations

import numpy as np

from omnistream_core.errors import ConfigError

PROBES = 16
_AXIS_BITS = 21
_HALF = 1 << (_AXIS_BITS - 1)
_EMPTY = np.int64(-1)
_HASH = np.uint64(0x9E3779B97F4A7C15)


class MapCloud:
    """The map of one stream's world.

    Args:
        voxel_m: edge of a voxel, metres.
        capacity: most voxels held.
        weight_limit: hits after which a voxel's mean moves like one of so many, so that it follows a changing scene.
    """

    def __init__(self, *, voxel_m: float, capacity: int, weight_limit: int = 50) -> None:
        if voxel_m <= 0 or capacity < PROBES:
            raise ConfigError(f"map of {capacity} voxels of {voxel_m} m: more than 0 m, at least {PROBES} are needed")
        self._voxel_m, self._weight_limit = voxel_m, float(weight_limit)
        # np.full writes every page now; np.zeros would leave that to the frames
        self._keys_s = np.full(capacity, _EMPTY)
        self._means_s6 = np.full((capacity, 6), np.float32(0))
        self._weights_s = np.full(capacity, np.float32(0))
        self._last_s = np.full(capacity, np.int64(0))
        self._adds = 0
        self.replaced = 0

    def __len__(self) -> int:
        return int(np.count_nonzero(self._keys_s != _EMPTY))

    @property
    def capacity(self) -> int:
        """Most voxels held."""
        return len(self._keys_s)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._keys_s.nbytes + self._means_s6.nbytes + self._weights_s.nbytes + self._last_s.nbytes

    def clear(self) -> None:
        """Forget everything."""
        self._keys_s.fill(_EMPTY)

    def add(self, points_n3: np.ndarray, colours_n3: np.ndarray) -> None:
        """(n, 3) metres and (n, 3) uint8; points that are not finite or beyond 2^20 voxels are left out."""
        with np.errstate(invalid="ignore"):
            cells_n3 = np.floor(points_n3 / self._voxel_m)
            inside_n = (np.abs(cells_n3) < _HALF).all(-1)
        keys_n = _pack(cells_n3[inside_n].astype(np.int64))
        values_n6 = np.concatenate((points_n3[inside_n], colours_n3[inside_n]), axis=-1, dtype=np.float32)
        keys_n, means_n6, counts_n = _means(keys_n, values_n6)
        self._adds += 1
        slots_n, found_n = self._known_slots(keys_n)
        self._merge(slots_n[found_n], means_n6[found_n], counts_n[found_n])
        self._insert(keys_n[~found_n], means_n6[~found_n], counts_n[~found_n])

    def points(self) -> tuple[np.ndarray, np.ndarray]:
        """((n, 3) float32 metres, (n, 3) uint8 colours)."""
        held_s = self._keys_s != _EMPTY
        return self._means_s6[held_s, :3], np.rint(self._means_s6[held_s, 3:]).astype(np.uint8)

    def _slots(self, keys_n: np.ndarray) -> np.ndarray:
        """(n, PROBES) slots of each key, spread by double hashing."""
        mixed_n = keys_n.astype(np.uint64) * _HASH
        capacity = np.uint64(self.capacity)
        start_n, stride_n = (mixed_n >> np.uint64(32)) % capacity, mixed_n % (capacity - np.uint64(1)) + np.uint64(1)
        steps = np.arange(PROBES, dtype=np.uint64)
        return ((start_n[:, None] + steps * stride_n[:, None]) % capacity).astype(np.int64)

    def _known_slots(self, keys_n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        slots_nP = self._slots(keys_n)
        equal_nP = self._keys_s[slots_nP] == keys_n[:, None]
        slots_n = np.take_along_axis(slots_nP, equal_nP.argmax(1)[:, None], 1)[:, 0]
        return slots_n, equal_nP.any(1)

    def _merge(self, slots_n: np.ndarray, means_n6: np.ndarray, counts_n: np.ndarray) -> None:
        share_n1 = (counts_n / (self._weights_s[slots_n] + counts_n))[:, None]
        self._means_s6[slots_n] += share_n1 * (means_n6 - self._means_s6[slots_n])
        self._weights_s[slots_n] = np.minimum(self._weights_s[slots_n] + counts_n, self._weight_limit)
        self._last_s[slots_n] = self._adds

    def _insert(self, keys_n: np.ndarray, means_n6: np.ndarray, counts_n: np.ndarray) -> None:
        """Each key takes its emptiest, else its oldest slot; of several keys after one slot the last gets it."""
        for _ in range(PROBES):
            if len(keys_n) == 0:
                return
            slots_nP = self._slots(keys_n)
            age_nP = np.where(self._keys_s[slots_nP] == _EMPTY, -1, self._last_s[slots_nP])
            slots_n = np.take_along_axis(slots_nP, age_nP.argmin(1)[:, None], 1)[:, 0]
            free_n = age_nP.min(1) < self._adds  # what this frame wrote is not thrown out again by this frame
            keys_n, means_n6, counts_n, slots_n = (part[free_n] for part in (keys_n, means_n6, counts_n, slots_n))
            taken_n = self._keys_s[slots_n] != _EMPTY
            self._keys_s[slots_n] = keys_n
            won_n = self._keys_s[slots_n] == keys_n
            self.replaced += int(np.count_nonzero(won_n & taken_n))
            won = slots_n[won_n]
            self._means_s6[won], self._last_s[won] = means_n6[won_n], self._adds
            self._weights_s[won] = np.minimum(counts_n[won_n], self._weight_limit)
            keys_n, means_n6, counts_n = keys_n[~won_n], means_n6[~won_n], counts_n[~won_n]


def _pack(cells_n3: np.ndarray) -> np.ndarray:
    shifted_n3 = cells_n3 + _HALF
    return (shifted_n3[:, 0] << 2 * _AXIS_BITS) | (shifted_n3[:, 1] << _AXIS_BITS) | shifted_n3[:, 2]


def _means(keys_n: np.ndarray, values_n6: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Unique keys, the mean of the rows of each, and how many those are."""
    if len(keys_n) == 0:
        return keys_n, values_n6, np.empty(0, np.float32)
    order = np.argsort(keys_n, kind="stable")
    unique, starts, counts = np.unique(keys_n[order], return_index=True, return_counts=True)
    sums = np.add.reduceat(values_n6[order], starts, axis=0)
    return unique, sums / counts[:, None].astype(np.float32), counts.astype(np.float32)
