//! Multiplications by ring: what E0 encrypts, what E1 multiplies it by, and the messages of both.

use std::{collections::BTreeMap, ops::Range};

use marill_lattice::{Batch, BatchProduct, Client, Input, LatticeError, Received, Term, Upload};
use marill_net::Channel;
use marill_ot::Source;
use marill_two_party::{Cost, Party};
use zeroize::Zeroizing;

use super::Kept;
use crate::{
    error::ProtocolResult,
    two_party::{
        Gates,
        gates::Packing,
        kept::{LEAST_VECTORS, SET},
        lattice::Keys,
    },
};

/// Whose numbers are encrypted, modulo what.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Side {
    /// Which party: 0 or 1.
    client: usize,
    pub bits: u32,
}

impl Side {
    pub(super) fn of(client: Party, bits: u32) -> Self {
        let client = client as usize;
        Self { client, bits }
    }
}

/// Shares of each product of each side.
pub(super) type Results = BTreeMap<Side, Vec<Zeroizing<Vec<u64>>>>;

/// Numbers of the client, sent together: vector by vector.
#[derive(Default)]
struct Sent {
    inputs: Vec<Input>,
    values: Vec<Zeroizing<Vec<u64>>>,
}

/// Multiplications modulo `2^bits`.
#[derive(Default)]
struct Ring {
    /// For this preparation alone.
    passing: Sent,
    /// Of keys and values.
    kept: Sent,
    products: Vec<BatchProduct>,
    /// The other party's, row by row.
    factors: Vec<Zeroizing<Vec<i64>>>,
}

/// What is sent and multiplied at once, at this party.
pub(super) struct Rings {
    party: Party,
    rings: BTreeMap<Side, Ring>,
    keeps: Option<Keeps>,
}

/// The ring of keys and values, how many positions they are, and where each layer's are.
pub(super) struct Keeps {
    pub bits: u32,
    pub positions: usize,
    pub layers: BTreeMap<usize, usize>,
}

/// Which of a ring's uploads: what passes, what is kept of it, what was kept before.
const PASSING: usize = 0;
const KEPT: usize = 1;
const BEFORE: usize = 2;

/// An input of this preparation.
#[derive(Clone, Copy)]
pub(super) struct Place {
    upload: usize,
    input: usize,
}

impl Place {
    /// An input of the `i`-th upload that was kept before.
    pub(super) fn before(i: usize, input: usize) -> Self {
        let upload = BEFORE + i;
        Self { upload, input }
    }

    /// An input of what is kept now.
    pub(super) fn kept(input: usize) -> Self {
        let upload = KEPT;
        Self { upload, input }
    }

    pub(super) fn input(self) -> usize {
        self.input
    }

    /// The input that is so many behind it.
    pub(super) fn behind(self, count: usize) -> Self {
        Self {
            input: self.input + count,
            ..self
        }
    }

    /// Columns of it that a product takes.
    pub(super) fn columns(self, columns: Range<usize>) -> Term {
        Term {
            upload: self.upload,
            input: self.input,
            columns,
        }
    }
}

impl Sent {
    fn push(&mut self, input: Input, values: Zeroizing<Vec<u64>>) -> usize {
        self.inputs.push(input);
        self.values.push(values);
        self.inputs.len() - 1
    }

    fn upload(&self, bits: u32) -> Result<Upload, LatticeError> {
        Upload::new(SET, bits, &self.inputs)
    }

    fn encrypted(&self, upload: &Upload, client: &Client) -> Vec<u8> {
        let values: Vec<&[u64]> = self.values.iter().map(|v| v.as_slice()).collect();
        client.upload(upload, &values)
    }
}

impl Rings {
    pub(super) fn new(party: Party) -> Self {
        Self {
            party,
            rings: BTreeMap::new(),
            keeps: None,
        }
    }

    fn ring(&mut self, side: Side) -> &mut Ring {
        self.rings.entry(side).or_default()
    }

    /// Whether this party encrypts.
    fn sends(&self, side: Side) -> bool {
        side.client == self.party as usize
    }

    /// The client's numbers for this preparation alone.
    pub(super) fn send(&mut self, side: Side, input: Input, values: Vec<u64>) -> Place {
        let values = Zeroizing::new(values);
        Place {
            upload: PASSING,
            input: self.ring(side).passing.push(input, values),
        }
    }

    /// The client's masks of keys or values.
    pub(super) fn keep(&mut self, side: Side, input: Input, values: Vec<u64>) -> Place {
        let values = Zeroizing::new(values);
        Place {
            upload: KEPT,
            input: self.ring(side).kept.push(input, values),
        }
    }

    /// Says what [`Rings::keep`] is keeping.
    pub(super) fn keeps(&mut self, keeps: Keeps) {
        self.keeps = Some(keeps);
    }

    /// Which of the side's products this one is; the client has no factors.
    pub(super) fn multiply(
        &mut self,
        side: Side,
        product: BatchProduct,
        factors: impl FnOnce() -> Vec<u64>,
    ) -> usize {
        let multiplies = !self.sends(side);
        let ring = self.ring(side);
        ring.products.push(product);
        if multiplies {
            let factors = factors().into_iter().map(|v| v as i64);
            ring.factors.push(Zeroizing::new(factors.collect()));
        }
        ring.products.len() - 1
    }

    /// The shapes of a side's messages: its uploads of this preparation, and its products.
    fn shapes(&self, side: Side, kept: &[Kept]) -> Result<Shapes, LatticeError> {
        let ring = &self.rings[&side];
        let bits = side.bits;
        let keeps = self.keeps.as_ref().is_some_and(|keeps| keeps.bits == bits);
        let mut uploads = vec![ring.passing.upload(bits)?];
        if keeps {
            uploads.push(ring.kept.upload(bits)?);
        }
        // Only the ring of keys and values meets what was kept.
        let before = keeps.then(|| kept.iter().map(|kept| &kept.upload));
        let all: Vec<&Upload> = uploads.iter().chain(before.into_iter().flatten()).collect();
        let batch = Batch::new(&all, &ring.products)?;
        Ok(Shapes { uploads, batch })
    }

    fn all_shapes(&self, kept: &[Kept]) -> Result<BTreeMap<Side, Shapes>, LatticeError> {
        let sides = self.rings.keys();
        sides
            .map(|side| Ok((*side, self.shapes(*side, kept)?)))
            .collect()
    }

    /// What their messages are, and what is kept of them.
    pub(super) fn cost(self, kept: &mut Vec<Kept>) -> ProtocolResult<Cost> {
        let shapes = self.all_shapes(kept)?;
        let mut cost = Cost::none();
        let both = [0, 1].map(|client| bytes(&shapes, client));
        cost.exchange(both.map(|[request, _]| 8 * request));
        cost.exchange([1, 0].map(|client| 8 * both[client][1]));
        self.keep_shapes(shapes, kept, None);
        Ok(cost)
    }

    /// Shares of all products: a message each way, and another.
    pub(super) fn run<C: Channel, S: Source>(
        mut self,
        gates: &mut Gates<C, S>,
        kept: &mut Vec<Kept>,
    ) -> ProtocolResult<Results> {
        let shapes = self.all_shapes(kept)?;
        let Packing { link, label, keys } = gates.packing(LEAST_VECTORS)?;
        let own = self.party as usize;
        let [requests, responses] = bytes(&shapes, own);
        let [asked, answers] = bytes(&shapes, 1 - own);
        let mut message = Vec::with_capacity(requests);
        for (side, shapes) in &shapes {
            let ring = &self.rings[side];
            let sent = [&ring.passing, &ring.kept];
            for (sent, upload) in sent
                .iter()
                .zip(&shapes.uploads)
                .filter(|_| self.sends(*side))
            {
                message.extend(sent.encrypted(upload, keys.client()));
            }
        }
        // All uploads, then all responses.
        let received = link.exchange(label, &message, asked)?;
        let mut results = Results::new();
        let answer = self.answer(&shapes, kept, keys, &received, &mut results)?;
        debug_assert_eq!(answer.message.len(), answers, "what shapes say");
        let received = link.exchange(label, &answer.message, responses)?;
        // This party's shares of what it asked.
        let mut rest = received.as_slice();
        for (side, shapes) in &shapes {
            if self.sends(*side) {
                let (response, tail) = rest.split_at(shapes.batch.response_bytes());
                rest = tail;
                let shares = keys.client().finish_batch(&shapes.batch, response)?;
                results.insert(*side, shares);
            }
        }
        self.keep_shapes(shapes, kept, answer.keep);
        Ok(results)
    }

    /// The responses to the peer's uploads, and this party's shares of what it asked.
    fn answer(
        &mut self,
        shapes: &BTreeMap<Side, Shapes>,
        kept: &[Kept],
        keys: &Keys,
        received: &[u8],
        results: &mut Results,
    ) -> ProtocolResult<Answer> {
        let mut rest = received;
        let mut message = Vec::new();
        let mut keep = None;
        for (side, shapes) in shapes {
            if self.sends(*side) {
                continue;
            }
            let mut uploads = Vec::with_capacity(shapes.uploads.len());
            for upload in &shapes.uploads {
                let (request, tail) = rest.split_at(upload.request_bytes());
                rest = tail;
                uploads.push(keys.server().receive(upload, request)?);
            }
            // Keys and values of earlier preparations, in the order of positions.
            let before = kept.iter().filter_map(|kept| kept.received.as_ref());
            let before = (uploads.len() > KEPT).then_some(before);
            let all: Vec<&Received> = uploads.iter().chain(before.into_iter().flatten()).collect();
            let ring = self.rings.remove(side).expect("a shape for each side");
            let factors: Vec<&[i64]> = ring.factors.iter().map(|f| f.as_slice()).collect();
            let (response, shares) = keys.respond(&shapes.batch, &all, &factors)?;
            message.extend(response);
            results.insert(*side, shares);
            if uploads.len() > KEPT {
                keep = Some(uploads.remove(KEPT));
            }
        }
        Ok(Answer { message, keep })
    }

    /// Notes what was kept: of the same shape on both sides.
    fn keep_shapes(
        self,
        shapes: BTreeMap<Side, Shapes>,
        kept: &mut Vec<Kept>,
        received: Option<Received>,
    ) {
        let mut shapes = shapes.into_values();
        let shape = shapes.find(|shapes| shapes.uploads.len() > KEPT);
        if let (Some(keeps), Some(mut shape)) = (self.keeps, shape) {
            kept.push(Kept {
                upload: shape.uploads.remove(KEPT),
                received,
                positions: keeps.positions,
                layers: keeps.layers,
            });
        }
    }
}

/// What a party sends as the one that multiplies, and what it keeps.
struct Answer {
    message: Vec<u8>,
    keep: Option<Received>,
}

/// The public shapes of a side's messages.
struct Shapes {
    uploads: Vec<Upload>,
    batch: Batch,
}

/// Bytes of a client's requests, and of the responses to it.
fn bytes(shapes: &BTreeMap<Side, Shapes>, client: usize) -> [usize; 2] {
    let mut bytes = [0; 2];
    for (_, shapes) in shapes.iter().filter(|(side, _)| side.client == client) {
        let uploads = shapes.uploads.iter().map(Upload::request_bytes);
        bytes[0] += uploads.sum::<usize>();
        bytes[1] += shapes.batch.response_bytes();
    }
    bytes
}
