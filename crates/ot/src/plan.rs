//! Which source of transfers a session makes them by: a choice that both parties compare.

use std::fmt;

use marill_crypto::aes::Cipher;
use marill_net::Channel;

use crate::{
    base::BaseOts,
    error::OtError,
    hash::public_key,
    link::Link,
    silent::{LpnSet, Silent},
    softspoken::{GroupBits, SoftSpoken},
    source::{Segments, SemiHonest, Sink, Source},
};

/// Bits of a seed tree of the SoftSpoken transfers that silent ones begin with.
const BOOTSTRAP: GroupBits = GroupBits::Four;

/// How correlated transfers are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extension {
    /// `128/k - 1` bits a transfer, for fast links and few transfers.
    SoftSpoken(GroupBits),
    /// Less than a bit and a half, after a set-up of some 300 kB a direction.
    Silent(LpnSet),
}

impl Extension {
    /// What a handshake says.
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::SoftSpoken(k) => k as u8,
            Self::Silent(set) => set as u8,
        }
    }

    pub(crate) fn of_code(code: u8) -> Option<Self> {
        let groups = [GroupBits::Two, GroupBits::Four, GroupBits::Eight];
        let all = groups.map(Self::SoftSpoken).into_iter();
        let mut all = all.chain(LpnSet::ALL.map(Self::Silent));
        all.find(|extension| extension.code() == code)
    }
}

impl fmt::Display for Extension {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SoftSpoken(k) => write!(f, "SoftSpoken with k = {}", *k as u8),
            Self::Silent(set) => write!(f, "silent transfers of set {}", set.name()),
        }
    }
}

/// What [`crate::Session::begin`] takes: a source, or a choice among sources.
pub trait Plan: Copy {
    type Source: Source;

    /// What the peer must have too.
    fn extension(self) -> Extension;

    /// The source of a session. `base` is derived for it, of both parties' `nonces`.
    ///
    /// # Errors
    /// Those of [`Link`].
    fn expand<C: Channel>(
        self,
        link: &mut Link<C>,
        base: &BaseOts,
        nonces: &[u8],
    ) -> Result<Self::Source, OtError>;
}

impl Plan for GroupBits {
    type Source = SoftSpoken;

    fn extension(self) -> Extension {
        Extension::SoftSpoken(self)
    }

    fn expand<C: Channel>(
        self,
        link: &mut Link<C>,
        base: &BaseOts,
        nonces: &[u8],
    ) -> Result<SoftSpoken, OtError> {
        let public = Cipher::new(&public_key("seed trees", nonces));
        SoftSpoken::expand(link, base, self, &public)
    }
}

impl Plan for LpnSet {
    type Source = Silent;

    fn extension(self) -> Extension {
        Extension::Silent(self)
    }

    fn expand<C: Channel>(
        self,
        link: &mut Link<C>,
        base: &BaseOts,
        nonces: &[u8],
    ) -> Result<Silent, OtError> {
        let bootstrap = BOOTSTRAP.expand(link, base, nonces)?;
        Ok(Silent::new(link.party(), self, bootstrap, nonces))
    }
}

/// The source of an [`Extension`] that is known when the program runs.
pub enum AnySource {
    SoftSpoken(Box<SoftSpoken>),
    Silent(Box<Silent>),
}

impl Plan for Extension {
    type Source = AnySource;

    fn extension(self) -> Extension {
        self
    }

    fn expand<C: Channel>(
        self,
        link: &mut Link<C>,
        base: &BaseOts,
        nonces: &[u8],
    ) -> Result<AnySource, OtError> {
        Ok(match self {
            Self::SoftSpoken(k) => AnySource::SoftSpoken(Box::new(k.expand(link, base, nonces)?)),
            Self::Silent(set) => AnySource::Silent(Box::new(set.expand(link, base, nonces)?)),
        })
    }
}

impl Source for AnySource {
    type Security = SemiHonest;

    fn set_up<C: Channel>(
        &mut self,
        link: &mut Link<C>,
        directions: [bool; 2],
    ) -> Result<(), OtError> {
        match self {
            Self::SoftSpoken(source) => source.set_up(link, directions),
            Self::Silent(source) => source.set_up(link, directions),
        }
    }

    fn extend<C: Channel>(
        &mut self,
        link: &mut Link<C>,
        segments: &Segments,
        sink: &mut impl Sink,
    ) -> Result<(), OtError> {
        match self {
            Self::SoftSpoken(source) => source.extend(link, segments, sink),
            Self::Silent(source) => source.extend(link, segments, sink),
        }
    }

    fn segment_bytes(&self, n: usize) -> usize {
        match self {
            Self::SoftSpoken(source) => source.segment_bytes(n),
            Self::Silent(source) => source.segment_bytes(n),
        }
    }

    fn bytes(&self, segments: &Segments) -> u64 {
        match self {
            Self::SoftSpoken(source) => source.bytes(segments),
            Self::Silent(source) => source.bytes(segments),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_read_as_they_were_written() {
        let mut known = 0;
        for code in 0..=u8::MAX {
            if let Some(extension) = Extension::of_code(code) {
                assert_eq!(extension.code(), code);
                known += 1;
            }
        }
        assert_eq!(known, 7);
    }
}
