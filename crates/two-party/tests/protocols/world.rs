//! A world of two parties: sessions, random values with corners, shares, and costs as counted.

use std::sync::atomic::Ordering;

use marill_crypto::{Prg, Seed};
use marill_numeric::fixed::low_mask;
use marill_ot::{
    BaseOts, Needs, OtError, Phase, Session, SoftSpoken,
    softspoken::GroupBits,
    world::{LIMIT, MemoryEnd, memory_ends, run_on},
};
use marill_two_party::{Bits, Cost};

fn prg(domain: &str) -> Prg {
    Prg::new(&Seed::from_bytes([4; 32]), domain)
}

/// Base transfers of both parties, made once.
pub struct World {
    saved: [Vec<u8>; 2],
}

/// What both parties got, and what it took.
pub struct Outcome<T> {
    pub shares: [T; 2],
    sent: [u64; 2],
    rounds: u64,
    /// Longest chain of messages after the material was there.
    depth: u64,
}

impl<T> Outcome<T> {
    /// Bytes by party and rounds, material apart.
    pub fn online(&self) -> ([u64; 2], u64) {
        (self.sent, self.rounds)
    }

    /// The declared cost is the counted one.
    pub fn costs(&self, declared: Cost, name: &str) {
        self.sends(declared, name);
        assert_eq!(self.depth, declared.rounds, "{name}: chain of messages");
    }

    /// [`Self::costs`] of a composition, behind so many rounds of another phase. A round in which
    /// both send may begin before the one-way message ahead of it is there, so the chain can be
    /// shorter than the rounds, never longer.
    pub fn costs_after(&self, before: u64, declared: Cost, name: &str) {
        self.sends(declared, name);
        let rounds = before + declared.rounds;
        assert!(self.depth <= rounds, "{name}: a chain of {}", self.depth);
    }

    fn sends(&self, declared: Cost, name: &str) {
        assert_eq!(self.sent, declared.sent, "{name}: bytes by party");
        assert_eq!(self.rounds, declared.rounds, "{name}: rounds");
    }
}

impl World {
    pub fn new() -> Self {
        let (own, other) = memory_ends(LIMIT);
        let party = |mut link| BaseOts::establish(&mut link).unwrap().to_bytes().to_vec();
        let (a, b) = run_on(own, other, party, party);
        Self { saved: [a, b] }
    }

    /// Makes the material, runs a protocol, and counts; all material must be used, and no more be
    /// needed.
    pub fn run<T: Send>(
        &self,
        needs: &Needs,
        protocol: impl Fn(&mut Session<MemoryEnd, SoftSpoken>) -> Result<T, OtError> + Sync,
    ) -> Outcome<T> {
        let (own, other) = memory_ends(LIMIT);
        let depths = [own.depth(), other.depth()];
        let barrier = std::sync::Barrier::new(2);
        let party = |link| {
            let link: marill_ot::Link<MemoryEnd> = link;
            let party = link.party() as usize;
            let base = BaseOts::from_bytes(&self.saved[party]).unwrap();
            let mut session = Session::begin(link, &base, GroupBits::Four).unwrap();
            session.prepare(needs).unwrap();
            // Both are ready before either begins, so that the chain starts at one length.
            barrier.wait();
            let deepest = || {
                depths
                    .iter()
                    .map(|depth| depth.load(Ordering::Relaxed))
                    .max()
            };
            let before = deepest().unwrap_or_default();
            barrier.wait();
            depths[party].store(before, Ordering::Relaxed);
            let extended = session.traffic(Phase::Extension);
            barrier.wait();
            let out = protocol(&mut session).unwrap();
            let online = session.traffic(Phase::Online);
            barrier.wait();
            let depth = deepest().unwrap_or_default() - before;
            barrier.wait();
            let extended_again = session.traffic(Phase::Extension) - extended;
            assert_eq!(extended_again.bytes(), 0, "needs are declared too small");
            assert!(session.is_spent(), "needs are declared too large");
            session.confirm().unwrap();
            (out, online, depth)
        };
        let (a, b) = run_on(own, other, party, party);
        assert_eq!((a.1.sent, a.1.rounds), (b.1.received, b.1.rounds));
        Outcome {
            sent: [a.1.sent, b.1.sent],
            rounds: a.1.rounds,
            depth: a.2.max(b.2),
            shares: [a.0, b.0],
        }
    }
}

/// Random values, corners first.
pub struct Values;

impl Values {
    pub fn of(bits: u32, n: usize) -> Vec<u64> {
        let top = 1 << (bits - 1);
        let corners = [0, 1, 2, top - 1, top, top + 1, low_mask(bits) - 1, u64::MAX];
        let corners = corners.into_iter().map(|value: u64| value & low_mask(bits));
        let random = prg("values").reduced(n, bits);
        corners.chain(random).take(n).collect()
    }

    /// Pairs that are far apart, near each other, and equal.
    pub fn pairs(bits: u32, n: usize) -> [Vec<u64>; 2] {
        let x = Self::of(bits, n);
        let mut y = prg("others").reduced(n, bits);
        let close = prg("near").words(n);
        for i in 0..n {
            let near = [
                y[i],
                x[i],
                x[i] ^ 1,
                x[i].wrapping_add(1),
                x[i].wrapping_sub(1),
            ];
            y[i] = near[(close[i] % 5) as usize] & low_mask(bits);
        }
        [x, y]
    }
}

/// Random bits.
pub fn bits_of(n: usize) -> Bits {
    Bits::random(n, &mut prg("bits"))
}

/// Additive shares modulo `2^bits`, some of them at the corners of the ring.
pub fn split(values: &[u64], bits: u32) -> [Vec<u64>; 2] {
    let mask = low_mask(bits);
    let mut first = prg("shares").reduced(values.len(), bits);
    for (i, share) in first.iter_mut().enumerate() {
        *share = match i % 16 {
            1 => 0,
            2 => mask,
            3 => values[i],
            4 => 1 << (bits - 1),
            _ => *share,
        };
    }
    let second = values.iter().zip(&first);
    let second = second.map(|(value, share)| value.wrapping_sub(*share) & mask);
    [first.clone(), second.collect()]
}

pub fn split_bits(bits: &Bits) -> [Bits; 2] {
    let first = Bits::random(bits.n(), &mut prg("bit shares"));
    let second = bits ^ &first;
    [first, second]
}

pub fn sum(shares: &[Vec<u64>; 2], bits: u32) -> Vec<u64> {
    let pairs = shares[0].iter().zip(&shares[1]);
    pairs
        .map(|(a, b)| a.wrapping_add(*b) & low_mask(bits))
        .collect()
}
