//! Products of masks for steps to come: what E0 sends, and what each party keeps until a step
//! takes it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use marill_crypto::{Prg, Seed};
use marill_net::Channel;
use marill_numeric::fixed::low_mask;
use zeroize::Zeroizing;

use super::{
    keys::{AdapterKey, EncryptedAdapter},
    pieces::{MapProducts, PIECE, Piece, most_steps, pieces},
    shape::{Shape, digits, half},
};
use crate::{
    cost::Traffic,
    error::{ProtocolError, ProtocolResult},
    masked::precompute::{RevealSpec, reveals},
    spec::{MapId, ProgramSpec},
};

const LABEL: &str = "private products";

/// Tokens that are prepared at once where nobody says how many are wanted.
const STEPS: usize = 8;

/// A message leaves in frames of this size.
const FRAME_BYTES: usize = 8 << 20;

/// A party's shares of what a map makes of a reveal's mask.
pub(super) struct MapShares {
    map: MapId,
    /// `[rows, rank]`
    pub a: Zeroizing<Vec<u64>>,
    /// `[rows, out]`
    pub b: Zeroizing<Vec<u64>>,
}

/// What a party has ready for a reveal.
pub(in crate::masked) struct ReadyReveal {
    of: RevealSpec,
    /// `r`, at E0.
    pub(in crate::masked) masks: Zeroizing<Vec<u64>>,
    shares: Vec<MapShares>,
}

impl ReadyReveal {
    /// A map's shares, once.
    pub(super) fn take(&mut self, map: MapId) -> MapShares {
        let at = self.shares.iter().position(|shares| shares.map == map);
        self.shares.swap_remove(at.expect("each map of the reveal"))
    }
}

/// A step's reveals, the next one last.
type ReadyStep = Vec<ReadyReveal>;

/// Whose products they are.
enum Side {
    E0(Arc<EncryptedAdapter>),
    E1(Arc<AdapterKey>),
}

/// An evaluator's products: those that are ready, and how more are made.
pub(in crate::masked) struct Preparing {
    side: Side,
    /// Tokens, in order.
    pub(in crate::masked) ready: VecDeque<ReadyStep>,
    /// What is left of the step that runs; none before its first reveal.
    current: Option<ReadyStep>,
    /// What is not made yet of a step of several rows: a message at a time, when it is needed.
    pending: VecDeque<Piece>,
    /// At E0, tokens that are still expected, where the caller said so.
    expected: Option<usize>,
    /// Numbers of a message, about.
    pub(in crate::masked) piece: usize,
}

impl Preparing {
    pub(in crate::masked) fn of_client(adapter: Arc<EncryptedAdapter>) -> Self {
        Self::new(Side::E0(adapter))
    }

    pub(in crate::masked) fn of_server(key: Arc<AdapterKey>) -> Self {
        Self::new(Side::E1(key))
    }

    fn new(side: Side) -> Self {
        Self {
            side,
            ready: VecDeque::new(),
            current: None,
            pending: VecDeque::new(),
            expected: None,
            piece: PIECE,
        }
    }

    /// A step begins: what an earlier one left is gone.
    pub(in crate::masked) fn begin(&mut self) {
        self.current = None;
        self.pending.clear();
    }

    /// How many tokens are expected beside those that are ready, at E0.
    pub(in crate::masked) fn expect(&mut self, tokens: usize) {
        self.expected = Some(tokens);
    }

    /// Tokens that are ready.
    pub(in crate::masked) fn tokens(&self) -> usize {
        self.ready.len()
    }

    /// Tokens that E0 prepares now, of `most`.
    fn take_expected(&mut self, most: usize) -> usize {
        let steps = self.expected.unwrap_or(STEPS).clamp(1, most);
        self.expected = self.expected.map(|expected| expected.saturating_sub(steps));
        steps
    }

    fn shape(&self) -> &Shape {
        match &self.side {
            Side::E0(adapter) => &adapter.shape,
            Side::E1(key) => &key.shape,
        }
    }

    /// Takes a step of so many rows out of what is ready.
    fn start(&mut self, rows: usize) -> bool {
        self.current = match rows {
            1 => self.ready.pop_front(),
            _ => None,
        };
        self.current.is_some()
    }
}

/// An evaluator's way to the other one.
pub(super) struct Peer<'a> {
    pub channel: &'a mut dyn Channel,
    pub traffic: &'a mut Traffic,
}

/// What is ready for a reveal; before the first of a step E0 prepares, and E1 listens, where
/// nothing is.
pub(super) fn next(
    peer: &mut Peer<'_>,
    spec: &ProgramSpec,
    preparing: &mut Preparing,
    of: &RevealSpec,
) -> ProtocolResult<ReadyReveal> {
    // The first reveal has all rows of its step.
    if preparing.current.is_none() && !preparing.start(of.rows) {
        if of.rows > 1 {
            let pieces = pieces(
                preparing.shape(),
                reveals(spec, of.rows)?,
                1,
                preparing.piece,
            )?;
            preparing.pending = pieces.into();
            preparing.current = Some(Vec::new());
        } else {
            prepare_tokens(peer, spec, preparing)?;
            preparing.start(1);
        }
    }
    let mut ready = preparing.current.as_mut().and_then(Vec::pop);
    if ready.is_none()
        && let Some(piece) = preparing.pending.pop_front()
    {
        let mut made = make(peer, &preparing.side, &piece)?;
        made.reverse();
        ready = made.pop();
        preparing.current = Some(made);
    }
    Ok(ready
        .filter(|ready| ready.of == *of)
        .expect("a step of as many rows reveals the same"))
}

/// Products of some tokens to come.
fn prepare_tokens(
    peer: &mut Peer<'_>,
    spec: &ProgramSpec,
    preparing: &mut Preparing,
) -> ProtocolResult<()> {
    let most = most_steps(preparing.shape(), spec)?;
    let steps = if matches!(preparing.side, Side::E0(_)) {
        let steps = preparing.take_expected(most);
        send(peer, (steps as u32).to_le_bytes().to_vec())?;
        steps
    } else {
        let said = receive(peer, 4)?;
        let steps = u32::from_le_bytes(said.try_into().expect("four bytes")) as usize;
        if !(1..=most).contains(&steps) {
            return Err(ProtocolError::Preparation { steps, most });
        }
        steps
    };
    // Messages have the reveals of all tokens; a step has all reveals of one.
    let mut ready: Vec<ReadyStep> = (0..steps).map(|_| Vec::new()).collect();
    let pieces = pieces(preparing.shape(), reveals(spec, 1)?, steps, preparing.piece)?;
    for piece in pieces {
        for reveal in make(peer, &preparing.side, &piece)? {
            let parts = apart(reveal, steps);
            let steps = ready.iter_mut().zip(parts);
            steps.for_each(|(step, part)| step.push(part));
        }
    }
    // The next one is taken from the end.
    ready.iter_mut().for_each(|step| step.reverse());
    preparing.ready.extend(ready);
    Ok(())
}

/// One message: E0 makes and sends it, E1 decrypts it.
fn make(peer: &mut Peer<'_>, side: &Side, piece: &Piece) -> ProtocolResult<Vec<ReadyReveal>> {
    match side {
        Side::E0(adapter) => {
            let (message, reveals) = respond(adapter, piece)?;
            send(peer, message)?;
            Ok(reveals)
        }
        Side::E1(key) => {
            let message = receive(peer, piece.bytes())?;
            finish(key, piece, &message)
        }
    }
}

fn send(peer: &mut Peer<'_>, message: Vec<u8>) -> ProtocolResult<()> {
    for frame in message.chunks(FRAME_BYTES) {
        peer.traffic.offline_bytes += frame.len() as u64;
        let sent = peer.channel.send(frame.to_vec());
        sent.map_err(|source| ProtocolError::Peer {
            label: LABEL,
            source,
        })?;
    }
    Ok(())
}

fn receive(peer: &mut Peer<'_>, expected: usize) -> ProtocolResult<Vec<u8>> {
    let mut message = Vec::with_capacity(expected);
    while message.len() < expected {
        let frame = peer.channel.recv();
        let frame = frame.map_err(|source| ProtocolError::Peer {
            label: LABEL,
            source,
        })?;
        let due = (expected - message.len()).min(FRAME_BYTES);
        if frame.len() != due {
            return Err(ProtocolError::Frame {
                label: LABEL,
                expected: due,
                got: frame.len(),
            });
        }
        peer.traffic.offline_bytes += due as u64;
        message.extend(frame);
    }
    Ok(message)
}

/// Results of a ring's products, as [`marill_lattice::Batch`] gives them: vector by vector.
type Results = BTreeMap<u32, Vec<Zeroizing<Vec<u64>>>>;

/// E0's message, and what it keeps.
fn respond(
    adapter: &EncryptedAdapter,
    piece: &Piece,
) -> ProtocolResult<(Vec<u8>, Vec<ReadyReveal>)> {
    // Masks of this preparation alone, from a seed that nobody else has.
    let mut prg = Prg::new(&Seed::random(), "masks of reveals");
    let masks: Vec<Zeroizing<Vec<u64>>> = piece
        .reveals
        .iter()
        .map(|of| Zeroizing::new(prg.reduced(piece.steps * of.rows * of.cols, of.bits)))
        .collect();
    let mut message = Vec::with_capacity(piece.bytes());
    // A·r = a_0 + a_1.
    let with_a = multiply(
        adapter,
        piece,
        0,
        &factors_of_a(piece, &masks),
        &mut message,
    )?;
    let a = shares_of_a(piece, &with_a);
    // B·a_0 = b_0 + b_1.
    let with_b = multiply(adapter, piece, 1, &factors_of_b(piece, &a), &mut message)?;
    Ok((message, keep(piece, masks, a, &with_b)))
}

/// What E1 decrypts.
fn finish(key: &AdapterKey, piece: &Piece, message: &[u8]) -> ProtocolResult<Vec<ReadyReveal>> {
    let mut rest = message;
    let mut results = [Results::new(), Results::new()];
    for (which, results) in results.iter_mut().enumerate() {
        for (bits, batches) in &piece.rings {
            let batch = &batches[which];
            let (response, tail) = rest.split_at(batch.response_bytes());
            rest = tail;
            results.insert(*bits, key.client.finish_batch(batch, response)?);
        }
    }
    let [with_a, with_b] = results;
    // a_1 and b_1, as E0 arranged a_0 and b_0.
    let a = shares_of_a(piece, &with_a);
    let masks = piece.reveals.iter().map(|_| Zeroizing::default());
    Ok(keep(piece, masks.collect(), a, &with_b))
}

/// Factors of each product of each ring.
type AllFactors = BTreeMap<u32, Vec<Zeroizing<Vec<i64>>>>;

fn multiply(
    adapter: &EncryptedAdapter,
    piece: &Piece,
    which: usize,
    factors: &AllFactors,
    message: &mut Vec<u8>,
) -> ProtocolResult<Results> {
    let mut results = Results::new();
    for (bits, batches) in &piece.rings {
        let factors: Vec<&[i64]> = factors[bits].iter().map(|f| f.as_slice()).collect();
        let received = [&adapter.received[bits]];
        let batch = &batches[which];
        let (response, shares) =
            adapter
                .server
                .respond_batch(batch, &adapter.packing, &received, &factors)?;
        message.extend(response);
        results.insert(*bits, shares);
    }
    Ok(results)
}

/// The digits of all masks: low ones, then high ones, row by row, for each product with `A`.
fn factors_of_a(piece: &Piece, masks: &[Zeroizing<Vec<u64>>]) -> AllFactors {
    let mut factors = AllFactors::new();
    for (maps, masks) in piece.places.iter().zip(masks) {
        let mut last = None;
        for map in maps {
            // Maps that share a product share its factors.
            if last.replace((map.bits, map.a.0)) == Some((map.bits, map.a.0)) {
                continue;
            }
            // r = low + 2^half·high.
            let mut both = Zeroizing::new(Vec::with_capacity(2 * masks.len()));
            for which in 0..2 {
                both.extend(masks.iter().map(|r| digits(*r, map.bits)[which]));
            }
            factors.entry(map.bits).or_default().push(both);
        }
    }
    factors
}

/// The shares of `A·r` of each map of each reveal, `[rows, rank]`.
fn shares_of_a(piece: &Piece, results: &Results) -> Vec<Vec<Zeroizing<Vec<u64>>>> {
    let of_reveal = |(of, maps): (&RevealSpec, &Vec<MapProducts>)| {
        let rows = piece.steps * of.rows;
        let of_map = |map: &MapProducts| {
            let results = &results[&map.bits][map.a.0];
            let low = low_mask(map.bits);
            let mut shares = Zeroizing::new(Vec::with_capacity(rows * map.rank));
            for row in 0..rows {
                for vector in map.a.1..map.a.1 + map.rank {
                    let of_vector = &results[vector * 2 * rows..][..2 * rows];
                    // A·r = A·low + 2^half·(A·high).
                    let high = of_vector[rows + row] << half(map.bits);
                    shares.push(of_vector[row].wrapping_add(high) & low);
                }
            }
            shares
        };
        maps.iter().map(of_map).collect()
    };
    piece
        .reveals
        .iter()
        .zip(&piece.places)
        .map(of_reveal)
        .collect()
}

/// The digits of E0's shares of `A·r`, for each product with a piece of `B`.
fn factors_of_b(piece: &Piece, a: &[Vec<Zeroizing<Vec<u64>>>]) -> AllFactors {
    let mut factors = AllFactors::new();
    for (map, a) in piece.places.iter().flatten().zip(a.iter().flatten()) {
        let mut both = Zeroizing::new(Vec::with_capacity(2 * a.len()));
        for row in a.chunks_exact(map.rank) {
            // B·a_0 = B·low + (2^half·B)·high.
            for which in 0..2 {
                both.extend(row.iter().map(|a| digits(*a, map.bits)[which]));
            }
        }
        let ring = factors.entry(map.bits).or_default();
        ring.extend(map.b.iter().map(|_| both.clone()));
    }
    factors
}

/// What a party keeps of a piece, all steps together.
fn keep(
    piece: &Piece,
    masks: Vec<Zeroizing<Vec<u64>>>,
    a: Vec<Vec<Zeroizing<Vec<u64>>>>,
    with_b: &Results,
) -> Vec<ReadyReveal> {
    let reveals = piece.reveals.iter().zip(&piece.places);
    let reveals = reveals.zip(masks).zip(a).map(|(((of, maps), masks), a)| {
        let rows = piece.steps * of.rows;
        let shares = maps.iter().zip(a).map(|(map, a)| {
            let out = map.b.iter().map(|(_, vectors)| vectors).sum::<usize>();
            let mut b = Zeroizing::new(Vec::with_capacity(rows * out));
            for row in 0..rows {
                // Pieces of B lie one below the other.
                for (product, vectors) in &map.b {
                    let results = &with_b[&map.bits][*product];
                    b.extend((0..*vectors).map(|vector| results[vector * rows + row]));
                }
            }
            let map = map.map;
            MapShares { map, a, b }
        });
        ReadyReveal {
            of: of.clone(),
            masks,
            shares: shares.collect(),
        }
    });
    reveals.collect()
}

/// What each of so many steps takes of a reveal.
fn apart(reveal: ReadyReveal, steps: usize) -> Vec<ReadyReveal> {
    let part = |all: &Zeroizing<Vec<u64>>, step: usize| {
        let size = all.len() / steps;
        Zeroizing::new(all[step * size..][..size].to_vec())
    };
    let of_step = |step| ReadyReveal {
        of: reveal.of.clone(),
        masks: part(&reveal.masks, step),
        shares: reveal
            .shares
            .iter()
            .map(|shares| MapShares {
                map: shares.map,
                a: part(&shares.a, step),
                b: part(&shares.b, step),
            })
            .collect(),
    };
    (0..steps).map(of_step).collect()
}
