//! Bits as affine forms in masks that the dealer shares.

use std::num::Wrapping;

use marill_numeric::{Word, fixed::low_mask};

use crate::{
    error::ProtocolError,
    masked::{
        Masked, Role,
        boolean::{OpenBits, Planes, monomials},
        share::{Share, Wire},
    },
};
/// Width of a narrow opening.
pub(in crate::masked) const NARROW_BITS: u32 = 32;

/// What makes a narrow value non-negative.
pub(in crate::masked) const OFFSET: u64 = 1 << (NARROW_BITS - 2);

/// A bit as an affine form in masks that the dealer shares:
/// `constant + Σ coefficient · [monomial]`.
pub(in crate::masked) struct Affine {
    pub(super) n: usize,
    /// By element, at the evaluators.
    pub(super) constant: Vec<u64>,
    /// `[monomial][element]`, at the evaluators.
    pub(super) coefficients: Vec<Vec<u64>>,
    /// `[monomial][element]`, at the dealer.
    pub(super) monomials: Vec<Vec<u64>>,
    pub(super) count: usize,
}

impl Affine {
    /// `Σ ± Π` of opened planes as integers: a term is its sign and its planes.
    ///
    /// With `x = x̂ + (1 - 2x̂)·ρ`, a product is the sum over the subsets of its planes of a public
    /// coefficient times a product of masks.
    pub(in crate::masked) fn of(
        engine: &Masked,
        planes: &[OpenBits],
        terms: &[(u64, Planes)],
    ) -> Self {
        let n = planes.first().map_or(0, |plane| plane.n);
        let sets: Vec<Planes> = terms.iter().map(|(_, term)| *term).collect();
        // The dealer shares each product of masks once, whichever terms need it.
        let sets = monomials(&sets, 1);
        let mut affine = Self {
            n,
            constant: Vec::new(),
            coefficients: Vec::new(),
            monomials: Vec::new(),
            count: sets.len(),
        };
        if engine.is_evaluator() {
            // A coefficient depends on the opened bits alone: one table over their patterns each.
            let coefficient = |set: Planes, hats: Planes| {
                let signs = sign(u64::from((set & hats).count_ones() & 1));
                // Of a term, the planes outside the set are opened ones, and all of them must be 1.
                let of_set = terms.iter().filter(|(_, term)| term & set == set);
                let public = of_set.filter(|(_, term)| (term & !set) & !hats == 0);
                public
                    .map(|(factor, _)| Wrapping(*factor) * signs)
                    .sum::<Word>()
                    .0
            };
            let patterns = patterns(planes, OpenBits::hat);
            let column = |set: Planes| {
                let table: Vec<u64> = (0..1 << planes.len())
                    .map(|hats| coefficient(set, hats))
                    .collect();
                patterns
                    .iter()
                    .map(|&hats| table[usize::from(hats)])
                    .collect::<Vec<u64>>()
            };
            affine.constant = column(0);
            affine.coefficients = sets.iter().map(|&set| column(set)).collect();
        } else if matches!(engine.role, Role::Dealer(_)) {
            let patterns = patterns(planes, OpenBits::rho);
            let column = |&set: &Planes| {
                patterns
                    .iter()
                    .map(|&rhos| u64::from(Planes::from(rhos) & set == set))
                    .collect::<Vec<u64>>()
            };
            affine.monomials = sets.iter().map(column).collect();
        }
        affine
    }

    /// Additive shares of the bit, and the shares of the monomials, modulo `2^bits`.
    pub(in crate::masked) fn share(
        &self,
        engine: &mut Masked,
        bits: u32,
    ) -> Result<(Vec<u64>, Vec<Vec<u64>>), ProtocolError> {
        let mut monomials = Vec::with_capacity(self.count);
        for m in 0..self.count {
            monomials.push(engine.correct(self.n, bits, |i| self.monomials[m][i])?);
        }
        let first = engine.is_first();
        let mut data: Vec<u64> = if first {
            self.constant.clone()
        } else {
            vec![0; self.constant.len()]
        };
        for (coefficient, monomial) in self.coefficients.iter().zip(&monomials) {
            for (value, (c, m)) in data.iter_mut().zip(coefficient.iter().zip(monomial)) {
                *value = (Wrapping(*value) + Wrapping(*c) * Wrapping(*m)).0;
            }
        }
        Ok((data, monomials))
    }

    /// What the bit is before any mask, at the evaluators.
    pub(in crate::masked) fn constant(&self) -> &[u64] {
        &self.constant
    }

    /// The form of some of the elements.
    pub(in crate::masked) fn select(&self, n: usize, f: impl Fn(&[u64]) -> Vec<u64>) -> Self {
        let all = |columns: &[Vec<u64>]| columns.iter().map(|column| f(column)).collect();
        let coefficients = all(&self.coefficients);
        let monomials = all(&self.monomials);
        let constant = f(&self.constant);
        let count = self.count;
        Self {
            n,
            constant,
            coefficients,
            monomials,
            count,
        }
    }

    /// Additive shares of a factor that the dealer knows times the form without its constant,
    /// modulo `2^bits`.
    pub(in crate::masked) fn masks_times(
        &self,
        engine: &mut Masked,
        bits: u32,
        factor: impl Fn(usize) -> Word,
    ) -> Result<Vec<u64>, ProtocolError> {
        let mut data = vec![0u64; self.constant.len()];
        for m in 0..self.count {
            let monomial = |i: usize| Wrapping(self.monomials[m][i]);
            let product = engine.correct(self.n, bits, |i| (monomial(i) * factor(i)).0)?;
            let Some(coefficient) = self.coefficients.get(m) else {
                continue;
            };
            for (value, (c, p)) in data.iter_mut().zip(coefficient.iter().zip(product)) {
                *value = (Wrapping(*value) + Wrapping(*c) * Wrapping(p)).0;
            }
        }
        Ok(data)
    }

    /// `bit · x` for a narrow wire `x` and its wide share (see [`crate::masked::onehot::swiglu`]),
    /// given the shares of the monomials.
    pub(in crate::masked) fn times_narrow(
        &self,
        engine: &mut Masked,
        x: &Wire,
        wide: &Share,
        monomials: &[Vec<u64>],
    ) -> Result<Vec<u64>, ProtocolError> {
        let by_mask = self.masks_times(engine, wide.bits, |i| x.r(i))?;
        let by_wrap = self.masks_times(engine, wide.bits - x.bits, |i| narrow_wrap(x.r(i)))?;
        let value = |i: usize| {
            let (public, stays) = narrow_public(x.x_hat(i));
            let terms = self.coefficients.iter().zip(monomials);
            let form: Word = terms.map(|(c, m)| Wrapping(c[i]) * Wrapping(m[i])).sum();
            // constant·[x] + (ẑ - 2^30)·Σ - [r·Σ] + 2^32·c·[m·Σ], with Σ the form's masks.
            let wrap = (stays * Wrapping(by_wrap[i])) << x.bits as usize;
            wide.at(i) * Wrapping(self.constant[i]) + public * form - Wrapping(by_mask[i]) + wrap
        };
        Ok((0..wide.data.len().min(self.constant.len()))
            .map(|i| value(i).0)
            .collect())
    }

    /// `bit · x` for a wire `x`, given the shares of the monomials (at least as wide as the wire).
    pub(in crate::masked) fn times(
        &self,
        engine: &mut Masked,
        x: &Wire,
        monomials: &[Vec<u64>],
    ) -> Result<Vec<u64>, ProtocolError> {
        let mut crossed = Vec::with_capacity(self.count);
        for m in 0..self.count {
            let monomial = |i: usize| Wrapping(self.monomials[m][i]);
            crossed.push(engine.correct(self.n, x.bits, |i| (monomial(i) * x.r(i)).0)?);
        }
        let first = engine.is_first();
        let mut data: Vec<u64> = self
            .constant
            .iter()
            .enumerate()
            .map(|(i, constant)| {
                // constant·[x].
                let public = if first { x.x_hat(i) } else { Wrapping(0) };
                (Wrapping(*constant) * (public - x.r_p(i))).0
            })
            .collect();
        for ((coefficient, monomial), crossed) in
            self.coefficients.iter().zip(monomials).zip(&crossed)
        {
            for (i, value) in data.iter_mut().enumerate() {
                // coefficient·(x̂·[monomial] - [monomial·r]).
                let term = x.x_hat(i) * Wrapping(monomial[i]) - Wrapping(crossed[i]);
                *value = (Wrapping(*value) + Wrapping(coefficient[i]) * term).0;
            }
        }
        Ok(data)
    }
}

/// The bits of each element across at most eight planes, plane `p` at bit `p`.
fn patterns(planes: &[OpenBits], words: impl Fn(&OpenBits) -> &[u64]) -> Vec<u8> {
    debug_assert!(planes.len() <= 8);
    let mut patterns = vec![0u8; planes.first().map_or(0, |plane| plane.n)];
    for (p, plane) in planes.iter().enumerate() {
        for (chunk, &word) in patterns.chunks_mut(64).zip(words(plane)) {
            for (k, pattern) in chunk.iter_mut().enumerate() {
                *pattern |= ((word >> k & 1) as u8) << p;
            }
        }
    }
    patterns
}

/// `1 - 2·bit` as a ring element.
#[inline]
pub(in crate::masked) fn sign(bit: u64) -> Word {
    Wrapping(1) - Wrapping(2 * bit)
}

/// `ẑ - 2^30` as an integer, and `c = 1 - msb(ẑ)`: see "Narrow openings" in
/// [`crate::masked::onehot::swiglu`].
pub(in crate::masked) fn narrow_public(open: Word) -> (Word, Word) {
    let offset = Wrapping(OFFSET);
    let shifted = (open + offset) & Wrapping(low_mask(NARROW_BITS));
    let msb = shifted >> (NARROW_BITS as usize - 1);
    (shifted - offset, Wrapping(1) - msb)
}

/// `msb(r)` of a narrow opening.
pub(in crate::masked) fn narrow_wrap(mask: Word) -> Word {
    mask >> (NARROW_BITS as usize - 1)
}
