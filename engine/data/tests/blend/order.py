"""Computes the blended order of order.json, independently of the Rust code: python3 order.py > order.json

The definition is in the documentation of engine/data/src/blend.rs and order.rs.
"""

import json
import math

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


def mix(word):
    z = (word + GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def key(words):
    value = 0x6E657661
    for word in words:
        value = mix(value ^ mix(word))
    return value


def bits(key, counter):
    return mix((key + counter * GOLDEN) & MASK)


def permute(key, x, n):
    """Swap-or-not shuffle."""
    rounds = 48 + 6 * n.bit_length()
    for number in range(rounds):
        pivot = bits(key, number) * n >> 64
        partner = (pivot + n - x) % n
        pair = globals()["key"]([bits(key, number), max(x, partner)])
        if bits(pair, 0) & 1:
            x = partner
    return x


def quotas(weights, n):
    """Largest remainders; no part with a weight is left without a position."""
    largest = max(weights)
    scaled = [weight / largest for weight in weights]
    total = 0.0
    for weight in scaled:
        total += weight
    shares = [n * (weight / total) for weight in scaled]
    counts = [math.floor(share) for share in shares]
    order = sorted((i for i, w in enumerate(weights) if w > 0), key=lambda i: -(shares[i] - math.floor(shares[i])))
    for i in order[: n - sum(counts)]:
        counts[i] += 1
    for i, weight in enumerate(weights):
        if weight > 0 and counts[i] == 0:
            richest = counts.index(max(counts))
            if counts[richest] > 1:
                counts[richest] -= 1
                counts[i] = 1
    return counts


def blend(lengths, weights, seed, shuffle, position):
    n = sum(lengths)
    counts = quotas(weights, n)
    epoch, within = divmod(position, n)
    slot = permute(key([seed, epoch]), within, n) if shuffle else within
    for part, count in enumerate(counts):
        if slot < count:
            break
        slot -= count
    first = sum(lengths[:part])
    draw = epoch * counts[part] + slot
    own_epoch, own = divmod(draw, lengths[part])
    if shuffle:
        own_seed = bits(key([int.from_bytes(b"blending", "big"), seed, part]), 0)
        own = permute(key([own_seed, own_epoch]), own, lengths[part])
    return first + own


CASES = [
    ([6, 4], [0.5, 0.5], 1234, True, 0, 30),
    ([6, 4], [0.9, 0.1], 7, True, 0, 20),
    ([3, 0, 5], [2, 0, 1], 1, True, 0, 24),
    ([1, 100], [1, 1e-6], 3, True, 95, 12),
    ([5, 5, 5], [1, 1, 1], 0, False, 0, 15),
    ([4, 2], [1, 2], 5, False, 0, 12),
    ([665000, 1000000], [0.3, 0.7], 1234, True, 3_000_000_000, 8),
]
print(
    json.dumps(
        [
            {
                "lengths": lengths,
                "weights": weights,
                "seed": seed,
                "shuffle": shuffle,
                "from": start,
                "quotas": quotas(weights, sum(lengths)),
                "indices": [blend(lengths, weights, seed, shuffle, start + i) for i in range(count)],
            }
            for lengths, weights, seed, shuffle, start, count in CASES
        ],
        indent=1,
    )
)
