"""Sets of coordinates, each stored once and known by its number, with their unions."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_MEMBERS = 4_000_000
"""Members that all sets, or the sets of one union, may have together: about 100 MB."""


class TooMany(Exception):
    """The sets, or one operation on them, would take too much memory."""


def _mixed(numbers: Tensor) -> Tensor:
    """A number of 64 random bits for each (splitmix64; S. Vigna)."""
    z = numbers + -7046029254386353131
    z = (z ^ (z >> 30)) * -4658895280553007687
    z = (z ^ (z >> 27)) * -7723592293110705685
    return z ^ (z >> 31)


def _sums(groups: Tensor, values: Tensor, count: int) -> Tensor:
    return torch.zeros(count, dtype=torch.int64).index_add_(0, groups, values)


class CoordinateSets:
    """Number 0 is the empty set, number i + 1 the set of coordinate i; unions follow.

    A set has one number however it came about. Two sets are taken for the same if the sums of
    64 random bits of their members agree.
    """

    def __init__(self, coordinates: int, most: int = MOST_MEMBERS) -> None:
        self.coordinates, self.most = coordinates, most
        every = torch.arange(coordinates)
        self._members, self._used = every, coordinates
        self._starts = torch.cat([torch.zeros(1, dtype=torch.int64), every])
        self._sizes = torch.cat([torch.zeros(1, dtype=torch.int64), torch.ones_like(every)])
        self._by_content = dict(zip(_mixed(every).tolist(), range(1, coordinates + 1)))
        self._by_parts: dict[int, int] = {}

    def members(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """The position in `numbers` and the coordinate of every member of these sets.

        Raises TooMany.
        """
        sizes = self._sizes[numbers]
        total = int(sizes.sum())
        if total > self.most:
            raise TooMany
        ends = sizes.cumsum(0)
        where = torch.repeat_interleave(self._starts[numbers] - (ends - sizes), sizes)
        positions = torch.repeat_interleave(torch.arange(numbers.numel()), sizes)
        return positions, self._members[where + torch.arange(total)]

    def unions(self, groups: Tensor, numbers: Tensor, count: int) -> Tensor:
        """The union of the sets in each of `count` groups, by number.

        `groups` has the group of each of `numbers`. Raises TooMany.
        """
        unions = torch.zeros(count, dtype=torch.int64)
        some = numbers != 0
        known = self._sizes.numel()
        if numbers.numel() > 4 * self.most or count > (1 << 62) // known:
            raise TooMany
        keys = torch.unique(groups[some] * known + numbers[some])
        groups, numbers = keys // known, keys % known
        parts = torch.bincount(groups, minlength=count)
        single = parts[groups] == 1
        unions[groups[single]] = numbers[single]
        several = (parts > 1).nonzero().flatten()
        if several.numel():
            hashes = _sums(groups, _mixed(numbers), count)[several]
            distinct, which = torch.unique(hashes, return_inverse=True)
            chosen = torch.empty_like(distinct)
            chosen[which] = several
            listed = distinct.tolist()
            new = [i for i, key in enumerate(listed) if key not in self._by_parts]
            if new:
                self._unite(groups, numbers, chosen[new], count, [listed[i] for i in new])
            by_distinct = torch.tensor([self._by_parts[key] for key in listed])
            unions[several] = by_distinct[which]
        return unions

    def _unite(
        self, groups: Tensor, numbers: Tensor, chosen: Tensor, count: int, keys: list[int]
    ) -> None:
        """Makes the unions of the chosen groups known by their keys."""
        place = torch.full((count,), -1, dtype=torch.int64)
        place[chosen] = torch.arange(chosen.numel())
        inside = place[groups] >= 0
        positions, members = self.members(numbers[inside])
        n = self.coordinates
        entries = torch.unique(place[groups[inside]][positions] * n + members)
        of, members = entries // n, entries % n
        contents = _sums(of, _mixed(members), len(keys)).tolist()
        added: list[int] = []
        known = self._sizes.numel()
        for i, (key, content) in enumerate(zip(keys, contents)):
            if content not in self._by_content:
                self._by_content[content] = known + len(added)
                added.append(i)
            self._by_parts[key] = self._by_content[content]
        if added:
            is_added = torch.zeros(len(keys), dtype=torch.bool)
            is_added[added] = True
            self._append(members[is_added[of]], torch.bincount(of)[added])

    def _append(self, members: Tensor, sizes: Tensor) -> None:
        begin, end = self._used, self._used + members.numel()
        if end > self.most + self.coordinates:
            raise TooMany
        if end > self._members.numel():
            self._members = torch.cat([self._members[:begin], members.new_zeros(end)])
        self._members[begin:end] = members
        self._used = end
        self._starts = torch.cat([self._starts, begin + sizes.cumsum(0) - sizes])
        self._sizes = torch.cat([self._sizes, sizes])

    def pairs(self, a: Tensor, b: Tensor) -> Tensor:
        """The unions of the sets in the places of two tensors, which are broadcast."""
        if a.shape == b.shape and torch.equal(a, b):
            return a
        a, b = torch.broadcast_tensors(a, b)
        if not b.any():
            return a
        if not a.any():
            return b
        known = self._sizes.numel()
        keys, where = torch.unique((a * known + b).reshape(-1), return_inverse=True)
        every = torch.arange(keys.numel())
        numbers = torch.cat([keys // known, keys % known])
        unions = self.unions(torch.cat([every, every]), numbers, keys.numel())
        return unions[where].reshape(a.shape)

    def along(self, sets: Tensor, dims: list[int]) -> Tensor:
        """The unions along dimensions, which keep length 1."""
        dims = sorted({d % max(sets.dim(), 1) for d in dims})
        if not dims or not sets.dim():
            return sets
        kept = [d for d in range(sets.dim()) if d not in dims]
        shape = [1 if d in dims else size for d, size in enumerate(sets.shape)]
        count = 1
        for d in kept:
            count *= sets.shape[d]
        rows = sets.permute(*kept, *dims).reshape(count, -1)
        groups = torch.arange(count)[:, None].expand(rows.shape)
        return self.unions(groups.reshape(-1), rows.reshape(-1), count).reshape(shape)
