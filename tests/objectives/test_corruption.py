"""Cutting, shuffling and CART's weights against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from diffembed.objectives.corruption import cart_weights, shuffle_some, truncate_some
from diffembed.text.batching import PackedBatch, TokenizedSequence, pack


def _batch(lengths: tuple[int, ...]) -> PackedBatch:
    """Every token is another: its sequence times 1,000 plus its position."""
    rows = [tuple(1000 * (i + 1) + j for j in range(n)) for i, n in enumerate(lengths)]
    return pack([TokenizedSequence(r, ((0, len(r)),)) for r in rows])


def _sequences(batch: PackedBatch) -> list[list[int]]:
    return [batch.token_ids[a:b].tolist() for a, b in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True)]


def test_truncation_keeps_the_beginnings() -> None:
    batch = _batch((1, 9, 30))
    for seed in range(20):
        cut = truncate_some(batch, np.random.default_rng(seed), 0.5)
        for before, after in zip(_sequences(batch), _sequences(cut), strict=True):
            assert after and after == before[: len(after)]
        assert cut.position_ids.tolist() == [x % 1000 for x in cut.token_ids.tolist()]
        assert cut.spans.tolist() == np.stack([cut.cu_seqlens[:-1], cut.cu_seqlens[1:]], axis=1).tolist()


def test_truncation_drops_spans_that_are_cut_off() -> None:
    batch = pack([TokenizedSequence((5, 6, 7, 8), ((0, 2), (2, 4))), TokenizedSequence((9,), ((0, 1),))])
    lengths = {tuple(truncate_some(batch, np.random.default_rng(s), 1.0).spans.ravel().tolist()) for s in range(40)}
    assert lengths == {(0, 1, 1, 2), (0, 2, 2, 3), (0, 2, 2, 3, 3, 4), (0, 2, 2, 4, 4, 5)}  # 1, 2, 3, 4 tokens kept


def test_truncation_by_share_and_uniform_length() -> None:
    batch = _batch((10,) * 20_000)
    assert (truncate_some(batch, np.random.default_rng(0), 0.0).token_ids == batch.token_ids).all()
    kept = truncate_some(batch, np.random.default_rng(0), 0.3).lengths
    counts = np.bincount(kept, minlength=11)[1:] / 20_000
    assert counts[:9] == pytest.approx([0.03] * 9, abs=0.006)
    assert counts[9] == pytest.approx(0.73, abs=0.01)


@pytest.mark.parametrize("window", [2, 5, 100])
def test_shuffling_stays_inside_windows_and_sequences(window: int) -> None:
    batch = _batch((1, 7, 40, 40))
    readable = np.flatnonzero(np.random.default_rng(0).random(batch.tokens) < 0.8)
    moved = 0
    for seed in range(30):
        places, taken = shuffle_some(batch, readable, np.random.default_rng(seed), 0.7, window)
        assert (np.diff(places) > 0).all() and np.isin(places, readable).all()
        assert sorted(taken.tolist()) == places.tolist(), "a permutation: no token is lost or doubled"
        assert (np.abs(places - taken) < window).all()
        assert (batch.token_ids[places] // 1000 == batch.token_ids[taken] // 1000).all()
        moved += int((places != taken).sum())
    assert moved > 100


def test_shuffling_is_a_uniform_permutation_of_the_share() -> None:
    batch = _batch((3,))
    seen: dict[tuple[int, ...], int] = {}
    for seed in range(6000):
        _, taken = shuffle_some(batch, np.arange(3), np.random.default_rng(seed), 1.0, 10_000)
        seen[tuple(taken.tolist())] = seen.get(tuple(taken.tolist()), 0) + 1
    assert len(seen) == 6 and min(seen.values()) > 880 and max(seen.values()) < 1120
    chosen = [len(shuffle_some(_batch((50,)), np.arange(50), np.random.default_rng(s), 0.3, 8)[0]) for s in range(400)]
    assert np.mean(chosen) == pytest.approx(15.0, abs=0.7)


@pytest.mark.parametrize("p", [0.3, 0.9, 1.0])
def test_cart_against_the_double_sum(p: float) -> None:
    batch = _batch((1, 2, 60, 150))
    masked = np.flatnonzero(np.random.default_rng(0).random(batch.tokens) < 0.6)
    expected = []
    for n in masked.tolist():
        start, end = next(
            (a, b) for a, b in zip(batch.cu_seqlens[:-1], batch.cu_seqlens[1:], strict=True) if a <= n < b
        )
        readable = [i for i in range(start, end) if i not in set(masked.tolist())]
        expected.append(0.5 * sum(p * (1.0 - p) ** (abs(n - i) - 1) for i in readable))
    assert cart_weights(batch, masked, p) == pytest.approx(expected, abs=1e-11)


def test_cart_is_one_in_the_middle_of_readable_text_and_zero_without_any() -> None:
    batch = _batch((401,))
    assert cart_weights(batch, np.array([200])) == pytest.approx([1.0])
    assert cart_weights(batch, np.array([0])) == pytest.approx([0.5])
    assert cart_weights(batch, np.arange(401)) == pytest.approx(np.zeros(401))
