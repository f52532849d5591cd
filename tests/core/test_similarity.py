"""The similarity index against its model, its recall against a search through everything, and with bad arguments."""

from __future__ import annotations

import array
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from numpy.typing import NDArray

from sidecar._core import SimilarityIndex
from tests.core.model_similarity import ModelIndex

Floats = NDArray[np.float32]

# float32 has 24 bits: six digits of a cosine can be relied on.
CLOSE = 1e-5

VECTORS = st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 3.0]), min_size=3, max_size=3).filter(any)
PARTITIONS = st.sampled_from(["a", "b", "한국어"])


class IndexMachine(RuleBasedStateMachine):
    """The same operations on both. Results may differ only where cosines are equal but for rounding."""

    @initialize(capacity=st.integers(1, 12))
    def make(self, capacity: int) -> None:
        self.index, self.model = SimilarityIndex(3, capacity=capacity), ModelIndex(capacity)

    @rule(partition=PARTITIONS, key=st.integers(0, 15), vector=VECTORS, as_buffer=st.booleans())
    def add(self, partition: str, key: int, vector: list[float], as_buffer: bool) -> None:
        given = array.array("f", vector) if as_buffer else vector
        assert self.index.add(partition, key, given) == self.model.add(partition, key, vector)

    @rule(partition=PARTITIONS, vector=VECTORS, k=st.integers(1, 14), least=st.sampled_from([-1.0, 0.0, 0.6, 0.95]))
    def nearest(self, partition: str, vector: list[float], k: int, least: float) -> None:
        found = self.index.nearest(partition, vector, k, least)
        truth = self.model.similarities(partition, vector)
        for key, similarity in found:
            assert math.isclose(similarity, truth[key], abs_tol=CLOSE)
        keys = [key for key, _ in found]
        assert len(set(keys)) == len(keys) <= k
        assert found == sorted(found, key=lambda pair: (-pair[1], pair[0]))
        # Nothing was left out that is clearly better than the worst one found, or clearly good enough when there was room.
        worst = found[-1][1] if len(found) == k else least
        assert not [key for key, similarity in truth.items() if key not in keys and similarity > worst + CLOSE]
        self.model.use(keys)

    @rule(key=st.integers(0, 15))
    def remove(self, key: int) -> None:
        assert self.index.remove(key) == self.model.remove(key)

    @rule(partition=PARTITIONS)
    def clear(self, partition: str) -> None:
        assert self.index.clear(partition) == self.model.clear(partition)

    @invariant()
    def as_many_are_there(self) -> None:
        assert len(self.index) == len(self.model.entries)


IndexMachine.TestCase.settings = settings(max_examples=200, stateful_step_count=50, deadline=None)
TestIndexMachine = IndexMachine.TestCase

# --- recall ---------------------------------------------------------------------------------------------------------------------


def recall(entries: Floats, queries: Floats, k: int, least: float) -> float:
    """The share of the true nearest that are found, by a search through everything in float64."""
    index = SimilarityIndex(entries.shape[1], capacity=len(entries))
    for key, entry in enumerate(entries):
        index.add("all", key, entry)
    unit = [rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (entries, queries)]
    cosines = unit[1] @ unit[0].T
    wanted = found = 0
    for query, row in zip(queries, cosines, strict=True):
        truth = {int(key) for key in np.argsort(-row)[:k] if row[key] > least + CLOSE}
        wanted += len(truth)
        found += len(truth & {key for key, _ in index.nearest("all", query, k, least)})
    assert wanted > 0
    return found / wanted


def phrasings(topics: int, dimensions: int, spread: float, seed: int) -> tuple[Floats, Floats]:
    """Ten vectors around each of many centres, and one more of each as a query: what a semantic cache holds."""
    numbers = np.random.default_rng(seed)
    centres = numbers.standard_normal((topics, 1, dimensions))
    near = centres + spread * numbers.standard_normal((topics, 11, dimensions))
    return near[:, :10].reshape(-1, dimensions).astype(np.float32), near[:100, 10].astype(np.float32)


@pytest.mark.parametrize(("dimensions", "spread"), [(1536, 0.3), (1536, 0.7), (768, 0.7), (256, 0.5)])
def test_phrasings_of_one_topic_are_found_among_ten_thousand(dimensions: int, spread: float) -> None:
    entries, queries = phrasings(1000, dimensions, spread, seed=dimensions)
    assert recall(entries, queries, 10, 0.6) >= 0.999


def test_counts_of_ngrams_are_found_although_they_are_never_negative() -> None:
    numbers = np.random.default_rng(5)
    counts = (numbers.random((10_000, 1024)) < 0.03) * numbers.integers(1, 5, (10_000, 1024))
    entries = counts.astype(np.float32)
    entries[:, 0] += 1
    queries = entries[:100] + (numbers.random((100, 1024)) < 0.003)
    assert recall(entries, queries.astype(np.float32), 1, 0.6) == 1.0


def test_vectors_without_any_order_are_mostly_found() -> None:
    """The hardest case, and no use to a cache: nothing is near, and the nearest ten are hardly nearer than the next thousand."""
    numbers = np.random.default_rng(6)
    entries, queries = (numbers.standard_normal((n, 1536)).astype(np.float32) for n in (10_000, 50))
    assert recall(entries, queries, 10, -1.0) >= 0.6


def test_a_partition_no_larger_than_its_pool_is_searched_exactly() -> None:
    numbers = np.random.default_rng(7)
    entries, queries = (numbers.standard_normal((n, 16)).astype(np.float32) for n in (256, 50))
    assert recall(entries, queries, 7, -1.0) == 1.0


# --- case by case ---------------------------------------------------------------------------------------------------------------


def keys(nearest: list[tuple[int, float]]) -> list[int]:
    return [key for key, _ in nearest]


def test_partitions_never_see_each_other() -> None:
    index = SimilarityIndex(2, capacity=10)
    index.add("tenant-1", 1, [1, 0])
    assert index.nearest("tenant-2", [1, 0], 5, -1.0) == []
    index.add("tenant-2", 1, [0, 1])
    assert index.nearest("tenant-1", [1, 0], 5, -1.0) == []
    assert index.nearest("tenant-2", [0, 5], 5, -1.0) == [(1, 1.0)]


def test_the_least_recently_used_entry_goes_first() -> None:
    index = SimilarityIndex(2, capacity=3)
    for key in (1, 2, 3):
        assert index.add("p", key, [key, 1]) is None
    assert keys(index.nearest("p", [1, 1], 1, 0.9)) == [1]
    assert index.add("p", 4, [4, 1]) == 2
    assert index.add("other", 5, [5, 1]) == 3
    assert (len(index), index.capacity, index.dimensions) == (3, 3, 2)


def test_length_does_not_matter_and_every_size_of_number_is_held() -> None:
    index = SimilarityIndex(2, capacity=10)
    index.add("p", 1, [3e38, 3e38])
    index.add("p", 2, [-1e-40, 0.0])
    (first, near), (second, far) = index.nearest("p", [1e-45, 0], 5, -1.0)
    assert (first, second, far) == (1, 2, -1.0)
    assert near == pytest.approx(math.sqrt(0.5))


@pytest.mark.parametrize("make", [list, tuple, lambda v: array.array("f", v), lambda v: array.array("d", v), np.float32, np.float64])
def test_every_kind_of_vector(make: Any) -> None:
    index = SimilarityIndex(3, capacity=1)
    index.add("p", 1, make([1.0, 2.0, 3.0]))
    assert keys(index.nearest("p", make([1.0, 2.0, 3.0]), 1, 0.9999)) == [1]


def test_a_buffer_with_gaps_is_read_right() -> None:
    index = SimilarityIndex(3, capacity=1)
    index.add("p", 1, memoryview(array.array("f", range(6)))[::2])
    assert keys(index.nearest("p", [0, 2, 4], 1, 0.9999)) == [1]


@pytest.mark.parametrize(
    ("vector", "error", "message"),
    [
        ([1.0, 2.0], ValueError, "vector: found 2 dimensions, expected 3"),
        ([], ValueError, "vector: found 0 dimensions, expected 3"),
        ([0, 0, 0], ValueError, "vector: found all zeros"),
        ([1, math.nan, 0], ValueError, "vector: found NaN at 1, expected a finite number"),
        ([1, 0, -math.inf], ValueError, "vector: found -inf at 2"),
        ([1e39, 0, 0], ValueError, "vector: found inf at 0, expected a finite number within float32"),
        (np.ones((1, 3), np.float32), ValueError, "vector: found 2 axes, expected 1"),
        (b"abc", TypeError, "vector: found bytes, expected a float32 buffer or a sequence of numbers"),
        ("abc", TypeError, "vector: found str"),
        (["a", "b", "c"], TypeError, "vector: found list, expected a float32 buffer or a sequence of numbers"),
        (5, TypeError, "vector: found int"),
    ],
)
def test_a_bad_vector_changes_nothing_and_says_why(vector: Any, error: type[Exception], message: str) -> None:
    index = SimilarityIndex(3, capacity=1)
    index.add("p", 1, [1, 2, 3])
    with pytest.raises(error, match=message):
        index.add("p", 1, vector)
    with pytest.raises(error, match=message):
        index.nearest("p", vector, 1, 0.0)
    assert keys(index.nearest("p", [1, 2, 3], 1, 0.9999)) == [1]


def test_misuse_is_an_exception() -> None:
    index = SimilarityIndex(2, capacity=1)
    for call, message in (
        (lambda: SimilarityIndex(0, capacity=1), "dimensions: found 0, expected 1 to 65536"),
        (lambda: SimilarityIndex(2, capacity=0), "capacity: found 0, expected 1 to"),
        (lambda: index.nearest("p", [1, 1], 0, 0.5), "k: found 0, expected 1 to"),
        (lambda: index.nearest("p", [1, 1], 1, 1.5), "min_similarity: found 1.5, expected -1 to 1"),
        (lambda: index.nearest("p", [1, 1], 1, math.nan), "min_similarity: found NaN"),
        (lambda: index.add("p", -1, [1, 1]), "key: found -1, expected 0 to"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
