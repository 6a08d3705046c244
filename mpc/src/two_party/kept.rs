//! What a pair of parties keeps between sessions: base transfers, and keys of lattices.
//!
//! # Functionality
//! In its first session a pair makes base transfers, and each party sends a public key and packing
//! keys, 8.4 MB. A [`SetUp`] is one party's part of it. Where both parties still have theirs, the
//! next session sends neither again: they prove to each other that the base transfers belong
//! together ([`marill_ot::keep`]), and compare digests of the keys that each holds of the other. A
//! party without it, or with another one, gets everything anew.
//!
//! # Security
//! Nothing that a session masks with is kept. Its transfers come from a hash of the base transfers
//! with nonces of both parties, its masks and the randomness of its encryptions from the operating
//! system, so sessions that begin from the same restored backup share no choice bit and no mask. A
//! secret key decrypts what was ever encrypted under it: whoever reads a party's set-up and has
//! recorded a session reads that party's masks in it. A key serves one pair and one adapter; the
//! caller sees to it.

use marill_lattice::{Client, PackingKeys, ParameterSet, PublicKey, Server};
use marill_ot::{BaseId, BaseOts, OtError};
use marill_two_party::Party;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

/// Of all keys of lattices.
pub(super) const SET: ParameterSet = ParameterSet::N8192;

/// The fewest vectors of an input: what packing keys are made for.
pub(super) const LEAST_VECTORS: usize = 1;

/// Of a file's bytes.
const MAGIC: &[u8; 16] = b"marill set-up 1\n";
const SUM_BYTES: usize = 16;
pub(super) const DIGEST_BYTES: usize = 32;

/// Of a public key, or of packing keys; zeros stand for none.
pub(super) type Digest = [u8; DIGEST_BYTES];

pub(super) fn digest_of(message: &[u8]) -> Digest {
    match message {
        [] => [0; DIGEST_BYTES],
        message => Sha256::digest(message).into(),
    }
}

/// One party's part of what a pair keeps. Never printed; secrets are erased when dropped.
pub struct SetUp {
    pub(crate) base: BaseOts,
    /// None before the pair first needed lattices.
    pub(crate) keys: Option<KeptKeys>,
}

/// Keys of lattices.
#[derive(Clone)]
pub(crate) struct KeptKeys {
    /// This party's secret key.
    pub own: Zeroizing<Vec<u8>>,
    /// What the peer has of it: the public key, and the packing keys.
    pub given: [Digest; 2],
    /// What this party has of the peer's, as it was sent: nothing where it was not.
    pub held: [Vec<u8>; 2],
}

impl KeptKeys {
    /// Bytes of the peer's public key, and of its packing keys.
    const HELD: [fn() -> usize; 2] = [
        || PublicKey::bytes(SET),
        || PackingKeys::bytes(SET, LEAST_VECTORS),
    ];

    fn from_parts(own: &[u8], given: [Digest; 2], held: [&[u8]; 2]) -> Result<Self, &'static str> {
        // All that is believed later is read once now.
        Client::from_bytes(SET, own).map_err(|_| "there is no secret key in them")?;
        if !held[0].is_empty() {
            Server::new(SET, held[0]).map_err(|_| "the peer's public key is none")?;
        }
        if !held[1].is_empty() {
            PackingKeys::from_bytes(SET, LEAST_VECTORS, held[1])
                .map_err(|_| "the peer's packing keys are none")?;
        }
        Ok(Self {
            own: Zeroizing::new(own.to_vec()),
            given,
            held: held.map(<[u8]>::to_vec),
        })
    }
}

/// Takes a part of known length from the front.
fn take<'b>(rest: &mut &'b [u8], length: usize) -> Result<&'b [u8], &'static str> {
    let (part, tail) = rest.split_at_checked(length).ok_or("they are cut")?;
    *rest = tail;
    Ok(part)
}

fn take_length(rest: &mut &[u8]) -> Result<usize, &'static str> {
    let length = take(rest, 4)?.try_into().expect("four bytes");
    Ok(u32::from_le_bytes(length) as usize)
}

fn checksum(body: &[u8]) -> [u8; SUM_BYTES] {
    let digest = Sha256::new_with_prefix(b"marill checksum of a set-up")
        .chain_update(body)
        .finalize();
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}

impl SetUp {
    /// Which pair's: public, and the same for both parties.
    #[must_use]
    pub fn name(&self) -> BaseId {
        self.base.name()
    }

    #[must_use]
    pub fn party(&self) -> Party {
        self.base.party()
    }

    /// What to keep, where only its owner can read it.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let base = self.base.to_bytes();
        let none = KeptKeys {
            own: Zeroizing::default(),
            given: [[0; DIGEST_BYTES]; 2],
            held: [Vec::new(), Vec::new()],
        };
        let keys = self.keys.as_ref().unwrap_or(&none);
        let parts = [&base[..], &keys.own, &keys.held[0], &keys.held[1]];
        let length = parts.iter().map(|part| part.len()).sum::<usize>() + 128;
        let mut bytes = Zeroizing::new(Vec::with_capacity(length));
        bytes.extend(MAGIC);
        bytes.extend(keys.given.as_flattened());
        for part in parts {
            bytes.extend((part.len() as u32).to_le_bytes());
            bytes.extend(part);
        }
        let sum = checksum(&bytes);
        bytes.extend(sum);
        bytes
    }

    /// What each party does not send in a session that begins with one whose keys are all there.
    #[must_use]
    pub fn saved_bytes() -> usize {
        BaseOts::SENT_BYTES + KeptKeys::HELD.iter().map(|bytes| bytes()).sum::<usize>()
    }

    /// The most that [`Self::to_bytes`] gives.
    #[must_use]
    pub fn most_bytes() -> usize {
        KeptKeys::HELD.iter().map(|bytes| bytes()).sum::<usize>() + (1 << 14)
    }

    /// Reads what [`Self::to_bytes`] gave.
    ///
    /// # Errors
    /// [`OtError::Saved`] for anything else, with the reason.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OtError> {
        Self::read(bytes).map_err(OtError::Saved)
    }

    fn read(bytes: &[u8]) -> Result<Self, &'static str> {
        let (body, sum) = bytes
            .split_last_chunk::<SUM_BYTES>()
            .ok_or("they are cut")?;
        if !body.starts_with(MAGIC) {
            return Err("they are of another version");
        }
        if checksum(body) != *sum {
            return Err("they are damaged");
        }
        let mut rest = &body[MAGIC.len()..];
        let mut digest = || -> Result<Digest, &'static str> {
            Ok(take(&mut rest, DIGEST_BYTES)?.try_into().expect("32 bytes"))
        };
        let given = [digest()?, digest()?];
        let mut part = || {
            let length = take_length(&mut rest)?;
            take(&mut rest, length)
        };
        let [base, own, public, packing] = [part()?, part()?, part()?, part()?];
        if !rest.is_empty() {
            return Err("there is more behind them");
        }
        let base = BaseOts::from_bytes(base).map_err(|_| "the base transfers are none")?;
        let keys = match own {
            [] => None,
            own => Some(KeptKeys::from_parts(own, given, [public, packing])?),
        };
        Ok(Self { base, keys })
    }
}

/// What this session began with and keeps, where both parties keep.
pub(super) struct Keeping {
    /// Until it is taken.
    base: Option<BaseOts>,
    is_new: bool,
    /// As they were kept, until a step needs them.
    pub keys: Option<KeptKeys>,
}

impl Keeping {
    pub(super) fn new(base: BaseOts, is_new: bool, keys: Option<KeptKeys>) -> Self {
        Self {
            base: Some(base),
            is_new,
            keys: keys.filter(|_| !is_new),
        }
    }

    /// What is to be kept now, with keys that were `changed` if they were: once, and nothing where
    /// all of it was kept before.
    pub(super) fn take(&mut self, used: Option<(KeptKeys, bool)>) -> Option<SetUp> {
        let base = self.base.take()?;
        let (keys, changed) = match used {
            Some((keys, changed)) => (Some(keys), changed),
            None => (self.keys.take(), false),
        };
        (self.is_new || changed).then_some(SetUp { base, keys })
    }
}
