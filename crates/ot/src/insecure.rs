//! Ideal correlated transfers: both ends expand one seed that both know. **Insecure**, for tests
//! and measurements: no message is sent and nothing is hidden. Behind a cargo feature that no build
//! that ships enables.

use marill_crypto::{Prg, Seed};
use marill_net::Channel;

use crate::{
    error::OtError,
    link::{Link, Party},
    source::{ChosenCots, Insecure, PIECE, Segments, SentCots, Sink, Source},
};

/// Correlations of a dealer that tells everything to everyone.
pub struct InsecureIdeal {
    party: Party,
    /// By who sends: `Δ`, the stream, and the number of the next transfer.
    directions: [(u128, Prg, u64); 2],
}

fn block(prg: &mut Prg) -> u128 {
    let words = prg.words(2);
    u128::from(words[1]) << 64 | u128::from(words[0])
}

impl InsecureIdeal {
    #[must_use]
    pub fn new(party: Party, seed: &Seed) -> Self {
        let directions = ["sent by E0", "sent by E1"].map(|domain| {
            let mut prg = Prg::new(seed, domain);
            (block(&mut prg), prg, 0)
        });
        Self { party, directions }
    }

    /// Choices, `q` and `t = q ⊕ c·Δ` of up to a piece.
    fn piece(&mut self, sender: Party, n: usize) -> (u64, Vec<u64>, Vec<u128>, Vec<u128>) {
        let (delta, prg, next) = &mut self.directions[sender as usize];
        let choices = prg.words(n.div_ceil(64));
        let q: Vec<u128> = (0..n).map(|_| block(prg)).collect();
        let chosen = |i: usize| u128::from(choices[i / 64] >> (i % 64) & 1).wrapping_neg();
        let t = q.iter().enumerate().map(|(i, q)| q ^ (chosen(i) & *delta));
        let t = t.collect();
        let first = *next;
        *next += n as u64;
        (first, choices, q, t)
    }
}

impl Source for InsecureIdeal {
    type Security = Insecure;

    fn extend<C: Channel>(
        &mut self,
        _link: &mut Link<C>,
        segments: &Segments,
        sink: &mut impl Sink,
    ) -> Result<(), OtError> {
        let sizes = |n: usize| {
            (0..n)
                .step_by(PIECE)
                .map(move |start| (n - start).min(PIECE))
        };
        for (segment, n) in segments.choose.iter().enumerate() {
            for n in sizes(*n) {
                let (first, choices, _, blocks) = self.piece(self.party.other(), n);
                let cots = ChosenCots {
                    first,
                    choices: &choices,
                    blocks: &blocks,
                };
                sink.chosen(segment, cots);
            }
        }
        for (segment, n) in segments.send.iter().enumerate() {
            for n in sizes(*n) {
                let (first, _, blocks, _) = self.piece(self.party, n);
                let cots = SentCots {
                    first,
                    delta: self.directions[self.party as usize].0,
                    blocks: &blocks,
                };
                sink.sent(segment, cots);
            }
        }
        Ok(())
    }

    fn segment_bytes(&self, _n: usize) -> usize {
        0
    }
}
