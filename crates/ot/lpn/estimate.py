#!/usr/bin/env python3
"""What known attacks cost on the pinned LPN sets, by the public estimator of their authors.

Needs:   a copy of github.com/1234wangtr/Code_estimators (the source of lpnestimator.com), at commit
         41e013c7 of 5 September 2025; pip install numpy scipy
Command: python3 crates/ot/lpn/estimate.py COPY [SET,...] [ATTACK,...] > crates/ot/lpn/estimate.txt

One line per set and attack: log2 of bit operations. The sets are those of `src/silent/set.rs`, read from it. The
estimator searches the parameters of the hybrid attack by a bisection that misses minima (138.8 instead of 128.7 for
b10) and those of the algebraic attacks for hours; here the hybrid is searched on a grid and then around its best, and
the algebraic ones everywhere, with series in floating point for the estimator's polynomials; the best is then counted
by the estimator's own functions.
"""
import contextlib
import io
import pathlib
import re
import sys

import numpy as np

RULES = pathlib.Path(__file__).parent.parent / "src/silent/set.rs"


# Of a block: the best are below 100, and memory grows with it.
MOST_GUESSED = 1024


def sets():
    """(name, rows, secret, trees) of each set, as the code has them."""
    text = RULES.read_text()
    trees = text[text.index("pub fn trees"):]
    found = re.findall(r"Self::B(\d+) => (\d+),", trees[: trees.index("\n    }\n")])
    assert len(found) == 4 and "1 << (self.depth() + 6)" in text, "the code is written in another way"
    return [(f"b{depth}", int(t) << int(depth), 1 << int(depth) + 6, int(t)) for depth, t in found]


def hybrid(cost, rows, secret, trees):
    """ePrint 2025/1284: the best number of guessed rows a block."""
    width = rows // trees
    step = max(1, width // 256)
    costs = {u: cost(rows, secret, trees, u) for u in range(0, width - 2, step)}
    for _ in range(2):
        for best in sorted(costs, key=costs.get)[:3]:
            for u in range(max(0, best - step), min(width - 2, best + step + 1)):
                if u not in costs:
                    costs[u] = cost(rows, secret, trees, u)
        step = 1
    return min(costs.values())


def series(factor, exponent, terms=5):
    """The first coefficients of (1 + factor·z)^exponent."""
    row = [np.ones_like(factor * exponent)]
    for i in range(1, terms):
        row.append(row[-1] * factor * (exponent - i + 1) / i)
    return row


def times(a, b):
    return [sum(a[i] * b[j - i] for i in range(j + 1)) for j in range(len(a))]


def monomials(n, k, t):
    """Over f blocks of which mu rows each are guessed right: costs of guessing (log2), and per degree 2, 3 and 4
    the monomials, and those that equations do not remove (the Hilbert series, cut)."""
    width = n // t
    f = np.arange(t + 1, dtype=np.longdouble)[:, None]
    mu = np.arange(min(width - 1, MOST_GUESSED), dtype=np.longdouble)[None, :]
    guessing = -f * np.log2(1 - mu / width)
    some = times(series(width - mu - 1, f), series(np.longdouble(width - 1) + 0 * mu, t - f))
    left = times(some, series(np.longdouble(1) + 0 * (f + mu), -np.longdouble(n - k - 1)))
    all_of = [sum(some[1 : d + 1]) for d in (2, 3, 4)]
    left = [sum(left[1 : d + 1]) for d in (2, 3, 4)]
    return f, mu, guessing, all_of, left


def degrees(left):
    """The degree at which the system is solved: the first where nothing is left."""
    return np.select([left[0] < 1, left[1] < 1, left[2] < 1], [2, 3, 4], 30)


def algebraic(count, n, k, t):
    """2022/712: the best number of blocks and of guessed rows in each."""
    f, mu, guessing, all_of, left = monomials(n, k, t)
    degree = degrees(left)
    unknown = k + 1 - f * mu
    with np.errstate(all="ignore"):
        size = np.select([degree == d for d in (2, 3, 4)], all_of, np.inf)
        cost = 2 * np.log2(size) + np.log2(3 * unknown) + guessing
    cost[~(unknown > 0)] = np.inf
    best = np.unravel_index(np.argmin(cost), cost.shape)
    return count(n, k, t, int(best[0]), int(best[1]))


def guessing_twice(module, n, k, t):
    """2025/1476: some rows are guessed before the elimination, more of them after it."""
    f, mu, guessing, all_of, left = monomials(n, k, t)
    degree = degrees(left)
    found = []
    for d in (2, 3, 4):
        # The cheapest second guess that contains the first and brings the system to this degree.
        later = np.where((degree == d) & (f * mu < k + 1), guessing, np.inf)
        later = np.minimum.accumulate(later[::-1, ::-1], axis=0)
        later = np.minimum.accumulate(later, axis=1)[::-1, ::-1]
        size = np.maximum(all_of[d - 2], 1)
        rest = np.maximum(left[d - 2], 1)
        gone = np.maximum(size - rest, 2)
        dense = np.log2(5.64) + 2.8 * np.log2(size)
        once = np.minimum(dense, np.log2(size) + 2 * np.log2(gone) - np.log2(np.log2(gone)))
        twice = np.log2(5.64) + 2.8 * np.log2(np.minimum(rest, gone))
        cost = np.logaddexp2(np.maximum(once, 0) + guessing, np.maximum(twice, 0) + later)
        cost[(f < 2) | (mu < 1) | (mu > f)] = np.inf
        best = np.unravel_index(np.argmin(cost), cost.shape)
        found.append((float(cost[best]), d, *map(int, best), float(later[best])))
    _, d, f, mu, later = min(found)
    none = np.zeros((t + 1, n // t + 1, 3))
    size = float(module.M1for2(n, k, t, f, mu, d, none))
    rest = float(module.M2for2(n, k, t, f, mu, d, none))
    gone = max(size - rest, 2)
    once = min(np.log2(5.64) + 2.8 * np.log2(size), np.log2(size * gone**2 / np.log2(gone)))
    twice = np.log2(5.64) + 2.8 * np.log2(min(rest, gone))
    return np.logaddexp2(once - f * np.log2(1 - mu / (n // t)), max(twice, 0) + later)


def attacks():
    """(name, source, cost of rows, secret and trees)."""
    from agb2 import agb2
    from esser import regular_ISD as regular
    from hybrid import hybrid_quick
    from lwyy import hardness_of_lpn as lwyy

    # Regular noise gives one equation a block: a secret and rows fewer by the number of trees.
    def less(cost):
        return lambda n, k, t: cost(n - t, k - t, t)

    return [
        ("gauss", "2022/712", less(lwyy.Gauss)),
        ("sd", "2022/712", less(lwyy.SDfor2)),
        ("sd2", "2022/712", less(lwyy.SD2for2)),
        ("sd-isd", "2022/712", less(lwyy.SD_ISD)),
        ("bjmm", "2022/712", less(lwyy.BJMM_ISD)),
        ("permutation", "2023/1568", regular.permutation_based_concrete_cost),
        ("enumeration", "2023/1568", regular.enumeration_based_concrete_cost),
        ("representation", "2023/1568", regular.representation_based_concrete_cost_depth_2),
        ("hybrid", "2025/1284", lambda n, k, t: hybrid(hybrid_quick.sub_2_quick_u, n, k, t)),
        ("algebraic", "2022/712", lambda n, k, t: algebraic(lwyy.subAGBfor2, n, k, t)),
        ("algebraic-2", "2025/1476", lambda n, k, t: guessing_twice(agb2, n, k, t)),
    ]


def main(copy, wanted_sets=None, wanted_attacks=None):
    sys.path.insert(0, copy)
    for name, rows, secret, trees in sets():
        if wanted_sets and name not in wanted_sets.split(","):
            continue
        for attack, source, cost in attacks():
            if wanted_attacks and attack not in wanted_attacks.split(","):
                continue
            # The estimator prints as it goes.
            with contextlib.redirect_stdout(io.StringIO()):
                bits = float(cost(rows, secret, trees))
            print(f"{name} N={rows} k={secret} t={trees} {attack} ePrint {source}: {bits:.1f}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
