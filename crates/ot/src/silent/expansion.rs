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
    use super::*;

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
