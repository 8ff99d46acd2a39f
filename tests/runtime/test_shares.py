"""Items shared out over hosts, which are threads here."""

import numpy as np
import pytest
import together

from lgjax.runtime import shares

ARRAYS = [
    np.array([np.pi, np.nan, -0.0, 1e-300]),  # 64 bits, which JAX would round
    np.arange(7, dtype=np.int64) * 2**40,
    np.zeros((0, 3), np.float32),
    np.float32([[1.5], [np.inf]]),
    np.array(2.5),
]


def same(ours, theirs) -> bool:
    pairs = zip(ours, theirs, strict=True)
    return all((a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes()) for a, b in pairs)


@pytest.mark.parametrize("hosts", [1, 2, 3, 7])
@pytest.mark.parametrize("piece", [8, 2**24])
def test_arrays_of_all_hosts_keep_their_bits_and_their_order(monkeypatch, hosts, piece):
    """In pieces smaller than a header too; the last hosts of seven have none."""

    def work():
        share = shares.divided(ARRAYS)
        assert same(share.own, share.of(ARRAYS))
        return share.pooled_arrays(share.own)

    monkeypatch.setattr(shares, "PIECE", piece)
    for found in together.threads(monkeypatch, hosts, work):
        assert same(found, ARRAYS)


def test_every_item_has_one_host_and_values_come_in_order(monkeypatch):
    names = [f"sub-{number}" for number in range(8)]

    def work():
        share = shares.divided(names)
        some = share.chosen([7, 2, 2, 3])
        return share.own, share.pooled([{"name": name, "x": 0.1} for name in share.own]), some.pooled(some.own)

    own, pooled, some = zip(*together.threads(monkeypatch, 3, work), strict=True)
    assert sorted(name for each in own for name in each) == names
    assert max(map(len, own)) - min(map(len, own)) <= 1
    assert pooled == ([{"name": name, "x": 0.1} for name in names],) * 3
    assert some == (["sub-7", "sub-2", "sub-2", "sub-3"],) * 3


def test_without_other_hosts_values_are_what_they_are():
    share = shares.divided(ARRAYS)
    assert all(a is b for a, b in zip(share.pooled_arrays(share.own), ARRAYS, strict=True))
    assert shares.alone("abc").pooled([(1, 2), None, {}]) == [(1, 2), None, {}]
