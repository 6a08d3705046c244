//! Products by lattices: one party encrypts its share, the other multiplies by its own.
//!
//! A list of products, in either direction, takes two rounds: all requests, then all responses.
//! Each party is the client of some and the server of others, with keys of its own, which are
//! exchanged when a session first needs them. What is multiplied by is either E1's private factors,
//! of a width that both know, or a party's share of a value. Shares are uniform and independent of
//! the peer's share of another value, since every protocol gives fresh ones, as
//! [`Factors::Masks`] asks. See [`marill_lattice`] for the construction and its security.

use marill_lattice::{
    Batch, Client, Factors, Matrix, PackingKeys, Product, PublicKey, Received, Server,
};
use marill_net::Channel;
use marill_ot::{Link, Source};
use marill_two_party::{Cost, Party, Session};
use zeroize::Zeroizing;

use crate::{
    error::ProtocolResult,
    two_party::kept::{DIGEST_BYTES, Keeping, KeptKeys, SET, digest_of},
};

/// Widest ring in which a share can be multiplied by a share.
pub(super) const MOST_SHARED_BITS: u32 = 48;

/// A matrix of one party times vectors of the other.
#[derive(Clone)]
pub(super) struct Shape {
    /// Who has the vectors, and encrypts them.
    client: Party,
    product: Product,
    results: usize,
}

/// A party's part of a product: vectors at the client, factors at the server.
pub(super) struct Term {
    pub shape: Shape,
    pub own: Zeroizing<Vec<u64>>,
}

impl Shape {
    /// `[rows, columns, vectors]` of shares; none where no parameters hold its noise.
    pub(super) fn of_shares(client: Party, bits: u32, sizes: [usize; 3]) -> Option<Self> {
        let fits = bits <= MOST_SHARED_BITS;
        let product = fits.then(|| Product::new(SET, bits, Factors::Masks, sizes))?;
        let product = product.ok()?;
        let results = sizes[0] * sizes[2];
        Some(Self {
            client,
            product,
            results,
        })
    }

    /// The same of factors of E1's of so many bits, with E0's share.
    pub(super) fn of_factors(width: u32, bits: u32, sizes: [usize; 3]) -> Option<Self> {
        let product = Product::new(SET, bits, Factors::Signed(width), sizes).ok()?;
        let client = Party::E0;
        let results = sizes[0] * sizes[2];
        Some(Self {
            client,
            product,
            results,
        })
    }

    pub(super) fn client(&self) -> Party {
        self.client
    }

    /// Shares that it gives.
    pub(super) fn results(&self) -> usize {
        self.results
    }

    /// Bytes in both directions.
    pub(super) fn bytes(&self) -> usize {
        self.product.request_bytes() + self.product.response_bytes()
    }
}

/// What a list of products sends.
pub(super) fn cost(shapes: &[Shape]) -> Cost {
    let mut requests = [0; 2];
    let mut responses = [0; 2];
    for shape in shapes {
        requests[shape.client as usize] += 8 * shape.product.request_bytes();
        responses[shape.client.other() as usize] += 8 * shape.product.response_bytes();
    }
    let mut cost = Cost::none();
    cost.exchange(requests);
    cost.exchange(responses);
    cost
}

/// This party's key, and the peer's.
pub(super) struct Keys {
    own: Client,
    peer: Server,
    /// The peer's, once something was packed.
    packing: Option<PackingKeys>,
    /// Where both parties keep them.
    reuse: Option<Reuse>,
}

/// Keys that outlive the session.
struct Reuse {
    /// Until they are taken.
    keys: Option<KeptKeys>,
    /// Whether the peer has this party's packing keys, and this party the peer's.
    packing: [bool; 2],
    changed: bool,
}

const PUBLIC: usize = 0;
const PACKING: usize = 1;

impl Keys {
    /// Both send their public keys. One round.
    pub(super) fn exchange<C: Channel, S: Source>(
        session: &mut Session<C, S>,
        keeping: Option<&mut Keeping>,
    ) -> ProtocolResult<Self> {
        // Set-up, whatever is counted now.
        let phase = session.link().enter(marill_ot::Phase::Setup);
        let made = match keeping {
            None => Self::new_ones(session.link()),
            Some(keeping) => Self::kept_ones(session.link(), keeping.keys.take()),
        };
        session.link().enter(phase);
        made
    }

    fn new_ones<C: Channel>(link: &mut Link<C>) -> ProtocolResult<Self> {
        let own = Client::new(SET);
        let public = own.public_key();
        let received = link.exchange("lattice keys", &public, public.len())?;
        Ok(Self {
            own,
            peer: Server::new(SET, &received)?,
            packing: None,
            reuse: None,
        })
    }

    /// The same, but for keys that both still have: both say first which ones those are, 128 bytes
    /// each, in a round of its own.
    fn kept_ones<C: Channel>(link: &mut Link<C>, saved: Option<KeptKeys>) -> ProtocolResult<Self> {
        let mut keys = saved.unwrap_or_else(|| KeptKeys {
            own: Client::new(SET).to_bytes(),
            given: [[0; DIGEST_BYTES]; 2],
            held: [Vec::new(), Vec::new()],
        });
        let own = Client::from_bytes(SET, &keys.own)?;
        let held = [&keys.held[PUBLIC], &keys.held[PACKING]].map(|held| digest_of(held));
        let said = [keys.given, held].concat();
        let answer = link.exchange("kept lattice keys", said.as_flattened(), 4 * DIGEST_BYTES)?;
        let (answer, _) = answer.as_chunks::<DIGEST_BYTES>();
        let none = [0; DIGEST_BYTES];
        // The peer's part of each, and this party's.
        let same = |which: usize| {
            [
                answer[2 + which] == keys.given[which] && keys.given[which] != none,
                answer[which] == held[which] && held[which] != none,
            ]
        };
        let [peer_has, has] = same(PUBLIC);
        let packing = same(PACKING);
        let public = if peer_has {
            Vec::new()
        } else {
            own.public_key()
        };
        let expected = if has { 0 } else { PublicKey::bytes(SET) };
        let received = link.exchange("lattice keys", &public, expected)?;
        if !peer_has {
            keys.given[PUBLIC] = digest_of(&public);
        }
        if !has {
            keys.held[PUBLIC] = received;
        }
        Ok(Self {
            own,
            peer: Server::new(SET, &keys.held[PUBLIC])?,
            packing: None,
            reuse: Some(Reuse {
                keys: Some(keys),
                packing,
                changed: !(peer_has && has),
            }),
        })
    }

    /// Both send what the other packs with, for inputs of so many vectors and more, if they have
    /// not.
    pub(super) fn exchange_packing<C: Channel, S: Source>(
        &mut self,
        session: &mut Session<C, S>,
        vectors: usize,
    ) -> ProtocolResult<()> {
        if self.packing.is_some() {
            return Ok(());
        }
        let reuse = self.reuse.as_mut();
        let [peer_has, has] = reuse.as_ref().map_or([false; 2], |reuse| reuse.packing);
        // As with public keys, by what both said then.
        let own = match peer_has {
            true => Vec::new(),
            false => self.own.packing_keys(vectors)?,
        };
        let expected = match has {
            true => 0,
            false => PackingKeys::bytes(SET, vectors),
        };
        let link = session.link();
        let phase = link.enter(marill_ot::Phase::Setup);
        let received = link.exchange("packing keys", &own, expected);
        link.enter(phase);
        let received = received?;
        let kept = reuse.and_then(|reuse| {
            reuse.changed |= !(peer_has && has);
            reuse.keys.as_mut()
        });
        let packing = match (&kept, has) {
            (Some(kept), true) => PackingKeys::from_bytes(SET, vectors, &kept.held[PACKING]),
            _ => PackingKeys::from_bytes(SET, vectors, &received),
        };
        self.packing = Some(packing?);
        if let Some(kept) = kept {
            if !peer_has {
                kept.given[PACKING] = digest_of(&own);
            }
            if !has {
                kept.held[PACKING] = received;
            }
        }
        Ok(())
    }

    /// What is kept of them, once, and whether something was sent.
    pub(super) fn take_kept(&mut self) -> Option<(KeptKeys, bool)> {
        let reuse = self.reuse.as_mut()?;
        let keys = match self.packing {
            Some(_) => reuse.keys.take(),
            // A later step may need what is kept.
            None => reuse.keys.clone(),
        };
        Some((keys?, reuse.changed))
    }

    pub(super) fn client(&self) -> &Client {
        &self.own
    }

    pub(super) fn server(&self) -> &Server {
        &self.peer
    }

    /// The response to the peer's batch, and this party's shares.
    pub(super) fn respond(
        &self,
        batch: &Batch,
        uploads: &[&Received],
        factors: &[&[i64]],
    ) -> ProtocolResult<(Vec<u8>, Vec<Zeroizing<Vec<u64>>>)> {
        let packing = self.packing.as_ref().expect("sent before the first batch");
        Ok(self.peer.respond_batch(batch, packing, uploads, factors)?)
    }

    /// Shares of each product, vector by vector.
    pub(super) fn products<C: Channel, S: Source>(
        &self,
        session: &mut Session<C, S>,
        label: &'static str,
        terms: &[Term],
    ) -> ProtocolResult<Vec<Vec<u64>>> {
        let party = session.party();
        let ours = |term: &&Term| term.shape.client == party;
        let theirs = |term: &&Term| term.shape.client != party;
        let mut requests = Vec::new();
        for term in terms.iter().filter(ours) {
            requests.extend(self.own.request(&term.shape.product, &term.own));
        }
        let lengths = terms.iter().filter(theirs);
        let expected = lengths.map(|term| term.shape.product.request_bytes()).sum();
        let received = session.link().exchange(label, &requests, expected)?;
        // Responses to the peer, and this party's shares of what it asked.
        let mut rest = received.as_slice();
        let mut responses = Vec::new();
        let mut given = Vec::new();
        for term in terms.iter().filter(theirs) {
            let product = &term.shape.product;
            let (request, tail) = rest.split_at(product.request_bytes());
            rest = tail;
            let factors: Zeroizing<Vec<i64>> =
                Zeroizing::new(term.own.iter().map(|v| *v as i64).collect());
            let matrix = Matrix::new(self.peer.key(), product, &factors)?;
            let (response, shares) = self.peer.respond(&matrix, request)?;
            responses.extend(response);
            given.push(shares.to_vec());
        }
        let lengths = terms.iter().filter(ours);
        let expected = lengths
            .map(|term| term.shape.product.response_bytes())
            .sum();
        let received = session.link().exchange(label, &responses, expected)?;
        let mut rest = received.as_slice();
        let mut given = given.into_iter();
        let mut shares = Vec::with_capacity(terms.len());
        for term in terms {
            if term.shape.client != party {
                shares.push(given.next().expect("one per product of the peer's"));
                continue;
            }
            let product = &term.shape.product;
            let (response, tail) = rest.split_at(product.response_bytes());
            rest = tail;
            shares.push(self.own.finish(product, response)?.to_vec());
        }
        Ok(shares)
    }
}
