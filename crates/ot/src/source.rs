//! Where correlated transfers come from, and what that withstands.

use marill_net::Channel;

use crate::{error::OtError, link::Link};

/// What a source of transfers withstands: a tag, so that the compiler compares.
pub trait Security {
    const NAME: &'static str;
}

/// One party that follows the protocol and is curious.
pub struct SemiHonest;

impl Security for SemiHonest {
    const NAME: &'static str = "semi-honest";
}

/// No one: both parties know everything.
#[cfg(feature = "insecure-ideal")]
pub struct Insecure;

#[cfg(feature = "insecure-ideal")]
impl Security for Insecure {
    const NAME: &'static str = "insecure";
}

/// A tag that withstands at least a curious party. What runs for users asks for this.
pub trait AtLeastSemiHonest: Security {}

impl AtLeastSemiHonest for SemiHonest {}

/// Correlated transfers in which this party sends: it knows `q` and `Δ`.
pub struct SentCots<'a> {
    /// The number of the first in its direction; the rest follow. No number is used twice.
    pub first: u64,
    pub delta: u128,
    pub blocks: &'a [u128],
}

/// Correlated transfers in which this party chose: it knows `t = q ⊕ c·Δ` and the bits `c`.
pub struct ChosenCots<'a> {
    pub first: u64,
    /// A bit per block, 64 to a word; what follows the last is not zero.
    pub choices: &'a [u64],
    pub blocks: &'a [u128],
}

/// Takes correlated transfers as they are made, a few thousand at a time, in order. Each piece
/// belongs to one segment of what was asked for and begins at a multiple of [`PIECE`].
pub trait Sink {
    fn sent(&mut self, segment: usize, cots: SentCots<'_>);
    fn chosen(&mut self, segment: usize, cots: ChosenCots<'_>);
}

/// Transfers made at once: the rows of 128 such columns fit a first-level cache, and groups of one
/// to four transfers fit whole.
pub const PIECE: usize = 6144;

/// Numbers of correlated transfers, by segment.
#[derive(Default, Clone)]
pub struct Segments {
    pub send: Vec<usize>,
    pub choose: Vec<usize>,
}

/// Makes random correlated transfers.
pub trait Source: Send {
    type Security: Security;

    /// Makes what a session needs once before transfers in the directions that are named, as
    /// (sends, chooses); nothing where it is there. [`Self::extend`] does it by itself.
    ///
    /// # Errors
    /// Those of [`Link`].
    fn set_up<C: Channel>(
        &mut self,
        _link: &mut Link<C>,
        _directions: [bool; 2],
    ) -> Result<(), OtError> {
        Ok(())
    }

    /// Makes as many as the segments say; the peer is asked for the same with the directions
    /// changed. Choices are random.
    ///
    /// # Errors
    /// Those of [`Link`].
    fn extend<C: Channel>(
        &mut self,
        link: &mut Link<C>,
        segments: &Segments,
        sink: &mut impl Sink,
    ) -> Result<(), OtError>;

    /// Bytes of messages that make a segment of `n`, where nothing is left of what was made before
    /// and the set-up is done.
    fn segment_bytes(&self, n: usize) -> usize;

    /// Bytes in both directions that the next [`Self::extend`] sends, set-up apart.
    fn bytes(&self, segments: &Segments) -> u64 {
        let all = segments.send.iter().chain(&segments.choose);
        all.map(|n| self.segment_bytes(*n) as u64).sum()
    }
}
