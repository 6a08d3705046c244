//! Whether values can leave their wires: the range analysis as export and `marill inspect` show it.

use std::sync::Arc;

use marill_mpc::range::{LARGEST_POSITIONS, Proof, Prover, Unproved};
use marill_mpc::{PrivateWeights, PublicWeights};

use crate::{Partition, PartitionError};

/// The largest envelope of boundary rows over which no value overflows, or the places that keep it from being proved.
pub(crate) fn analyse(public: &PublicWeights, private: PrivateWeights) -> Result<Proof, Unproved> {
    let positions = public.spec.max_positions.min(LARGEST_POSITIONS);
    Prover::new(public, Arc::new(private)).largest(positions)
}

/// The range analysis of a partition that holds its private part; seconds to minutes.
///
/// # Errors
/// [`PartitionError::NoPrivatePart`] for a client's view, and errors of the weights.
pub fn range_of(partition: &Partition) -> Result<Result<Proof, Unproved>, PartitionError> {
    let public = partition.public_weights()?;
    let private = partition.private_weights(&public)?;
    Ok(analyse(&public, private))
}

/// One sentence about an analysis, without a final period.
#[must_use]
pub fn describe_range(outcome: &Result<Proof, Unproved>) -> String {
    match outcome {
        Ok(proof) => {
            let (norm, positions) = (proof.envelope.row_norm, proof.envelope.positions);
            let least = proof.tightest().map_or_else(String::new, |room| format!("; least room: {room}"));
            format!("no value overflows for boundary rows of norm up to {norm:.0} and {positions} positions{least}")
        }
        Err(unproved) => format!("not proved for any input: {unproved}"),
    }
}
