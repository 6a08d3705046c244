//! XOR-shared bits: one-hot vectors of mask digits, planes of bits, AND trees.
//!
//! A *plane* is one bit of every element of a tensor, packed 64 to a word. The comparison of a
//! public value with a masked one starts from one-hot vectors of the mask's digits: "less than" and
//! "equal" of a digit are then parities of a public subset of shared bits, so they cost nothing
//! online. Source: CrypTFlow2 (CCS '20), section 3, for the tree; the one-hot form is Pika's and
//! SIGMA's.

use marill_numeric::fixed::low_mask;

use crate::{
    error::ProtocolError,
    masked::{
        Masked, Role, pack_plane,
        share::{Held, Share, Wire},
    },
};

/// One XOR-shared bit of each of `n` elements. Empty at the dealer and in a tally.
#[derive(Clone)]
pub(crate) struct Bits {
    pub(crate) n: usize,
    pub(crate) words: Vec<u64>,
}

/// A plane opened under a mask: `hat = bit ⊕ ρ`.
#[derive(Clone)]
pub(crate) struct OpenBits {
    pub(crate) n: usize,
    /// Words of 64 bits.
    pub(crate) held: Held<Vec<u64>>,
}

impl OpenBits {
    /// The opened bits; nothing but at an evaluator.
    pub(crate) fn hat(&self) -> &[u64] {
        self.held.opened()
    }

    /// The own share of `ρ`; nothing but at an evaluator.
    pub(crate) fn rho_p(&self) -> &[u64] {
        self.held.half()
    }

    /// `ρ`; nothing but at the dealer.
    pub(crate) fn rho(&self) -> &[u64] {
        match &self.held {
            Held::Dealer(rho) => rho,
            Held::Shape | Held::Evaluator { .. } => &[],
        }
    }
}

/// Shared one-hot vectors of one digit of a wire's mask.
pub(crate) struct OneHot {
    pub(crate) width: u32,
    /// Words of each vector: one for digits of up to 6 bits.
    pub(crate) stride: usize,
    /// The XOR share at an evaluator; at the dealer, E0's bit at the hot position, which fixes a
    /// lookup's sign.
    pub(crate) data: Vec<u64>,
}

#[inline]
pub(crate) fn bit(words: &[u64], i: usize) -> u64 {
    (words[i / 64] >> (i % 64)) & 1
}

/// Packs `n` bits.
pub(crate) fn plane(n: usize, value: impl FnMut(usize) -> u64) -> Vec<u64> {
    #[cfg(target_arch = "x86_64")]
    {
        // The body counts bits; without this its parities are a dozen instructions each.
        #[target_feature(enable = "popcnt,bmi2")]
        unsafe fn fast(n: usize, value: impl FnMut(usize) -> u64) -> Vec<u64> {
            plane_body(n, value)
        }
        if std::is_x86_feature_detected!("popcnt") && std::is_x86_feature_detected!("bmi2") {
            // SAFETY: the features were just detected.
            return unsafe { fast(n, value) };
        }
    }
    plane_body(n, value)
}

#[inline(always)]
fn plane_body(n: usize, mut value: impl FnMut(usize) -> u64) -> Vec<u64> {
    let mut words = vec![0u64; n.div_ceil(64)];
    for (w, word) in words.iter_mut().enumerate() {
        let first = w * 64;
        let mut packed = 0;
        for k in 0..64.min(n - first) {
            packed |= value(first + k) << k;
        }
        *word = packed;
    }
    words
}

impl Bits {
    pub(crate) fn xor(&self, other: &Self) -> Self {
        Self {
            n: self.n,
            words: self
                .words
                .iter()
                .zip(&other.words)
                .map(|(a, b)| a ^ b)
                .collect(),
        }
    }
}

/// Parity of the bits below position `end`. Masks instead of a branch on how many words these fill,
/// which would be guessed wrong half the time.
#[inline(always)]
fn prefix_parity(words: &[u64], end: usize) -> u64 {
    let mut kept = 0;
    for (w, word) in words.iter().enumerate() {
        kept ^= word & low_mask(end.saturating_sub(64 * w).min(64) as u32);
    }
    u64::from(kept.count_ones() & 1)
}

impl OneHot {
    #[inline(always)]
    fn vector(&self, row: usize) -> &[u64] {
        &self.data[row * self.stride..][..self.stride]
    }

    /// `[digit < mask digit]` and `[digit = mask digit]`; `at` gives the vector and the public
    /// digit of an element.
    pub(crate) fn compare(
        &self,
        n: usize,
        held: bool,
        at: impl Fn(usize) -> (usize, usize),
    ) -> (Bits, Bits) {
        if !held {
            return (
                Bits {
                    n,
                    words: Vec::new(),
                },
                Bits {
                    n,
                    words: Vec::new(),
                },
            );
        }
        let less = if self.stride == 1 {
            // Bits above the digit, as one mask: no prefix of a prefix.
            plane(n, |i| {
                let (row, digit) = at(i);
                // [digit < mask digit] is the parity of the hot positions above the digit.
                let above = (self.data[row] >> digit) >> 1;
                u64::from(above.count_ones() & 1)
            })
        } else {
            plane(n, |i| {
                let (row, digit) = at(i);
                let vector = self.vector(row);
                let all = vector.iter().fold(0, |all, word| all ^ word);
                u64::from(all.count_ones() & 1) ^ prefix_parity(vector, digit + 1)
            })
        };
        (Bits { n, words: less }, self.equal(n, held, at))
    }

    /// `[digit = mask digit]` only.
    pub(crate) fn equal(&self, n: usize, held: bool, at: impl Fn(usize) -> (usize, usize)) -> Bits {
        let words = if held {
            plane(n, |i| {
                let (row, digit) = at(i);
                bit(self.vector(row), digit)
            })
        } else {
            Vec::new()
        };
        Bits { n, words }
    }

    /// For the digit that holds the sign: the sign of `digit - mask digit`, and whether a borrow
    /// from below flips it.
    pub(crate) fn sign(
        &self,
        n: usize,
        held: bool,
        at: impl Fn(usize) -> (usize, usize),
    ) -> (Bits, Bits) {
        if !held {
            return (
                Bits {
                    n,
                    words: Vec::new(),
                },
                Bits {
                    n,
                    words: Vec::new(),
                },
            );
        }
        let size = 1usize << self.width;
        let half = 1usize << (self.width - 1);
        let sign = plane(n, |i| {
            let (row, digit) = at(i);
            let vector = self.vector(row);
            // The sign of digit - mask digit is a parity over half of the circle.
            let from = (digit + 1) % size;
            let to = (digit + half + 1) % size;
            let wraps = if from < to {
                0
            } else {
                prefix_parity(vector, size)
            };
            prefix_parity(vector, from) ^ prefix_parity(vector, to) ^ wraps
        });
        let flips = plane(n, |i| {
            let (row, digit) = at(i);
            bit(self.vector(row), digit) ^ bit(self.vector(row), (digit + half) % size)
        });
        (Bits { n, words: sign }, Bits { n, words: flips })
    }
}

/// A comparison before its last gate: `(less, equal)` of one to three digits, lowest first.
///
/// The bit is `l_2 ⊕ e_2·(l_1 ⊕ e_1·l_0)`. Where the top digit holds a sign, its pair is
/// `(sign, flips)` instead.
pub(crate) struct Pending {
    pub(crate) digits: Vec<(Bits, Bits)>,
}

/// A set of planes, bit `i` for plane `i`.
pub(crate) type Planes = u32;

/// All subsets of the terms with at least `least` planes, in ascending order: the monomials of
/// masks in which the products of opened planes expand.
pub(crate) fn monomials(terms: &[Planes], least: u32) -> Vec<Planes> {
    let mut all: Vec<Planes> = terms.iter().flat_map(|&term| subsets(term)).collect();
    all.retain(|s| s.count_ones() >= least);
    all.sort_unstable();
    all.dedup();
    all
}

/// The subsets of a set, the empty one last.
pub(crate) fn subsets(set: Planes) -> impl Iterator<Item = Planes> {
    let mut next = Some(set);
    std::iter::from_fn(move || {
        let now = next?;
        next = (now > 0).then(|| (now - 1) & set);
        Some(now)
    })
}

/// The planes of a set.
pub(crate) fn members(set: Planes) -> impl Iterator<Item = usize> {
    (0..Planes::BITS as usize).filter(move |i| set >> i & 1 == 1)
}

/// Digits that one round may join: four, so that a product has at most four factors and eleven
/// mixed monomials.
const FAN_IN: usize = 4;

impl Masked {
    /// One-hot vectors of bits `start..start + width` of a wire's mask: `2^width` bits of
    /// corrections per element.
    pub(crate) fn one_hot(
        &mut self,
        wire: &Wire,
        start: u32,
        width: u32,
    ) -> Result<OneHot, ProtocolError> {
        let n = wire.len();
        let size = 1usize << width;
        let stride = size.div_ceil(64);
        let bytes = size.div_ceil(8);
        let data = match &mut self.role {
            Role::Tally(tally) => {
                tally.dealer(n * bytes);
                Vec::new()
            }
            Role::Dealer(dealer) => {
                // 1 at the mask's digit, 0 elsewhere.
                let hot = |r: u64| ((r >> start) as usize) & (size - 1);
                let mut plain = vec![0u64; n * stride];
                for (vector, r) in plain.chunks_exact_mut(stride).zip(wire.mask()) {
                    vector[hot(*r) / 64] = 1 << (hot(*r) % 64);
                }
                let halves = dealer
                    .randomness
                    .prg_share_bits(&plain, bytes.min(8), n * bytes);
                // E1 is sent vector ⊕ E0's half.
                let words = plain.iter().zip(&halves).map(|(word, half)| word ^ half);
                crate::masked::pack_iter(&mut dealer.buffer, words, bytes.min(8));
                dealer.emit()?;
                halves
                    .chunks_exact(stride)
                    .zip(wire.mask())
                    .map(|(half, r)| bit(half, hot(*r)))
                    .collect()
            }
            Role::Evaluator(e) => {
                let mut data = if e.first {
                    e.prg_share(n * stride)
                } else {
                    crate::masked::unpack(e.read_corrections(n * bytes)?, bytes.min(8))
                };
                // A whole word was drawn; positions past the digit's range are no part of the
                // vector.
                if size < 64 {
                    data.iter_mut().for_each(|w| *w &= (1 << size) - 1);
                }
                data
            }
        };
        Ok(OneHot {
            width,
            stride,
            data,
        })
    }

    /// XOR shares of a plane that the dealer computes word by word.
    pub(crate) fn correct_plane(
        &mut self,
        n: usize,
        word: impl Fn(usize) -> u64,
    ) -> Result<Bits, ProtocolError> {
        let count = n.div_ceil(64);
        let words = match &mut self.role {
            Role::Tally(tally) => {
                tally.dealer(n.div_ceil(8));
                Vec::new()
            }
            Role::Dealer(dealer) => {
                let plain: Vec<u64> = (0..count).map(word).collect();
                let halves = dealer.randomness.prg_share_bits(&plain, 8, n.div_ceil(8));
                let words: Vec<u64> = plain
                    .iter()
                    .zip(halves)
                    .map(|(word, half)| word ^ half)
                    .collect();
                pack_plane(&mut dealer.buffer, &words, n);
                dealer.emit()?;
                Vec::new()
            }
            Role::Evaluator(e) if e.first => e.prg_share(count),
            Role::Evaluator(e) => {
                let mut words = vec![0; count];
                crate::masked::xor_packed_plane(&mut words, e.read_corrections(n.div_ceil(8))?, n);
                words
            }
        };
        Ok(Bits { n, words })
    }

    /// Products of sets of planes, and wires of shares, all in one round. Each plane is opened
    /// once, however many products it enters; a product of `m` planes costs one bit of corrections
    /// for every set of two or more of them that no other product has asked for.
    pub(crate) fn products(
        &mut self,
        shares: &[(&Share, u32)],
        planes: &[&Bits],
        terms: &[Planes],
        label: &'static str,
    ) -> Result<(Vec<Wire>, Vec<Bits>), ProtocolError> {
        // x̂ = x ⊕ ρ of every plane, in the round of the shares.
        let (wires, opened) = self.exchange(shares, planes, label)?;
        let products = self.opened_products(&opened, terms)?;
        Ok((wires, products))
    }

    /// `Π (x̂ ⊕ ρ) = ⊕_S (Π_{not in S} x̂)·(Π_{in S} ρ)` for planes that are already open.
    pub(crate) fn opened_products(
        &mut self,
        opened: &[OpenBits],
        terms: &[Planes],
    ) -> Result<Vec<Bits>, ProtocolError> {
        let n = opened.first().map_or(0, |plane| plane.n);
        let mut mixed: Vec<(Planes, Vec<u64>)> = Vec::new();
        // The dealer shares Π ρ of every set of two or more planes that a term needs.
        for set in monomials(terms, 2) {
            let masks: Vec<&[u64]> = members(set).map(|i| opened[i].rho()).collect();
            let share =
                self.correct_plane(n, |w| masks.iter().fold(u64::MAX, |all, rho| all & rho[w]))?;
            mixed.push((set, share.words));
        }
        let first = self.is_first();
        let held = self.is_evaluator();
        let product = |&term: &Planes| {
            let mut words = vec![0; if held { n.div_ceil(64) } else { 0 }];
            for set in subsets(term) {
                let share = match set.count_ones() {
                    0 => None,
                    1 => Some(opened[set.trailing_zeros() as usize].rho_p()),
                    _ => mixed
                        .iter()
                        .find(|(other, _)| *other == set)
                        .map(|(_, share)| share.as_slice()),
                };
                // The public monomial is added once, by E0.
                if share.is_none() && !first {
                    continue;
                }
                let others: Vec<&[u64]> = members(term & !set).map(|i| opened[i].hat()).collect();
                for (w, word) in words.iter_mut().enumerate() {
                    let public = others.iter().fold(u64::MAX, |all, hat| all & hat[w]);
                    *word ^= public & share.map_or(u64::MAX, |share| share[w]);
                }
            }
            Bits { n, words }
        };
        Ok(terms.iter().map(product).collect())
    }

    /// Joins digit results, lowest first, until at most `count` are left. `digits[0]` is
    /// `(less, equal)` of the lowest digit; the top pair may be a sign pair. One round for each
    /// fourfold.
    pub(crate) fn reduce(
        &mut self,
        mut digits: Vec<(Bits, Bits)>,
        count: usize,
        label: &'static str,
    ) -> Result<Pending, ProtocolError> {
        while digits.len() > count {
            digits = self.reduce_once(digits, count, label)?;
        }
        Ok(Pending { digits })
    }

    fn reduce_once(
        &mut self,
        digits: Vec<(Bits, Bits)>,
        count: usize,
        label: &'static str,
    ) -> Result<Vec<(Bits, Bits)>, ProtocolError> {
        let groups = groups(digits.len(), count);
        let mut planes: Vec<&Bits> = Vec::new();
        let mut terms: Vec<Planes> = Vec::new();
        let mut start = 0;
        for (g, &size) in groups.iter().enumerate() {
            let group = &digits[start..start + size];
            start += size;
            // From the top digit down: all equalities above, then `less`.
            let mut above: Planes = 0;
            for (d, (less, equal)) in group.iter().enumerate().rev() {
                if d + 1 < size {
                    planes.push(less);
                    terms.push(above | 1 << (planes.len() - 1));
                }
                // Nothing lies below the lowest group, so its equality is never asked for.
                if size > 1 && (d > 0 || g > 0) {
                    planes.push(equal);
                    above |= 1 << (planes.len() - 1);
                }
            }
            if size > 1 && g > 0 {
                terms.push(above);
            }
        }
        let (_, products) = self.products(&[], &planes, &terms, label)?;
        let mut products = products.into_iter();
        let mut next = || {
            products
                .next()
                .unwrap_or_else(|| unreachable!("one product a request"))
        };
        let mut reduced = Vec::with_capacity(groups.len());
        let mut start = 0;
        for (g, &size) in groups.iter().enumerate() {
            // less = less_top ⊕ equal_top·less_below ⊕ ...: below a digit the terms exclude each
            // other. Of a sign pair, sign ⊕ flips·below, both may be 1.
            let (top, equal) = &digits[start + size - 1];
            start += size;
            let less = (1..size).fold(top.clone(), |less, _| less.xor(&next()));
            let equal = if size > 1 && g > 0 {
                next()
            } else {
                equal.clone()
            };
            reduced.push((less, equal));
        }
        Ok(reduced)
    }
}

/// Sizes of the groups, lowest digit first, that one round joins on the way from `digits` to
/// `count`.
fn groups(digits: usize, count: usize) -> Vec<usize> {
    let reach = |fan_in: usize, rounds: u32| count * fan_in.pow(rounds) >= digits;
    let rounds = (1..).find(|&r| reach(FAN_IN, r)).unwrap_or(1);
    let fan_in = (2..=FAN_IN).find(|&f| reach(f, rounds)).unwrap_or(FAN_IN);
    let groups = digits.div_ceil(fan_in).max(count);
    (0..groups)
        .map(|g| digits * (g + 1) / groups - digits * g / groups)
        .collect()
}

/// Splits `total` bits from `start` into `count` digits, lowest first: `(start, width)`.
pub(crate) fn split(start: u32, total: u32, count: u32) -> Vec<(u32, u32)> {
    let count = count.min(total);
    (0..count)
        .map(|d| {
            let from = start + total * d / count;
            let to = start + total * (d + 1) / count;
            (from, to - from)
        })
        .collect()
}

impl Wire {
    /// The MSBs of the openings.
    pub(in crate::masked) fn msbs(&self) -> Vec<u64> {
        let opened = self.opened();
        plane(opened.len(), |i| opened[i] >> (self.bits - 1) & 1)
    }
}
