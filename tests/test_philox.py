"""Random streams: Philox's published vectors, the laws of the draws, and streams that never meet."""

import math

import numba
import numpy as np
import pytest

from tinytsm.synth import philox

DRAWS = 200_000


def words(*values: int) -> list[np.uint64]:
    return [np.uint64(value) for value in values]


# Known answers of Philox4x32-10, from the authors' Random123 distribution: counter, key, output
VECTORS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), VECTORS, ids=["zeros", "ones", "pi"])
def test_published_vectors(
    counter: tuple[int, ...], key: tuple[int, ...], answer: tuple[int, ...]
) -> None:
    assert tuple(int(w) for w in philox.block(*words(*counter), *words(*key))) == answer


def test_words_are_the_blocks_of_the_streams_counter() -> None:
    seed, index, purpose = 0x1122334455667788, 0x0102030405060708, 9
    rng = philox.stream(seed, index, purpose)
    drawn = [int(philox.word(rng)) for _ in range(3 * philox.STATE_WORDS)]
    first = set(drawn[:64])
    for number in range(32):
        a, b, c, d = (
            int(w)
            for w in philox.block(
                *words(number, purpose, index & 0xFFFFFFFF, index >> 32),
                *words(seed & 0xFFFFFFFF, seed >> 32),
            )
        )
        assert {a | b << 32, c | d << 32} <= first
    # Bursts follow one another without a repeat
    assert len(set(drawn)) == len(drawn)


def test_streams_differ_in_seed_index_and_purpose() -> None:
    keys = [(s, i, p) for s in (0, 1, 2**62) for i in (0, 1, 2**32, 2**62) for p in (0, 1, 4096)]
    assert len({int(philox.word(philox.stream(*key))) for key in keys}) == len(keys)


def test_stream_starts_anew() -> None:
    one, two = philox.stream(3, 4, 5), philox.stream(3, 4, 5)
    assert [philox.normal(one) for _ in range(200)] == [philox.normal(two) for _ in range(200)]


# Not cached: a cache here would outlive changes of philox
@numba.njit
def fill(rng, kind, a, b, out):
    for t in range(out.shape[0]):
        if kind == 0:
            out[t] = philox.uniform(rng)
        elif kind == 1:
            out[t] = philox.between(rng, a, b)
        elif kind == 2:
            out[t] = math.log(philox.log_uniform(rng, a, b))
        elif kind == 3:
            out[t] = 1.0 if philox.bernoulli(rng, a) else 0.0
        elif kind == 4:
            out[t] = philox.exponential(rng)
        elif kind == 5:
            out[t] = philox.gamma(rng, a)
        elif kind == 6:
            out[t] = philox.poisson(rng, a)
        elif kind == 7:
            out[t] = philox.student_t(rng, a)
        elif kind == 8:
            out[t] = philox.normal(rng)
        else:
            out[t] = philox.integer(rng, int(a), int(b))


# name, kind, parameters, mean, variance, fourth central moment (for the variance's own error)
LAWS = [
    ("uniform", 0, 0, 0, 1 / 2, 1 / 12, 1 / 80),
    ("between", 1, -2, 4, 1, 3, 16.2),
    ("log_uniform", 2, 1, math.e, 1 / 2, 1 / 12, 1 / 80),
    ("bernoulli", 3, 0.3, 0, 0.3, 0.21, 0.21 * (1 - 3 * 0.21)),
    ("exponential", 4, 0, 0, 1, 1, 9),
    ("gamma below one", 5, 0.4, 0, 0.4, 0.4, 3 * 0.16 + 6 * 0.4),
    ("gamma", 5, 5.5, 0, 5.5, 5.5, 3 * 5.5**2 + 6 * 5.5),
    ("poisson small", 6, 0.7, 0, 0.7, 0.7, 0.7 * (1 + 3 * 0.7)),
    ("poisson by inversion", 6, 9.5, 0, 9.5, 9.5, 9.5 * (1 + 3 * 9.5)),
    ("poisson by rejection", 6, 10.5, 0, 10.5, 10.5, 10.5 * (1 + 3 * 10.5)),
    ("poisson large", 6, 5000.0, 0, 5000, 5000, 5000 * (1 + 3 * 5000)),
    ("student t", 7, 9.0, 0, 0, 9 / 7, (3 + 6 / 5) * (9 / 7) ** 2),
    ("normal", 8, 0, 0, 0, 1, 3),
    ("integer", 9, -3, 7, 1.5, 99 / 12, 99 / 12 * (3 * 100 - 7) / 20),
]


@pytest.mark.parametrize(
    ("kind", "a", "b", "mean", "variance", "fourth"),
    [law[1:] for law in LAWS],
    ids=[law[0] for law in LAWS],
)
def test_moments(
    kind: int, a: float, b: float, mean: float, variance: float, fourth: float
) -> None:
    out = np.empty(DRAWS)
    fill(philox.stream(1, kind, 2), kind, float(a), float(b), out)
    assert abs(out.mean() - mean) < 5 * math.sqrt(variance / DRAWS)
    square = (out - mean) ** 2
    assert abs(square.mean() - variance) < 5 * math.sqrt((fourth - variance**2) / DRAWS)


def test_normal_follows_its_distribution_into_the_tail() -> None:
    out = np.empty(2_000_000)
    philox.fill_normal(philox.stream(5, 0, 0), out)
    # 3.654 is where the ziggurat's last layer ends and its tail begins
    for edge in (-3.9, -3.654, -2.0, -1.0, -0.2, 0.0, 0.2, 1.0, 2.0, 3.0, 3.654, 3.9):
        below = 0.5 * math.erfc(-edge / math.sqrt(2))
        assert abs((out < edge).mean() - below) < 5 * math.sqrt(below * (1 - below) / out.size)
    lag = (out[1:] * out[:-1]).mean()
    assert abs(lag) < 5 / math.sqrt(out.size)


def test_uniform_stays_inside_the_open_interval() -> None:
    # The smallest and the largest word
    rng = philox.stream(1, 1, 1)
    philox.word(rng)
    for value, expected in ((0, 2.0**-53), (2**64 - 1, 1 - 2.0**-53)):
        rng[int(rng[6]) + 8] = np.uint64(value)
        assert philox.uniform(rng) == expected


def test_integer_reaches_every_value_of_its_range() -> None:
    rng = philox.stream(2, 2, 2)
    assert {int(philox.integer(rng, 5, 9)) for _ in range(200)} == {5, 6, 7, 8}


def test_poisson_is_a_poisson_distribution() -> None:
    # Both methods, near the mean at which they change over
    for lam in (9.5, 10.5, 30.0):
        out = np.empty(DRAWS)
        fill(philox.stream(1, 6, 3), 6, lam, 0.0, out)
        for k in range(int(lam) - 5, int(lam) + 6):
            p = math.exp(k * math.log(lam) - lam - math.lgamma(k + 1))
            assert abs((out == k).mean() - p) < 5 * math.sqrt(p * (1 - p) / DRAWS)
