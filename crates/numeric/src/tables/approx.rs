//! Tables of approximations ([`crate::approx`]): partitions that use none do not depend on them, so
//! they have a digest of their own.

use std::sync::OnceLock;

use crate::tables::{
    LinearTable, Piecewise, Tail, exp_neg, geometric_thresholds, piecewise, stepped_table,
};

/// What [`ApproxTables::recip`] adds to its argument.
pub const RECIP_FLOOR: u64 = 1 << 4;

/// The tables of approximations.
pub struct ApproxTables {
    /// `exp(-max(y, 0))`: one below zero, zero from 16 on.
    pub exp: LinearTable,
    /// `2^40 / (s + 16)`: any sum of weights up to `2^25`, zero included.
    pub recip: Piecewise,
}

/// The tables of approximations, built once.
pub fn approx_tables() -> &'static ApproxTables {
    static TABLES: OnceLock<ApproxTables> = OnceLock::new();
    TABLES.get_or_init(|| ApproxTables {
        exp: stepped_table(
            9,
            0,
            Tail::Step {
                low: 1 << 14,
                high: 0,
            },
            8,
            // No line is below zero.
            0,
            exp_neg,
        ),
        recip: recip_table(),
    })
}

/// Intervals of `s + 16` over 21 octaves: 16 an octave, and 32 from `2^20` on, where slopes have
/// few bits.
fn recip_table() -> Piecewise {
    let floor = u128::from(RECIP_FLOOR);
    let f = |s: u128| -> i128 { ((1u128 << 48) / (s + floor)) as i128 };
    let mut thresholds: Vec<u64> = geometric_thresholds(4, 20, 16)
        .into_iter()
        .chain(geometric_thresholds(20, 25, 32))
        .map(|s| s - RECIP_FLOOR)
        .collect();
    // The lowest octaves have fewer integers than intervals.
    thresholds.dedup();
    let shift_of = |s| if s < 1 << 17 { 0 } else { 7 };
    piecewise(28, 7, thresholds, 1 << 25, 8, f, shift_of)
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::{functions, hex::hex};

    /// A change of an entry needs a new name of its form.
    const PINNED: &str = "0d4c6c3090574ed998d2a34c19b08f0634730a90b3b618e47c8a4d7bd5b01e00";

    #[test]
    fn tables_of_approximations_are_the_committed_ones() {
        let ApproxTables { exp, recip } = approx_tables();
        let mut hash = Sha256::new();
        let signed = exp.value.iter().chain(&exp.slope).chain(&exp.left);
        signed.for_each(|v| hash.update(v.to_le_bytes()));
        hash.update(exp.bias.to_le_bytes());
        let whole = recip.threshold.iter().chain(&recip.slope);
        let whole = whole.chain(&recip.intercept);
        whole.for_each(|v| hash.update(v.to_le_bytes()));
        recip
            .shift
            .iter()
            .for_each(|v| hash.update(v.to_le_bytes()));
        assert_eq!(hex(&hash.finalize()), PINNED);
    }

    #[test]
    fn the_clipped_exponential_is_within_its_bound() {
        let unit = f64::from(1 << 14);
        for y in -(1i64 << 12)..(1 << 18) + 5 {
            let got = functions::exp_clipped(y as u64);
            let exact = (-(y.max(0) as f64) / unit).exp();
            // As the documentation of the function states.
            assert!(
                (got as i64 as f64 / unit - exact).abs() <= 1.5e-4,
                "{y}: {got}"
            );
            assert!(got <= 1 << 14, "{y}: {got} is no weight");
        }
        let far = [-(1i64 << 30), -1, 1 << 18, 1 << 30];
        let values = far.map(|y| functions::exp_clipped(y as u64));
        assert_eq!(values, [1 << 14, 1 << 14, 0, 0]);
    }

    #[test]
    fn the_floored_reciprocal_is_within_its_bounds() {
        let error = |s: u64| {
            let exact = 40f64.exp2() / (s + RECIP_FLOOR) as f64;
            (functions::recip_floored(s) as f64 / exact - 1.0).abs()
        };
        let near = (0..1 << 20).map(error).fold(0.0, f64::max);
        let far = (1 << 20..1 << 25).step_by(7).map(error).fold(0.0, f64::max);
        // As the documentation of the function states.
        assert!(near <= 7e-4, "{near}");
        assert!(far <= 1.2e-2, "{far}");
    }
}
