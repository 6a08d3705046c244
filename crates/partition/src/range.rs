//! Whether values can leave their wires: the range analysis as export and `marill inspect` show it.

use std::sync::Arc;

use marill_mpc::{
    PrivateWeights, ProtocolError, PublicWeights, SpecError, Twin,
    reference::range::{Headroom, LARGEST_POSITIONS, Proof, Prover, Unproved},
    spec::BUCKET,
};

use crate::{Partition, PartitionError};

/// The largest envelope of boundary rows over which no value overflows, or the labels that keep it
/// from being proved.
pub(crate) fn analyze(
    public: &PublicWeights,
    private: PrivateWeights,
    told: &mut dyn FnMut(usize, usize),
) -> Result<Proof, Unproved> {
    let positions = public.spec.max_positions.min(LARGEST_POSITIONS);
    Prover::new(public, Arc::new(private)).largest_told(positions, told)
}

/// The range analysis of a partition that holds its private part; seconds to minutes.
///
/// # Errors
/// [`PartitionError::NoPrivatePart`] for a client's view, and errors of the weights.
pub fn range_of(partition: &Partition) -> Result<Result<Proof, Unproved>, PartitionError> {
    let public = partition.public_weights()?;
    let private = partition.private_weights(&public)?;
    Ok(analyze(&public, private, &mut |_, _| {}))
}

/// What the twin met on rows of text: a measurement of these rows, no proof.
#[derive(Debug, Clone, PartialEq)]
pub struct Measured {
    pub rows: usize,
    pub tokens: usize,
    /// The label whose values came nearest to the edge of their wire.
    pub least: Option<Headroom>,
    /// The first value that did not fit: the row, counted from 1, and the label.
    pub overflow: Option<String>,
}

impl Measured {
    /// A row that is a little longer or stranger may still fit.
    const EASY_BITS: f64 = 1.0;

    /// Whether every value fitted with a bit to spare.
    #[must_use]
    pub fn is_easy(&self) -> bool {
        self.overflow.is_none()
            && self
                .least
                .is_some_and(|headroom| headroom.bits() >= Self::EASY_BITS)
    }
}

impl std::fmt::Display for Measured {
    /// One sentence, without a final period.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { rows, tokens, .. } = self;
        if let Some(overflow) = &self.overflow {
            return write!(f, "a value of the run's own rows does not fit: {overflow}");
        }
        let Some(headroom) = self.least else {
            return write!(f, "no row was measured");
        };
        let label = match headroom.layer {
            Some(layer) => format!("private layer {layer}, `{}`", headroom.label),
            None => format!("behind the last layer, `{}`", headroom.label),
        };
        let bits = headroom.bits();
        let reaches = headroom.reaches_bits;
        let limit = headroom.limit_bits;
        write!(
            f,
            "every value of {rows} of the run's own rows ({tokens} tokens) fits, {bits:.1} bits \
             left at the nearest place ({label}: 2^{reaches:.1} of 2^{limit:.0})"
        )
    }
}

/// Runs rows of token ids through the twin and says how near values come to the edges of their
/// wires; needs the private part. Rows lose what is longer than a session, or than a whole number
/// of buckets; empty ones are left out.
///
/// # Errors
/// [`PartitionError::NoPrivatePart`] for a client's view, and errors of the weights.
pub fn measure_range(partition: &Partition, rows: &[Vec<u32>]) -> Result<Measured, PartitionError> {
    let public = Arc::new(partition.public_weights()?);
    let private = Arc::new(partition.private_weights(&public)?);
    let spec = public.spec.clone();
    let mut prefix = partition.prefix()?;
    let mut twin = Twin::exact(public, private);
    twin.start_measuring();
    let mut measured = Measured {
        rows: 0,
        tokens: 0,
        least: None,
        overflow: None,
    };
    let longest = (1..=spec.max_positions)
        .rev()
        .find(|&n| spec.bucket(n) <= spec.max_positions)
        .unwrap_or(0);
    for (nth, row) in rows.iter().enumerate() {
        let fits = row.len().min(longest);
        // Whole buckets have no padding, whose bias would pass for a score that comes near.
        let row = &row[..if fits > BUCKET {
            fits / BUCKET * BUCKET
        } else {
            fits
        }];
        if row.is_empty() {
            continue;
        }
        prefix.truncate(0);
        let overflow = match spec.encode(&prefix.forward(row)?) {
            Err(SpecError::Numeric(error)) => Some(error.to_string()),
            Err(other) => return Err(other.into()),
            Ok(boundary) => match twin.prefill(&boundary) {
                Ok(_) => None,
                Err(error @ ProtocolError::Range(_)) => Some(error.to_string()),
                Err(other) => unreachable!("the twin meets no peer, and the row fits: {other}"),
            },
        };
        measured.rows += 1;
        measured.tokens += row.len();
        if let Some(error) = overflow {
            measured.overflow = Some(format!("row {}: {error}", nth + 1));
            break;
        }
    }
    measured.least = twin.least_headroom();
    Ok(measured)
}

/// One sentence about an analysis, without a final period.
#[must_use]
pub fn describe_range(outcome: &Result<Proof, Unproved>) -> String {
    match outcome {
        Ok(proof) => {
            let norm = proof.envelope.row_norm;
            let positions = proof.envelope.positions;
            let least = proof.tightest().map_or_else(String::new, |headroom| {
                format!("; least headroom: {headroom}")
            });
            format!(
                "no value overflows for boundary rows of norm up to {norm:.0} and {positions} \
                 positions{least}"
            )
        }
        Err(unproved) => format!("not proved for any input: {unproved}"),
    }
}
