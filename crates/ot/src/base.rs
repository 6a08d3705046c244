//! Base transfers on Curve25519: 128 random one-of-two transfers in each direction.
//!
//! # Functionality
//! For each direction the chooser gets 128 random bits and one key per bit, the sender both keys of
//! each. The bits that a party chose are its `Δ` when it sends in extensions.
//!
//! # Construction
//! Chou and Orlandi, "The simplest protocol for oblivious transfer" (LATINCRYPT '15), on the prime
//! order group ristretto255. The sender publishes `A = a·G`; for bit `c` the chooser publishes
//! `B = b·G + c·A` and keeps `H(b·A)`; the sender's keys are `H(a·B)` and `H(a·B - a·A)`. `H` is
//! SHA-256 over direction, number, `A`, `B` and the point. Two rounds, 4,128 bytes per party.
//!
//! # Security
//! Semi-honest under computational Diffie-Hellman with a random oracle: `B` is uniform whatever the
//! bit, and the other key is the hash of a point that the chooser cannot compute. The choice
//! selects points in constant time. Keys persist; a session uses hashes of them with both parties'
//! nonces only, so what is made in one session says nothing about another's, even where one
//! party's state came back from a backup.

use curve25519_dalek::{
    RistrettoPoint, Scalar, constants::RISTRETTO_BASEPOINT_TABLE, ristretto::CompressedRistretto,
    traits::Identity,
};
use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::{
    error::OtError,
    link::{Link, Party},
};

/// Base transfers per direction: the bits of `Δ`.
pub const BASE: usize = 128;

const STEP: &str = "base transfers";
const POINT_BYTES: usize = 32;
/// Of the hash that gives keys.
const KEYS: &[u8; 16] = b"marill base OT 1";
/// Of what is kept.
const MAGIC: &[u8; 16] = b"marill base OT 2";
pub(crate) const ID_BYTES: usize = 16;
const PROOF_BYTES: usize = 32;
const SUM_BYTES: usize = 16;

/// A key of a base transfer.
pub(crate) type Key = [u8; 16];

/// One party's base transfers in both directions. Never printed, erased when dropped.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct BaseOts {
    #[zeroize(skip)]
    party: Party,
    id: [u8; ID_BYTES],
    /// What this party sent: both keys of each.
    pub(crate) sent: Vec<[Key; 2]>,
    /// What it chose: bit `i` of `delta`, and the key of that bit.
    pub(crate) delta: u128,
    pub(crate) chosen: Vec<Key>,
    /// Known to both parties and nobody else: shows that a peer has the other half of these.
    proof: [u8; PROOF_BYTES],
}

/// Which base transfers: public, the same for both parties, another one for every pair of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BaseId(pub [u8; ID_BYTES]);

impl std::fmt::Display for BaseId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for BaseOts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BaseOts({:?})", self.party)
    }
}

fn scalar(prg: &mut Prg) -> Zeroizing<Scalar> {
    let words = Zeroizing::new(prg.words(8));
    let bytes: &[u8; 64] = bytemuck::cast_slice(&words)
        .try_into()
        .expect("eight words");
    Zeroizing::new(Scalar::from_bytes_mod_order_wide(bytes))
}

fn point(bytes: &[u8]) -> Result<RistrettoPoint, OtError> {
    let malformed = |reason| OtError::Malformed { step: STEP, reason };
    let compressed =
        CompressedRistretto::from_slice(bytes).map_err(|_| malformed("a point has 32 bytes"))?;
    let point = compressed
        .decompress()
        .ok_or_else(|| malformed("no point of the group"))?;
    if point == RistrettoPoint::identity() {
        return Err(malformed("the neutral element"));
    }
    Ok(point)
}

/// What tells one pair of parties' base transfers from another's: a digest of all that was sent.
fn id_of(published: &[Vec<u8>; 2]) -> [u8; ID_BYTES] {
    let digest = Sha256::new()
        .chain_update(b"marill id of base OTs")
        .chain_update(&published[0])
        .chain_update(&published[1])
        .finalize();
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}

/// Finds a damaged file; keeps nobody out.
fn checksum(body: &[u8]) -> [u8; SUM_BYTES] {
    let digest = Sha256::new()
        .chain_update(b"marill checksum of base OTs")
        .chain_update(body)
        .finalize();
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}

/// The key of transfer `number` of `sender`'s.
fn key(sender: Party, number: usize, published: [&[u8]; 2], shared: &RistrettoPoint) -> Key {
    let shared = Zeroizing::new(shared.compress().to_bytes());
    let mut digest: [u8; 32] = Sha256::new()
        .chain_update(KEYS)
        .chain_update([sender as u8, number as u8])
        .chain_update(published[0])
        .chain_update(published[1])
        .chain_update(shared.as_slice())
        .finalize()
        .into();
    let key = *digest.first_chunk().expect("SHA-256 has 32 bytes");
    digest.zeroize();
    key
}

impl BaseOts {
    /// What each party sends to make them.
    pub const SENT_BYTES: usize = (1 + BASE) * POINT_BYTES;

    /// Makes base transfers in both directions: two rounds.
    ///
    /// # Errors
    /// [`OtError::Malformed`] for what is no point of the group; as [`Link::exchange`].
    pub fn establish<C: Channel>(link: &mut Link<C>) -> Result<Self, OtError> {
        let party = link.party();
        let mut prg = Prg::new(&Seed::random(), "base transfers");
        // Both publish A.
        let secret = scalar(&mut prg);
        let own = &*secret * RISTRETTO_BASEPOINT_TABLE;
        let own_bytes = own.compress().to_bytes();
        let peer_bytes = link.exchange(STEP, &own_bytes, POINT_BYTES)?;
        let peer = point(&peer_bytes)?;
        // Both choose among the peer's: B = b·G + c·A.
        let choices = Zeroizing::new(prg.words(2));
        let delta = u128::from(choices[1]) << 64 | u128::from(choices[0]);
        let mut answers = Vec::with_capacity(BASE * POINT_BYTES);
        let mut chosen = Vec::with_capacity(BASE);
        for i in 0..BASE {
            let blind = scalar(&mut prg);
            let choice = Choice::from((delta >> i) as u8 & 1);
            let mut offset = RistrettoPoint::identity();
            offset.conditional_assign(&peer, choice);
            let answer = (&*blind * RISTRETTO_BASEPOINT_TABLE + offset).compress();
            let shared = *blind * peer;
            let published: [&[u8]; 2] = [&peer_bytes, answer.as_bytes()];
            chosen.push(key(party.other(), i, published, &shared));
            answers.extend(answer.as_bytes());
        }
        let peer_answers = link.exchange(STEP, &answers, BASE * POINT_BYTES)?;
        // Both keys of each of the peer's choices.
        let unselected = *secret * own;
        let mut sent = Vec::with_capacity(BASE);
        for (i, answer) in peer_answers.chunks_exact(POINT_BYTES).enumerate() {
            let shared = *secret * point(answer)?;
            let published: [&[u8]; 2] = [&own_bytes, answer];
            let zero = key(party, i, published, &shared);
            let one = key(party, i, published, &(shared - unselected));
            sent.push([zero, one]);
        }
        // Public, and the same for both parties: which ones these are.
        let mut published = [
            [&own_bytes[..], &answers].concat(),
            [&peer_bytes[..], &peer_answers].concat(),
        ];
        if party == Party::E1 {
            published.swap(0, 1);
        }
        let id = id_of(&published);
        let shared = Zeroizing::new((*secret * peer).compress().to_bytes());
        let proof = Sha256::new()
            .chain_update(b"marill proof of base OTs")
            .chain_update(id)
            .chain_update(shared.as_slice());
        Ok(Self {
            party,
            id,
            sent,
            delta,
            chosen,
            proof: proof.finalize().into(),
        })
    }

    /// Which ones these are: a name to keep them under.
    #[must_use]
    pub fn name(&self) -> BaseId {
        BaseId(self.id)
    }

    /// What only the two parties that made these can say about `challenge`.
    pub(crate) fn proves(&self, who: Party, challenge: &[u8]) -> [u8; 16] {
        let digest = Sha256::new()
            .chain_update(b"marill proof of a party")
            .chain_update([who as u8])
            .chain_update(self.proof)
            .chain_update(challenge)
            .finalize();
        *digest.first_chunk().expect("SHA-256 has 32 bytes")
    }

    /// Public and the same for both parties; another one for every pair of them.
    pub(crate) fn id(&self) -> &[u8; ID_BYTES] {
        &self.id
    }

    #[must_use]
    pub fn party(&self) -> Party {
        self.party
    }

    /// The key of this session for each: `H(base key, both nonces)`.
    pub(crate) fn for_session(&self, nonces: &[u8]) -> Self {
        let derive = |sender: Party, number: usize, key: &Key| -> Key {
            let mut digest: [u8; 32] = Sha256::new()
                .chain_update(b"marill session of base OTs")
                .chain_update([sender as u8, number as u8])
                .chain_update(nonces)
                .chain_update(key)
                .finalize()
                .into();
            let derived = *digest.first_chunk().expect("SHA-256 has 32 bytes");
            digest.zeroize();
            derived
        };
        let sent = self.sent.iter().enumerate();
        let chosen = self.chosen.iter().enumerate();
        Self {
            party: self.party,
            id: self.id,
            sent: sent
                .map(|(i, keys)| [0, 1].map(|bit| derive(self.party, i, &keys[bit])))
                .collect(),
            delta: self.delta,
            chosen: chosen
                .map(|(i, key)| derive(self.party.other(), i, key))
                .collect(),
            proof: self.proof,
        }
    }

    /// What to keep between sessions: nothing else of one may be kept. Whoever reads these bytes
    /// reads past and future sessions: keep them where only their owner can read
    /// ([`crate::keep`]).
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(Self::BYTES));
        bytes.extend(MAGIC);
        bytes.push(self.party as u8);
        bytes.extend(self.id);
        bytes.extend(self.proof);
        bytes.extend(self.delta.to_le_bytes());
        bytes.extend(self.sent.as_flattened().as_flattened());
        bytes.extend(self.chosen.as_flattened());
        let sum = checksum(&bytes);
        bytes.extend(sum);
        bytes
    }

    const BYTES: usize = MAGIC.len() + 1 + ID_BYTES + PROOF_BYTES + 16 + BASE * 3 * 16 + SUM_BYTES;

    /// Reads what [`Self::to_bytes`] wrote.
    ///
    /// # Errors
    /// [`OtError::Saved`] for anything else.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, OtError> {
        if bytes.len() != Self::BYTES {
            return Err(OtError::Saved("they have another length"));
        }
        let (magic, rest) = bytes.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err(OtError::Saved("they are of another version"));
        }
        let (body, sum) = bytes.split_at(bytes.len() - SUM_BYTES);
        if checksum(body) != sum {
            return Err(OtError::Saved("they are damaged"));
        }
        let party = match rest[0] {
            0 => Party::E0,
            1 => Party::E1,
            _ => return Err(OtError::Saved("they are of neither party")),
        };
        let (id, rest) = rest[1..].split_at(ID_BYTES);
        let (proof, rest) = rest.split_at(PROOF_BYTES);
        let (blocks, _) = rest[..rest.len() - SUM_BYTES].as_chunks::<16>();
        let (sent, chosen) = blocks[1..].split_at(2 * BASE);
        Ok(Self {
            party,
            id: *id.first_chunk().expect("an id is there"),
            delta: u128::from_le_bytes(blocks[0]),
            sent: sent.as_chunks().0.to_vec(),
            chosen: chosen.to_vec(),
            proof: *proof.first_chunk().expect("a proof is there"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::run;

    #[test]
    fn session_keys_agree_and_change_with_each_nonce() {
        let party = |mut link| BaseOts::establish(&mut link).unwrap();
        let (first, second) = run(party, party);
        let nonces = [[1; 64], [2; 64]];
        let [a, b] = nonces.map(|nonces| first.for_session(&nonces));
        let other = second.for_session(&nonces[0]);
        for i in 0..BASE {
            let bit = (other.delta >> i & 1) as usize;
            assert_eq!(other.chosen[i], a.sent[i][bit]);
            assert_ne!(other.chosen[i], a.sent[i][1 - bit]);
            assert_ne!(a.sent[i], b.sent[i]);
            assert_ne!(a.sent[i], first.sent[i]);
        }
        assert_eq!(a.delta, first.delta);
    }
}
