//! E1's private updates of shared rows: `B·(A·x)` of factors that E1 alone has.

use marill_net::Channel;
use marill_numeric::{RingTensor, ring::matmul_transposed};
use marill_ot::Source;
use marill_two_party::Party;
use zeroize::Zeroizing;

use crate::{
    error::ProtocolResult,
    spec::MapSpec,
    two_party::{
        FactorBits, Gates, Products,
        bilinear::{Rounds, add_to, blocks, chosen, transfer_bits, transposed},
        lattice::{Shape, Term as LatticeTerm},
    },
    weights::Lora,
};

/// A map whose update is wanted, and E1's factors of it where this party has them.
pub(super) struct Update<'a> {
    pub map: MapSpec,
    pub factors: Option<&'a Lora>,
}

/// `B·(A·x)` of E1's factors for every map that has them, modulo the ring of `x`: `A` at E1 with
/// E0's share of `x`, then `B` with E0's share of the product; E1 multiplies its own shares by
/// itself.
pub(super) fn lora_updates<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    products: Products,
    maps: &[Update<'_>],
    bits: FactorBits,
    x: &RingTensor,
) -> ProtocolResult<Vec<Option<RingTensor>>> {
    let with: Vec<&Update<'_>> = maps.iter().filter(|update| update.map.rank > 0).collect();
    // A of all maps, one below the other: they take the same rows.
    let ranks: Vec<usize> = with.iter().map(|update| update.map.rank).collect();
    let stacked: Option<Zeroizing<Vec<u64>>> = with
        .iter()
        .map(|update| update.factors.map(|lora| lora.a.as_slice()))
        .collect::<Option<Vec<_>>>()
        .map(|all| Zeroizing::new(all.concat()));
    if with.is_empty() {
        return Ok(maps.iter().map(|_| None).collect());
    }
    // u = A·x: E0 holds A·x_0 less a mask, E1 the mask and A·x_1.
    let down = [FactorProduct {
        matrix: stacked.as_ref().map(|all| all.as_slice()),
        out: ranks.iter().sum(),
        x: x.clone(),
    }];
    let inner = factor_products(gates, products, bits.a, &down)?.remove(0);
    let mut first = 0;
    let up: Vec<FactorProduct<'_>> = with
        .iter()
        .map(|update| {
            let x = inner.columns(first, update.map.rank);
            first += update.map.rank;
            FactorProduct {
                matrix: update.factors.map(|lora| lora.b.as_slice()),
                out: update.map.rows,
                x,
            }
        })
        .collect();
    // B·u in the same way.
    let mut updates = factor_products(gates, products, bits.b, &up)?.into_iter();
    let of = |update: &Update<'_>| (update.map.rank > 0).then(|| updates.next()).flatten();
    Ok(maps.iter().map(of).collect())
}

/// `x · Mᵀ` with a matrix `[out, columns]` of E1's.
struct FactorProduct<'a> {
    matrix: Option<&'a [u64]>,
    out: usize,
    x: RingTensor,
}

/// All products of factors of `bits` bits, their sign among them.
fn factor_products<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    products: Products,
    bits: u32,
    list: &[FactorProduct<'_>],
) -> ProtocolResult<Vec<RingTensor>> {
    let shapes: Option<Vec<Shape>> = list
        .iter()
        .map(|p| Shape::of_factors(bits, p.x.bits, [p.out, p.x.cols, p.x.rows]))
        .collect();
    let transfers: usize = list
        .iter()
        .map(|p| p.out * p.x.cols * transfer_bits(p.x.rows, p.x.bits, bits))
        .sum();
    let Some(shapes) = chosen(products, shapes, transfers) else {
        return list
            .iter()
            .map(|p| factor(gates, p.matrix, p.out, bits, &p.x))
            .collect();
    };
    let first = gates.party() == Party::E0;
    let terms: Vec<LatticeTerm> = list
        .iter()
        .zip(shapes)
        .map(|(p, shape)| {
            let own = match p.matrix {
                _ if first => p.x.data.clone(),
                Some(matrix) => matrix.to_vec(),
                None => vec![0; p.out * p.x.cols],
            };
            let own = Zeroizing::new(own);
            LatticeTerm { shape, own }
        })
        .collect();
    let parts = gates.products(&terms)?;
    let sums = list.iter().zip(parts).map(|(p, mut data)| {
        if let Some(matrix) = p.matrix {
            // E1's own share times its own factors.
            add_to(&mut data, &matmul_transposed(&p.x.data, matrix, p.x.cols));
        }
        RingTensor::new(p.x.rows, p.out, p.x.bits, data)
    });
    Ok(sums.collect())
}

/// `x · Mᵀ` with a matrix `[out, cols]` of E1's, elements of `bits` bits with their sign.
fn factor<C: Channel, S: Source>(
    gates: &mut Gates<C, S>,
    matrix: Option<&[u64]>,
    out: usize,
    bits: u32,
    x: &RingTensor,
) -> ProtocolResult<RingTensor> {
    let cols = x.cols;
    let zeros = vec![0; out * x.rows];
    // E0 has no matrix; what it passes as scalars has their number.
    let none = vec![0; cols];
    let columns = transposed(&x.data, cols);
    let mut rounds = Rounds::new(gates, x.bits, zeros).of_signed_scalars(bits);
    for (first, width) in blocks(x.rows) {
        let vectors: Vec<u64> = (0..cols)
            .flat_map(|j| &columns[j * x.rows + first..][..width])
            .copied()
            .collect();
        for o in 0..out {
            let scalars = matrix.map_or(none.as_slice(), |m| &m[o * cols..][..cols]);
            rounds.term(Party::E1, width, scalars, &vectors, o * x.rows + first)?;
        }
    }
    // Results are by row of the matrix.
    let mut data = transposed(&rounds.finish()?, x.rows);
    if let Some(matrix) = matrix {
        let own = matmul_transposed(&x.data, matrix, cols);
        let sums = data.iter_mut().zip(own);
        sums.for_each(|(sum, own)| *sum = sum.wrapping_add(own));
    }
    Ok(RingTensor::new(x.rows, out, x.bits, data))
}
