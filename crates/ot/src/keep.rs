//! Base transfers that a pair of parties keeps between sessions.
//!
//! # Functionality
//! One party offers the ones that it kept ([`offer`]), the other looks for their other half
//! ([`answer`]). Where both have it they are used again; else both make new ones, and both know why
//! ([`Origin`]): a party without any, a backup that is older than the other's, a half of another
//! pair. Three messages of 116 bytes in all, instead of two rounds of 8,256.
//!
//! ```no_run
//! # use marill_net::Channel;
//! # use marill_ot::{BaseOts, Link, OtError, keep};
//! # fn begin<C: Channel>(link: &mut Link<C>, file: Option<Vec<u8>>) -> Result<(), OtError> {
//! let saved = file.map(|bytes| BaseOts::from_bytes(&bytes)).transpose()?;
//! let (base, origin) = keep::offer(link, saved)?;
//! if origin.is_new() {
//!     // Under `base.name()`, readable by its owner only.
//!     let bytes = base.to_bytes();
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Security
//! Both parties derived one key when they made the transfers, from `a·a'·G` of both published
//! points. Each proves that it has it by a hash with both parties' nonces, so a peer that names
//! another pair's transfers is refused instead of computing with what does not fit; a recorded
//! proof proves nothing later. The name is public, and links two sessions of one pair for whoever
//! reads the link. Pads and choices of two sessions differ whatever is restored from whatever
//! backup: a session's come from a hash of the kept keys with both new nonces
//! ([`crate::Session::begin`]). What is kept lets its reader decrypt recorded sessions.

use std::fmt;

use marill_crypto::Seed;
use marill_net::Channel;
use subtle::ConstantTimeEq;

use crate::{
    base::{BaseId, BaseOts, ID_BYTES},
    error::OtError,
    link::{Link, Party},
};

/// Version of these messages.
const VERSION: u8 = 1;

const STEP: &str = "kept base transfers";
const NONCE_BYTES: usize = 32;
const PROOF_BYTES: usize = 16;
const OFFER_BYTES: usize = 2 + ID_BYTES + NONCE_BYTES;
const ANSWER_BYTES: usize = 1 + NONCE_BYTES + PROOF_BYTES;
const CLOSE_BYTES: usize = 1 + PROOF_BYTES;

/// Why new base transfers were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// The party that offers had none.
    NothingOffered = 1,
    /// The party that answers has none of this name.
    Unknown = 2,
    /// One party's do not prove to be the other half of the other's.
    Unproven = 3,
}

impl Why {
    fn of_code(code: u8) -> Result<Self, OtError> {
        let all = [Self::NothingOffered, Self::Unknown, Self::Unproven];
        let why = all.into_iter().find(|why| *why as u8 == code);
        why.ok_or(OtError::Malformed {
            step: STEP,
            reason: "an answer that is not known here",
        })
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NothingOffered => "none were kept by the party that offers them",
            Self::Unknown => "the other party has none of this name, or a newer pair",
            Self::Unproven => "the two parties kept halves that do not belong together",
        })
    }
}

/// Where the base transfers of a session come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Kept,
    Made(Why),
}

impl Origin {
    /// Whether there are new ones to keep.
    #[must_use]
    pub fn is_new(self) -> bool {
        self != Self::Kept
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kept => f.write_str("base transfers of an earlier session"),
            Self::Made(why) => write!(f, "new base transfers: {why}"),
        }
    }
}

fn nonce() -> [u8; NONCE_BYTES] {
    Seed::random().to_bytes()
}

/// Whether a proof of `who` is right.
fn proven(base: &BaseOts, who: Party, challenge: &[u8], proof: &[u8]) -> bool {
    base.proves(who, challenge).ct_eq(proof).into()
}

/// Not of this party, so useless to it.
fn of_this_party(base: BaseOts, party: Party) -> Option<BaseOts> {
    (base.party() == party).then_some(base)
}

/// Offers what this party kept, and gives what both have now. Three rounds, and two more where
/// new ones are made.
///
/// # Errors
/// [`OtError::Parameters`] for another version, [`OtError::Malformed`] for an answer that is not
/// known; those of [`BaseOts::establish`].
pub fn offer<C: Channel>(
    link: &mut Link<C>,
    saved: Option<BaseOts>,
) -> Result<(BaseOts, Origin), OtError> {
    let party = link.party();
    let saved = saved.and_then(|base| of_this_party(base, party));
    let own = nonce();
    let name = saved.as_ref().map_or([0; ID_BYTES], |base| base.name().0);
    let mut message = vec![VERSION, u8::from(saved.is_some())];
    message.extend(name);
    message.extend(own);
    link.send(STEP, &message)?;
    let answer = link.receive(STEP, ANSWER_BYTES)?;
    let verdict = answer[0];
    let rest = &answer[1..];
    let (peer, proof) = rest.split_at(NONCE_BYTES);
    let challenge = [&own[..], peer].concat();
    let verdict = match (&saved, verdict) {
        (Some(base), 0) if proven(base, party.other(), &challenge, proof) => 0,
        (_, 0) => Why::Unproven as u8,
        (_, why) => why,
    };
    let kept = saved.filter(|_| verdict == 0);
    let mut close = vec![verdict];
    let none = [0; PROOF_BYTES];
    let proof = kept.as_ref().map_or(none, |b| b.proves(party, &challenge));
    close.extend(proof);
    link.send(STEP, &close)?;
    settle(link, kept, verdict)
}

/// Answers a peer's [`offer`]: `find` gives the half of this name, if this party kept one.
///
/// # Errors
/// As [`offer`].
pub fn answer<C: Channel>(
    link: &mut Link<C>,
    find: impl FnOnce(&BaseId) -> Option<BaseOts>,
) -> Result<(BaseOts, Origin), OtError> {
    let party = link.party();
    let offered = link.receive(STEP, OFFER_BYTES)?;
    if offered[0] != VERSION {
        return Err(OtError::Parameters {
            what: "the version of kept base transfers",
            own: VERSION.into(),
            peer: offered[0].into(),
        });
    }
    let (name, peer) = offered[2..].split_at(ID_BYTES);
    let name = BaseId(*name.first_chunk().expect("a name is there"));
    let found = (offered[1] == 1).then(|| find(&name)).flatten();
    let found = found.and_then(|base| of_this_party(base, party));
    let found = found.filter(|base| base.name() == name);
    let verdict = match (&found, offered[1]) {
        (Some(_), _) => 0,
        (None, 0) => Why::NothingOffered as u8,
        (None, _) => Why::Unknown as u8,
    };
    let own = nonce();
    let challenge = [peer, &own].concat();
    let none = [0; PROOF_BYTES];
    let proof = found.as_ref().map_or(none, |b| b.proves(party, &challenge));
    let mut message = vec![verdict];
    message.extend(own);
    message.extend(proof);
    link.send(STEP, &message)?;
    let close = link.receive(STEP, CLOSE_BYTES)?;
    let kept = found.filter(|_| close[0] == 0);
    match &kept {
        Some(base) if !proven(base, party.other(), &challenge, &close[1..]) => {
            Err(OtError::Malformed {
                step: STEP,
                reason: "a proof of kept base transfers that is wrong",
            })
        }
        None if close[0] == 0 => Err(OtError::Malformed {
            step: STEP,
            reason: "base transfers that were refused are used",
        }),
        _ => settle(link, kept, close[0]),
    }
}

fn settle<C: Channel>(
    link: &mut Link<C>,
    kept: Option<BaseOts>,
    verdict: u8,
) -> Result<(BaseOts, Origin), OtError> {
    if let Some(base) = kept {
        return Ok((base, Origin::Kept));
    }
    let why = Why::of_code(verdict)?;
    Ok((BaseOts::establish(link)?, Origin::Made(why)))
}
