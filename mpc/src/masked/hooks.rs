//! Where masks come from, and who may watch: one object each, so that the code that is audited is
//! the code that is tested.
//!
//! A session draws from [`EvaluatorStreams`] and [`DealerStreams`] and is watched by nobody. The
//! tests of a party's view put in sources that solve for masks under which other inputs look the
//! same, and an observer that keeps what the twin is to be given.

use std::any::Any;

use marill_crypto::{Prg, Seed};

use crate::masked::share::{Share, Wire};

/// An evaluator's masks. What returns `None` leaves the value to the session's own streams.
pub(super) trait EvaluatorRandomness: Send {
    /// Fresh masks for shares of a width; `revealed_bits` is how many low bits the peer hears now,
    /// and whether of the MSB later.
    fn wire_masks(&mut self, share: &[u64], bits: u32, revealed_bits: (u32, bool)) -> Vec<u64>;

    /// Fresh masks for a plane of `n` bits.
    fn plane_masks(&mut self, plane: &[u64], n: usize) -> Vec<u64>;

    /// Masks of what E0 reveals to E1.
    fn reveal_masks(&mut self, _share: &[u64], _bits: u32) -> Option<Vec<u64>> {
        None
    }

    /// E0's half of `n` corrections.
    fn prg_share(&mut self, _n: usize) -> Option<Vec<u64>> {
        None
    }

    /// E0's shares of what DCF keys give at these inputs, `[column][input]`.
    fn dcf_outputs(&mut self, _inputs: &[u64]) -> Option<Vec<u64>> {
        None
    }

    /// The key of E1's noise for one token: of nobody's seed, so that whoever deals masks knows
    /// nothing of it.
    fn noise_key(&mut self) -> Seed {
        Seed::random()
    }

    /// Follows a partial opening whose MSBs E0 sends later.
    fn opened_in_part(&mut self, _wire: &mut Wire) {}

    /// Follows `n` MSBs that E0 sent.
    fn sent_msbs(&mut self, _n: usize) {}

    /// Follows a message of `bytes` bytes that no reply answers.
    fn sent_one_way(&mut self, _bytes: usize) {}
}

/// The masks of both evaluators, at the dealer.
pub(super) trait DealerRandomness: Send {
    /// E1's masks, whole words.
    fn server_masks(&mut self, n: usize) -> Vec<u64>;

    /// Whether E1's masks come from E1, which may wait for what the dealer has not sent yet.
    fn waits_for_server(&self) -> bool {
        false
    }

    /// E0's masks of a width.
    fn client_masks(&mut self, n: usize, bits: u32) -> Vec<u64>;

    /// E0's masks of what it reveals to E1.
    fn reveal_masks(&mut self) -> Option<Vec<u64>> {
        None
    }

    /// E0's half of `n` corrections that are sums; E1 is sent `bytes` of each.
    fn prg_share(&mut self, n: usize, bytes: usize, value: &dyn Fn(usize) -> u64) -> Vec<u64>;

    /// E0's half of corrections that are bit vectors: `plain` are the words to be shared, `bytes`
    /// of each sent and `total` of all.
    fn prg_share_bits(&mut self, plain: &[u64], bytes: usize, total: usize) -> Vec<u64>;

    /// DCF keys of so many bytes that were made before, and the inputs at which E0 asks them.
    fn dcf_keys(&mut self, _bytes: usize) -> Option<(Vec<u8>, Vec<u64>)> {
        None
    }

    /// Follows [`Self::dcf_keys`] with the values at the inputs and E1's shares of them.
    fn complete_dcf(&mut self, _values: &[u64], _shares: &[u64]) {}
}

/// A session's masks at an evaluator: one stream.
pub(super) struct EvaluatorStreams {
    masks: Prg,
}

impl EvaluatorStreams {
    pub(super) fn new(seed: &Seed) -> Self {
        Self {
            masks: Prg::new(seed, "wire masks"),
        }
    }
}

impl EvaluatorRandomness for EvaluatorStreams {
    fn wire_masks(&mut self, share: &[u64], bits: u32, _revealed_bits: (u32, bool)) -> Vec<u64> {
        self.masks.reduced(share.len(), bits)
    }

    fn plane_masks(&mut self, plane: &[u64], _n: usize) -> Vec<u64> {
        self.masks.words(plane.len())
    }
}

/// A session's masks at the dealer: a stream of each evaluator, and E0's half of corrections.
pub(super) struct DealerStreams {
    masks: [Prg; 2],
    corrections: Prg,
}

impl DealerStreams {
    pub(super) fn new(seed0: &Seed, seed1: &Seed) -> Self {
        Self {
            masks: [seed0, seed1].map(|seed| Prg::new(seed, "wire masks")),
            corrections: Prg::new(seed0, "corrections"),
        }
    }
}

impl DealerRandomness for DealerStreams {
    fn server_masks(&mut self, n: usize) -> Vec<u64> {
        self.masks[1].words(n)
    }

    fn client_masks(&mut self, n: usize, bits: u32) -> Vec<u64> {
        self.masks[0].reduced(n, bits)
    }

    fn prg_share(&mut self, n: usize, _bytes: usize, _value: &dyn Fn(usize) -> u64) -> Vec<u64> {
        self.corrections.words(n)
    }

    fn prg_share_bits(&mut self, plain: &[u64], _bytes: usize, _total: usize) -> Vec<u64> {
        self.corrections.words(plain.len())
    }
}

/// Sees what a party computes. No session has one.
pub(super) trait Observer: Any + Send {
    /// The own share of a labeled value.
    fn share(&mut self, label: &'static str, share: &Share);

    /// MSBs that E0 sends after a partial opening.
    fn msbs(&mut self, msbs: &[u64]);

    /// The server's noise.
    fn noise(&mut self, noise: &[u64]);

    /// This party's part of a value whose `dropped` low bits fall away before it is opened;
    /// `constant` makes up for them in the mean.
    fn dropped_bits(&mut self, raised: &Share, dropped: u32, constant: u64, is_first: bool);

    /// The opening by whose low `shift` bits a stochastic truncation rounds.
    fn rounding(&mut self, wire: &Wire, shift: u32, is_first: bool);
}
