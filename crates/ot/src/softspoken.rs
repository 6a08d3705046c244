//! SoftSpoken: correlated transfers from base transfers, 128/k - 1 bits each.
//!
//! # Functionality
//! The chooser gets random bits `c_i` and blocks `t_i`; the sender, who holds `Δ` of 128 bits, gets
//! `q_i = t_i ⊕ c_i·Δ`.
//!
//! # Construction
//! Roy, "SoftSpokenOT" (CRYPTO '22), figures 6 and 7 with the repetition code, semi-honest. For
//! each group of `k` bits of `Δ` the chooser has a tree of `2^k` seeds of which the sender lacks
//! number `Δ_j` ([`crate::ggm`]). With `r_x` the streams of the leaves the chooser has
//! `u_j = ⊕ r_x` and `v_j = ⊕ x·r_x`, the sender `w_j = ⊕ (x ⊕ Δ_j)·r_x = v_j ⊕ Δ_j·u_j`, in which
//! the missing leaf has the factor zero. The chooser sends `u_j ⊕ u_0` for `j ≥ 1`, which brings
//! all groups to the choices `u_0`. Rows become blocks by a transposition.
//!
//! `k` trades bytes for AES: 63, 31 and 15 bits per transfer and 2, 4 and 32 blocks for `k` of 2, 4
//! and 8.
//!
//! # Security
//! The missing leaf's stream is pseudorandom to the sender, so `u_0` and each `u_j` are; what is
//! sent is uniform to it. The chooser receives nothing. A stream's position is used once.

use marill_crypto::{Prg, Seed, aes::Cipher};
use marill_net::Channel;
use zeroize::{Zeroize, Zeroizing};

use crate::{
    base::{BASE, BaseOts, Key},
    error::OtError,
    ggm::Expander,
    link::{Link, Party},
    source::{ChosenCots, PIECE, Segments, SemiHonest, SentCots, Sink, Source},
    transpose,
};

const STEP: &str = "extension";
const SETUP: &str = "seed trees";
/// Columns that a stream is made for at a time; a segment is rounded up to these.
const ROUND_UP: usize = 128;

/// Bits of `Δ` that share a tree of seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupBits {
    Two = 2,
    Four = 4,
    Eight = 8,
}

impl GroupBits {
    fn groups(self) -> usize {
        BASE / self as usize
    }
}

/// Streams of one direction and how far they were read.
struct Streams {
    /// `2^k` per group; at a sender the first of each group is a dummy.
    ciphers: Vec<Cipher>,
    /// Blocks of AES read of each stream.
    counter: u64,
    /// Number of the next transfer.
    next: u64,
}

/// Extends base transfers in both directions.
pub struct SoftSpoken {
    k: GroupBits,
    delta: u128,
    sends: Streams,
    chooses: Streams,
}

fn cipher(seed: u128) -> Cipher {
    Cipher::new(&seed.to_le_bytes())
}

fn block(key: &Key) -> u128 {
    u128::from_le_bytes(*key)
}

impl SoftSpoken {
    /// Makes the seed trees of a session, in one round. `base` is derived for this session, and
    /// `public` is its public key for hashing.
    pub(crate) fn expand<C: Channel>(
        link: &mut Link<C>,
        base: &BaseOts,
        k: GroupBits,
        public: &Cipher,
    ) -> Result<Self, OtError> {
        let party = link.party();
        let mut prg = Prg::new(&Seed::random(), "roots of seed trees");
        let mut message = Vec::with_capacity(BASE * 32);
        let mut chooses = Vec::new();
        let own = Expander {
            cipher: public,
            sender: party,
        };
        // As chooser of extended transfers this party knows all leaves.
        for tree in 0..k.groups() {
            let words = Zeroizing::new(prg.words(2));
            let root = u128::from(words[1]) << 64 | u128::from(words[0]);
            let (leaves, sums) = own.grow(root, tree, k as usize);
            for (level, sums) in sums.into_iter().enumerate() {
                let keys = &base.sent[base_index(k, tree, level)];
                // Who misses the right side is given the left.
                message.extend((sums[0] ^ block(&keys[1])).to_le_bytes());
                message.extend((sums[1] ^ block(&keys[0])).to_le_bytes());
            }
            chooses.extend(leaves.iter().map(|leaf| cipher(*leaf)));
        }
        let peer = link.exchange(SETUP, &message, message.len())?;
        let sends = punctured(&peer, base, k, public, party.other());
        let streams = |ciphers| Streams {
            ciphers,
            counter: 0,
            next: 0,
        };
        Ok(Self {
            k,
            delta: base.delta,
            sends: streams(sends),
            chooses: streams(chooses),
        })
    }

    pub(crate) fn delta(&self) -> u128 {
        self.delta
    }

    /// Words of a stream for `columns`, and messages of a chooser per column group.
    fn piece_bytes(&self, columns: usize) -> usize {
        (self.k.groups() - 1) * columns / 8
    }
}

/// The base transfer of a level: groups take bits of `Δ` from the lowest, levels from the highest
/// bit of a leaf's number.
fn base_index(k: GroupBits, tree: usize, level: usize) -> usize {
    tree * k as usize + (k as usize - 1 - level)
}

/// The streams that a sender of extended transfers knows.
fn punctured(
    message: &[u8],
    base: &BaseOts,
    k: GroupBits,
    public: &Cipher,
    peer: Party,
) -> Vec<Cipher> {
    let expander = Expander {
        cipher: public,
        sender: peer,
    };
    let (offers, _) = message.as_chunks::<16>();
    let mut ciphers = Vec::new();
    for tree in 0..k.groups() {
        let mut masks = Zeroizing::new(Vec::new());
        let mut sums = Zeroizing::new(Vec::new());
        for level in 0..k as usize {
            let index = base_index(k, tree, level);
            let mask = (base.delta >> index & 1).wrapping_neg();
            let at = 2 * (tree * k as usize + level);
            let left = u128::from_le_bytes(offers[at]);
            let right = u128::from_le_bytes(offers[at + 1]);
            // The left sum where the missing leaf is on the right.
            let offered = right ^ (mask & (left ^ right));
            masks.push(mask);
            sums.push(offered ^ block(&base.chosen[index]));
        }
        let leaves = expander.puncture(tree, &masks, &sums);
        ciphers.extend(leaves.iter().map(|leaf| cipher(*leaf)));
    }
    ciphers
}

/// Folds `2^k` streams of `words` words to `⊕ x_b·r_x` per bit `b`, into `rows`; the first stream
/// becomes the XOR of all.
#[inline(always)]
fn fold_body(streams: &mut [u64], words: usize, rows: &mut [u64]) {
    let mut left = streams.len() / words;
    for row in rows.chunks_exact_mut(words) {
        left /= 2;
        for i in 0..left {
            let (before, pair) = streams.split_at_mut(2 * i * words);
            let (even, odd) = pair[..2 * words].split_at_mut(words);
            for (sum, odd) in row.iter_mut().zip(&*odd) {
                *sum = if i == 0 { *odd } else { *sum ^ odd };
            }
            if i == 0 {
                even.iter_mut().zip(&*odd).for_each(|(e, o)| *e ^= o);
            } else {
                let next = &mut before[i * words..(i + 1) * words];
                for ((next, e), o) in next.iter_mut().zip(&*even).zip(&*odd) {
                    *next = e ^ o;
                }
            }
        }
    }
}

fn fold(streams: &mut [u64], words: usize, rows: &mut [u64]) {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f")]
        fn wide(streams: &mut [u64], words: usize, rows: &mut [u64]) {
            fold_body(streams, words, rows);
        }
        if std::is_x86_feature_detected!("avx512f") {
            // SAFETY: the feature was just detected.
            return unsafe { wide(streams, words, rows) };
        }
    }
    fold_body(streams, words, rows);
}

/// Room for one piece.
struct Scratch {
    streams: Vec<u64>,
    rows: Vec<u64>,
    blocks: Vec<u128>,
    first: Vec<u64>,
}

impl Scratch {
    /// For pieces of so many columns at most.
    fn new(k: GroupBits, columns: usize) -> Self {
        let words = columns / 64;
        Self {
            streams: vec![0; words << k as usize],
            rows: vec![0; BASE * words],
            blocks: vec![0; columns],
            first: vec![0; words],
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        self.streams.zeroize();
        self.rows.zeroize();
        self.blocks.zeroize();
        self.first.zeroize();
    }
}

impl SoftSpoken {
    /// Makes the chooser's rows of a piece and appends what the sender needs to the message.
    fn choose_piece(&mut self, columns: usize, scratch: &mut Scratch, message: &mut Vec<u8>) {
        let k = self.k as usize;
        let words = columns / 64;
        let streams = &mut scratch.streams[..words << k];
        for (j, ciphers) in self.chooses.ciphers.chunks_exact(1 << k).enumerate() {
            for (cipher, stream) in ciphers.iter().zip(streams.chunks_exact_mut(words)) {
                cipher.fill(self.chooses.counter, stream);
            }
            let rows = &mut scratch.rows[j * k * words..(j + 1) * k * words];
            fold(streams, words, rows);
            let all = &streams[..words];
            if j == 0 {
                scratch.first[..words].copy_from_slice(all);
            } else {
                let first = scratch.first.iter();
                message.extend(
                    all.iter()
                        .zip(first)
                        .flat_map(|(a, b)| (a ^ b).to_le_bytes()),
                );
            }
        }
        self.chooses.counter += columns as u64 / 128;
        transpose::to_blocks(
            &scratch.rows[..BASE * words],
            &mut scratch.blocks[..columns],
        );
    }

    /// Makes the sender's rows of a piece with what the chooser sent.
    fn send_piece(&mut self, columns: usize, scratch: &mut Scratch, message: &[u8]) {
        let k = self.k as usize;
        let words = columns / 64;
        let streams = &mut scratch.streams[..words << k];
        for (j, ciphers) in self.sends.ciphers.chunks_exact(1 << k).enumerate() {
            // The missing leaf, whose factor is zero.
            streams[..words].fill(0);
            let known = ciphers.iter().zip(streams.chunks_exact_mut(words)).skip(1);
            known.for_each(|(cipher, stream)| cipher.fill(self.sends.counter, stream));
            let rows = &mut scratch.rows[j * k * words..(j + 1) * k * words];
            fold(streams, words, rows);
            if j > 0 {
                let sent = &message[(j - 1) * 8 * words..j * 8 * words];
                let (sent, _) = sent.as_chunks::<8>();
                for (b, row) in rows.chunks_exact_mut(words).enumerate() {
                    let mask = ((self.delta >> (j * k + b)) as u64 & 1).wrapping_neg();
                    for (word, sent) in row.iter_mut().zip(sent) {
                        *word ^= mask & u64::from_le_bytes(*sent);
                    }
                }
            }
        }
        self.sends.counter += columns as u64 / 128;
        transpose::to_blocks(
            &scratch.rows[..BASE * words],
            &mut scratch.blocks[..columns],
        );
    }
}

/// Pieces of a segment of `n`: how many of its transfers are asked for, and columns that are made.
fn pieces(n: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..n).step_by(PIECE).map(move |start| {
        let wanted = (n - start).min(PIECE);
        (wanted, wanted.next_multiple_of(ROUND_UP))
    })
}

impl Source for SoftSpoken {
    type Security = SemiHonest;

    fn extend<C: Channel>(
        &mut self,
        link: &mut Link<C>,
        segments: &Segments,
        sink: &mut impl Sink,
    ) -> Result<(), OtError> {
        let length = |segments: &[usize]| segments.iter().map(|n| self.segment_bytes(*n)).sum();
        let expected: usize = length(&segments.send);
        let mut message = Vec::with_capacity(length(&segments.choose));
        // Most steps take few transfers: a whole piece's room would take longer to wipe than they
        // take to make.
        let all = segments.choose.iter().chain(&segments.send);
        let columns = all.flat_map(|n| pieces(*n)).map(|(_, columns)| columns);
        let mut scratch = Scratch::new(self.k, columns.max().unwrap_or(0));
        for (segment, n) in segments.choose.iter().enumerate() {
            for (wanted, columns) in pieces(*n) {
                self.choose_piece(columns, &mut scratch, &mut message);
                let cots = ChosenCots {
                    first: self.chooses.next,
                    choices: &scratch.first[..wanted.div_ceil(64)],
                    blocks: &scratch.blocks[..wanted],
                };
                sink.chosen(segment, cots);
                self.chooses.next += columns as u64;
            }
        }
        let received = link.exchange(STEP, &message, expected)?;
        let mut at = 0;
        for (segment, n) in segments.send.iter().enumerate() {
            for (wanted, columns) in pieces(*n) {
                let bytes = self.piece_bytes(columns);
                self.send_piece(columns, &mut scratch, &received[at..at + bytes]);
                at += bytes;
                let cots = SentCots {
                    first: self.sends.next,
                    delta: self.delta,
                    blocks: &scratch.blocks[..wanted],
                };
                sink.sent(segment, cots);
                self.sends.next += columns as u64;
            }
        }
        Ok(())
    }

    fn segment_bytes(&self, n: usize) -> usize {
        pieces(n)
            .map(|(_, columns)| self.piece_bytes(columns))
            .sum()
    }
}

impl Drop for SoftSpoken {
    fn drop(&mut self) {
        self.delta.zeroize();
    }
}
