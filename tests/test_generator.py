"""An item's randomness: every part draws from a stream of its own, parents of a mixup included."""

import numpy as np

from tinytsm.synth import augment, dispatch, generator, mixture, philox

SEED, LENGTH = 12, 160


def test_no_two_parts_of_an_item_share_a_stream() -> None:
    purposes = [generator._ITEM]
    for v in range(64):
        lane = generator._FIRST_LANE + v * generator._SERIES_STRIDE
        purposes += [lane + generator._FINISH, lane + generator._FINISH + 1]
        # The series itself and two parents; each attempt, and the noise after the last
        for p in range(3):
            first = lane + p * generator._LANE_STRIDE
            purposes += range(first, first + generator._ATTEMPTS + 1)
    assert len(set(purposes)) == len(purposes)
    # Purposes are words of 32 bits, and the batches' own start at a million
    assert generator._FIRST_LANE + 4096 * generator._SERIES_STRIDE < 1_000_000


def test_a_mixup_is_made_of_the_items_own_substreams() -> None:
    """An item of one variate is made again by hand, each lane from nothing but seed, index and purpose."""
    dispatch.prepare()
    lane, mixed = generator._FIRST_LANE, 0
    parent, part, trace = np.empty(LENGTH), np.empty(LENGTH), dispatch.new_trace()
    for index in range(120):
        mixing = philox.stream(SEED, index, lane + generator._FINISH)
        if not philox.bernoulli(mixing, mixture.MIXUP_SHARE):
            continue
        mixed += 1
        count = 1 if philox.bernoulli(mixing, 0.7) else 2
        parents: list[tuple[int, np.ndarray]] = []
        # The last parent first: the order of the drawing is no matter
        for p in range(count, 0, -1):
            purpose = lane + p * generator._LANE_STRIDE
            other = generator._lane(SEED, index, purpose, -3, parent, part, trace)
            parents.insert(0, (other, parent.copy()))
        x = np.empty(LENGTH)
        properties = generator._lane(SEED, index, lane, -3, x, part, trace)
        for other, series in parents:
            augment.mixup(mixing, x, series)
            properties = (properties | other) & generator._HAS_UNIT_ROOT
        missing = philox.bernoulli(
            philox.stream(SEED, index, generator._ITEM), mixture.MISSING_SHARE
        )
        finish = philox.stream(SEED, index, lane + generator._FINISH + 1)
        before = x.copy()
        generator._augmented(properties, finish, x, trace)
        generator._skew(finish, x)
        if not generator._usable(x):
            x = before
        generator._place(finish, x)
        if missing:
            generator._gaps(finish, x, trace)
        np.testing.assert_array_equal(generator.sample(SEED, index, LENGTH)[0], x)
    assert mixed > 8
