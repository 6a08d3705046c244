//! Useful coefficients of many polynomials in one, and one polynomial's taken apart, by
//! automorphisms.
//!
//! # Slots
//! The `n` coefficients of a polynomial are numbered by [`class`]: slot `k` of an even number of
//! halves is at the bit-reversed place. `v` slots from a multiple of `v` (a power of two) are then
//! all places of one class modulo `n / v`, and its halves the two classes of that modulo `2n / v`.
//!
//! # Trees
//! With level `d + 1`'s automorphism σ, of a polynomial whose useful coefficients are at multiples
//! of `2^d`, `f + σ(f)` has twice those at multiples of `2^(d+1)` and zero at odd multiples of
//! `2^d`; `f - σ(f)` the converse ([`split`]). Back, with `e` and `o` useful at multiples of
//! `2^(d+1)` and anything elsewhere, `e + X^h o + σ(e - X^h o)`, `h = 2^d`, has twice the useful
//! ones of both at multiples of `2^d` ([`merge`]). One automorphism a step: Chen, Dai, Kim, Song
//! (ePrint 2020/015, algorithm 2), started at any class instead of at one coefficient.
//!
//! Both double, so that what goes through `d` steps is divided by `2^d` modulo `q` before.
//!
//! # Noise
//! At a place that is useful, noise is doubled with the message and one switching of keys adds its
//! own: after `d` steps at most `Σ 4^i` times the variance, `i < d`, since each level's key has
//! errors of its own: [`noise`]. Elsewhere it is no more. Noise from before is divided and doubled
//! with the message, thus stays.

use crate::{
    bfv::{DEVIATIONS, Packed},
    galois::{PackingKeys, variance},
    parameters::ParameterSet,
    ring::Coefficients,
};

/// The class of `v = n / 2^depth` slots from slot `first`, a multiple of `v`: the places that are
/// this modulo `2^depth`.
pub(crate) fn class(n: usize, depth: u32, first: usize) -> usize {
    let group = first / (n >> depth);
    group.reverse_bits().unbounded_shr(usize::BITS - depth)
}

/// A bound, nine deviations, of the noise that `depth` steps add.
pub(crate) fn noise(set: ParameterSet, depth: u32) -> f64 {
    DEVIATIONS * (variance(set) * ((2 * depth) as f64).exp2() / 3.0).sqrt()
}

/// The even half of the useful places, and the odd half moved to even ones, where they are wanted:
/// places at multiples of `2^(depth+1)` each, doubled.
pub(crate) fn split(
    keys: &PackingKeys,
    depth: u32,
    x: &Packed,
    wanted: [bool; 2],
) -> [Option<Packed>; 2] {
    let ring = keys.ring();
    let turned = keys.turn(depth + 1, x);
    let back = 2 * ring.n - (1 << depth);
    let odd = wanted[1].then(|| {
        let part = |x: &Coefficients, turned: &Coefficients| {
            let mut part = Coefficients(x.0.clone());
            ring.subtract(&mut part, turned);
            ring.shifted(&part, back)
        };
        Packed {
            c0: part(&x.c0, &turned.c0),
            c1: part(&x.c1, &turned.c1),
        }
    });
    let even = wanted[0].then(|| {
        let mut even = turned;
        ring.add(&mut even.c0, &x.c0);
        ring.add(&mut even.c1, &x.c1);
        even
    });
    [even, odd]
}

/// One polynomial, useful at multiples of `2^depth`, of two that are at multiples of twice that,
/// or of one with nothing for the others.
pub(crate) fn merge(keys: &PackingKeys, depth: u32, even: Packed, odd: Option<Packed>) -> Packed {
    let ring = keys.ring();
    let mut sum = even;
    let more = match odd {
        None => Packed {
            c0: Coefficients(sum.c0.0.clone()),
            c1: Coefficients(sum.c1.0.clone()),
        },
        Some(odd) => {
            let odd = Packed {
                c0: ring.shifted(&odd.c0, 1 << depth),
                c1: ring.shifted(&odd.c1, 1 << depth),
            };
            ring.subtract(&mut sum.c0, &odd.c0);
            ring.subtract(&mut sum.c1, &odd.c1);
            let turned = keys.turn(depth + 1, &sum);
            // e - o + 2 o is e + o.
            for _ in 0..2 {
                ring.add(&mut sum.c0, &odd.c0);
                ring.add(&mut sum.c1, &odd.c1);
            }
            turned
        }
    };
    ring.add(&mut sum.c0, &more.c0);
    ring.add(&mut sum.c1, &more.c1);
    sum
}

#[cfg(test)]
mod tests;
