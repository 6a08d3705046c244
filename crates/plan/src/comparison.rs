//! Which comparison protocol a network calls for: counted rounds and bytes of both, and the time
//! that they take.
//!
//! The model is rounds × one-way delay, plus what the busier evaluator receives, from its peer and
//! from the dealer, over the bandwidth: nothing overlaps, and the dealer reaches an evaluator as
//! fast as its peer does. Local compute is left out. So the estimate is an upper bound of the
//! waiting on a link that is as described, and the choice depends on public shapes and the named
//! network alone.

use marill_mpc::{Comparison, ProgramSpec, ProtocolError, cost::Cost};

use crate::{count::counted, network::Network};

/// What a step costs with one comparison protocol.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    pub comparison: Comparison,
    pub cost: Cost,
    pub seconds: f64,
}

/// Estimates of one-hot and of DCF comparisons for `rows` rows behind `cached` keys, the quicker
/// one first; one-hot among equals.
///
/// # Errors
/// [`ProtocolError::TooLong`] past the context.
pub fn estimates(
    spec: &ProgramSpec,
    network: &Network,
    cached: usize,
    rows: usize,
) -> Result<[Estimate; 2], ProtocolError> {
    let estimate = |comparison| -> Result<Estimate, ProtocolError> {
        let cost = counted(spec, comparison, cached, rows)?;
        Ok(Estimate {
            comparison,
            cost,
            seconds: network.seconds(&cost),
        })
    };
    // One-hot first: among equals it asks less of the dealer.
    let one_hot = estimate(Comparison::OneHot)?;
    let dcf = estimate(Comparison::Dcf)?;
    Ok(if dcf.seconds < one_hot.seconds {
        [dcf, one_hot]
    } else {
        [one_hot, dcf]
    })
}
