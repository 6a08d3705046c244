//! Which boundary rows a base model's private layers are proved for, or the value that keeps them
//! from a proof: `cargo run -p marill-partition --example range -- CHECKPOINT FROZEN_LAYERS
//! [POSITIONS]`.

use std::{path::Path, sync::Arc};

use marill_model::{Checkpoint, Transforms};
use marill_mpc::{PrivateWeights, reference::range::Prover};
use marill_numeric::NumericSpec;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [checkpoint, frozen, rest @ ..] = args.as_slice() else {
        return Err("usage: range CHECKPOINT FROZEN_LAYERS [POSITIONS]".into());
    };
    let base = Checkpoint::open(Path::new(checkpoint))?;
    let transforms = Transforms {
        frozen_layers: frozen.parse()?,
        lora: None,
        heads: None,
        approx: Default::default(),
    };
    let spec = marill_partition::program_spec(&base.config, &transforms, NumericSpec::default())?;
    let public = marill_partition::public_weights(&spec, &base, &transforms)?;
    let private = Arc::new(PrivateWeights::from_floats(&public, Vec::new())?);
    let positions = match rest {
        [positions, ..] => positions.parse()?,
        [] => spec.max_positions.min(2032),
    };
    let mut prover = Prover::new(&public, private);
    let start = std::time::Instant::now();
    match prover.largest(positions) {
        Ok(proof) => {
            println!(
                "proved for boundary rows of norm up to {:.0}, {positions} positions",
                proof.envelope.row_norm
            );
            println!("least headroom: {:?}", proof.tightest());
        }
        Err(unproved) => {
            println!("not proved, even for rows of norm 1 at the boundary:");
            unproved
                .violations
                .iter()
                .for_each(|headroom| println!("  {headroom}"));
        }
    }
    println!("{:.1} s", start.elapsed().as_secs_f64());
    Ok(())
}
