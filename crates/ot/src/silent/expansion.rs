//! One direction's iterations: trees and code, used tree by tree.
//!
//! An iteration takes [`LpnSet::seeds`] transfers: `k` whose bits are the secret, and one a level
//! of each tree. It is not made at once. A tree is expanded, and its message sent, when its
//! transfers are asked for; the last [`LpnSet::reserve`] trees make what the next iteration takes,
//! when the others are used up. Fewer rows of an LPN instance are an easier thing to hide, so this
//! is the protocol with its messages spread out.

use marill_crypto::{Prg, aes::Cipher};
use zeroize::{Zeroize, Zeroizing};

use super::{
    code::Places,
    set::LpnSet,
    tree::{add_at, grow, puncture},
};
use crate::{hash::public_key, link::Party};

/// A party's side of a direction, and its message.
pub(crate) enum End<'a> {
    Sender {
        delta: u128,
        roots: &'a mut Prg,
        message: Vec<u8>,
    },
    Chooser {
        /// What was not read yet.
        message: &'a [u8],
    },
}

impl End<'_> {
    /// What the sender sends.
    pub(crate) fn message(&self) -> &[u8] {
        match self {
            Self::Sender { message, .. } => message,
            Self::Chooser { .. } => &[],
        }
    }
}

/// The public keys of an iteration.
struct Keys {
    trees: Cipher,
    matrix: Cipher,
}

impl Keys {
    fn new(session: &[u8], set: LpnSet, sender: Party, iteration: u64) -> Self {
        let mut place = session.to_vec();
        place.extend([set as u8, sender as u8]);
        place.extend(iteration.to_le_bytes());
        Self {
            trees: Cipher::new(&public_key("half trees", &place)),
            matrix: Cipher::new(&public_key("LPN matrix", &place)),
        }
    }
}

/// The iterations of one direction.
pub(crate) struct Expansion {
    set: LpnSet,
    sender: Party,
    /// Both parties' nonces.
    session: Vec<u8>,
    iteration: u64,
    keys: Keys,
    /// The secret's transfers, then those of the trees' levels.
    seeds: Zeroizing<Vec<u128>>,
    /// The next tree.
    tree: usize,
    places: Places,
}

impl Expansion {
    /// Begins with [`LpnSet::seeds`] transfers, whose lowest bits are the chosen bits at the
    /// chooser and zero at the sender.
    pub(crate) fn new(
        set: LpnSet,
        sender: Party,
        session: &[u8],
        seeds: Zeroizing<Vec<u128>>,
    ) -> Self {
        assert_eq!(seeds.len(), set.seeds(), "what an iteration takes");
        Self {
            set,
            sender,
            session: session.to_vec(),
            iteration: 0,
            keys: Keys::new(session, set, sender, 0),
            seeds,
            tree: 0,
            places: Places::new(),
        }
    }

    /// Trees that the next `wanted` take, those for a next iteration included.
    pub(crate) fn trees_for(set: LpnSet, used: usize, wanted: usize) -> usize {
        let beyond = wanted.saturating_sub(set.usable() - used);
        wanted + beyond.div_ceil(set.usable()) * set.reserve()
    }

    /// Trees of this iteration that are used.
    pub(crate) fn used(&self) -> usize {
        self.tree
    }

    /// The transfers of a tree. Begins the next iteration when this one is used up.
    pub(crate) fn next(&mut self, end: &mut End<'_>, blocks: &mut [u128]) {
        if self.tree == self.set.usable() {
            let mut seeds = Zeroizing::new(vec![0; self.set.reserve() * self.set.leaves()]);
            self.raw(end, &mut seeds);
            seeds[self.set.seeds()..].zeroize();
            seeds.truncate(self.set.seeds());
            self.seeds = seeds;
            self.tree = 0;
            self.iteration += 1;
            self.keys = Keys::new(&self.session, self.set, self.sender, self.iteration);
        }
        self.raw(end, blocks);
    }

    /// The transfers of the next trees of this iteration, which has as many.
    pub(crate) fn raw(&mut self, end: &mut End<'_>, blocks: &mut [u128]) {
        let (secret, levels) = self.seeds.split_at(self.set.secret());
        let depth = self.set.depth();
        for nodes in blocks.chunks_exact_mut(self.set.leaves()) {
            let levels = &levels[self.tree * depth..(self.tree + 1) * depth];
            let row = (self.tree * self.set.leaves()) as u64;
            let Keys { trees, matrix } = &self.keys;
            match end {
                End::Sender {
                    delta,
                    roots,
                    message,
                } => {
                    let words = Zeroizing::new(roots.words(2));
                    let root = u128::from(words[1]) << 64 | u128::from(words[0]);
                    grow(trees, root, *delta, levels, nodes, message);
                    self.places.add_code(matrix, row, secret, nodes);
                }
                End::Chooser { message } => {
                    let (own, rest) = message.split_at(self.set.tree_bytes());
                    let missing = puncture(trees, levels, own, nodes);
                    self.places.add_code(matrix, row, secret, nodes);
                    // The wrong bit, and its block.
                    add_at(nodes, missing.leaf, missing.correction | 1);
                    *message = rest;
                }
            }
            self.tree += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use marill_crypto::Seed;

    use super::*;

    /// Both ends of some trees: blocks of the sender and of the chooser, and the chooser's seeds.
    fn trees(set: LpnSet, count: usize, delta: u128) -> [Vec<u128>; 3] {
        let mut prg = Prg::new(&Seed::from_bytes([3; 32]), "seeds");
        let words = prg.words(2 * set.seeds());
        let sent = words.chunks_exact(2);
        let sent: Vec<u128> = sent
            .map(|w| u128::from(w[1]) << 64 | u128::from(w[0]) & !1)
            .collect();
        let bits = prg.words(set.seeds());
        let chosen = sent.iter().zip(bits);
        let chosen: Vec<u128> = chosen
            .map(|(q, bit)| q ^ (u128::from(bit & 1).wrapping_neg() & delta))
            .collect();
        let mut made = [vec![0; count * set.leaves()], vec![0; count * set.leaves()]];
        let begin = |seeds: &[u128]| {
            Expansion::new(set, Party::E0, &[5; 64], Zeroizing::new(seeds.to_vec()))
        };
        let mut sender = End::Sender {
            delta,
            roots: &mut prg,
            message: Vec::new(),
        };
        begin(&sent).raw(&mut sender, &mut made[0]);
        let message = sender.message().to_vec();
        assert_eq!(message.len(), count * set.tree_bytes());
        let mut chooser = End::Chooser { message: &message };
        begin(&chosen).raw(&mut chooser, &mut made[1]);
        let [sent, received] = made;
        [sent, received, chosen]
    }

    /// Without it the chosen bits would be a linear function of the secret's, for all to solve.
    #[test]
    fn every_tree_has_one_wrong_bit_where_its_seeds_say() {
        let set = LpnSet::B10;
        let delta = 0x1234_5678_9abc_def0_u128 << 50 | 1;
        let count = 40;
        let [sent, received, seeds] = trees(set, count, delta);
        let matrix = Keys::new(&[5; 64], set, Party::E0, 0).matrix;
        let places = matrix.stream(0, 5 * count * set.leaves(), u64::MAX);
        let mut wrong = Vec::new();
        for (row, places) in places.chunks_exact(5).enumerate() {
            let places = places.iter().flat_map(|w| [w & 0xffff, w >> 32 & 0xffff]);
            let clean = places.fold(0, |sum, at| sum ^ seeds[at as usize] & 1);
            let bit = received[row] & 1;
            assert_eq!(received[row] ^ sent[row], bit.wrapping_neg() & delta);
            if bit != clean {
                wrong.push(row);
            }
        }
        let levels = seeds[set.secret()..].chunks_exact(set.depth());
        let expected = levels.take(count).enumerate().map(|(tree, levels)| {
            let path = levels
                .iter()
                .rev()
                .fold(0, |path, t| path << 1 | !*t as usize & 1);
            tree * set.leaves() + path
        });
        assert_eq!(wrong, expected.collect::<Vec<_>>());
        // Forty places of random paths are not all the same.
        assert!(wrong.iter().any(|row| row % set.leaves() != wrong[0]));
    }

    /// A matrix or a hash key that came twice would let two iterations be solved together.
    #[test]
    fn every_iteration_of_every_session_has_its_keys() {
        let of = |session: &[u8], set, sender, iteration| {
            let keys = Keys::new(session, set, sender, iteration);
            [
                keys.trees.stream(0, 2, u64::MAX),
                keys.matrix.stream(0, 2, u64::MAX),
            ]
        };
        let mut all = Vec::new();
        for session in [[1; 64], [2; 64]] {
            for set in LpnSet::ALL {
                for sender in [Party::E0, Party::E1] {
                    all.extend([0, 1, 256].map(|i| of(&session, set, sender, i)).concat());
                }
            }
        }
        let made = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!((all.len(), made), (96, 96));
    }

    #[test]
    fn trees_of_the_next_iterations_are_counted() {
        let set = LpnSet::B10;
        let trees = |used, wanted| Expansion::trees_for(set, used, wanted);
        assert_eq!(trees(0, set.usable()), set.usable());
        assert_eq!(trees(0, set.usable() + 1), set.usable() + 1 + set.reserve());
        assert_eq!(trees(set.usable(), 1), 1 + set.reserve());
        assert_eq!(trees(set.usable(), 0), 0);
        assert_eq!(
            trees(1, 2 * set.usable()),
            2 * (set.usable() + set.reserve())
        );
    }
}
