//! Rounds and bytes, counted over shapes: exact, and the same on every machine.

use std::sync::{Mutex, PoisonError};

use marill_mpc::{Comparison, cost::Cost};
use marill_plan::count::counted;
use serde::Serialize;

use super::forms::{FORMS, ModelForm, SHAPE, Step, Weights};
use crate::commands::bench::{reopened, shapes};

/// What one step of one form costs.
#[derive(Serialize)]
pub struct Count {
    pub weights: Weights,
    pub form: &'static str,
    pub step: Step,
    #[serde(serialize_with = "cost")]
    pub cost: Cost,
}

/// Every form at every step.
#[derive(Serialize)]
pub struct Counts(Vec<Count>);

impl Counts {
    /// # Panics
    /// For a form that is none of [`FORMS`].
    pub fn of(&self, weights: Weights, form: &str, step: Step) -> Cost {
        let asked = |c: &&Count| (c.weights, c.form, c.step) == (weights, form, step);
        let found = self.0.iter().find(asked);
        found.expect("every form is counted at every step").cost
    }
}

/// Counts all forms and steps.
///
/// # Errors
/// What the tally reports.
pub fn counts() -> anyhow::Result<Counts> {
    let mut counts = Vec::new();
    for step in Step::ALL {
        for weights in Weights::ALL {
            for form in &FORMS {
                counts.push(Count {
                    weights,
                    form: form.name,
                    step,
                    cost: cost_of(form, weights, step)?,
                });
            }
        }
    }
    Ok(Counts(counts))
}

/// Rounds and bytes of a step of a form, counted over shapes.
///
/// # Errors
/// What the tally reports.
pub fn cost_of(form: &ModelForm, weights: Weights, step: Step) -> anyhow::Result<Cost> {
    cost_with(form, weights, step, form.private_ends())
}

/// As [`cost_of`], with embedding and output head public.
///
/// # Errors
/// As [`cost_of`].
pub fn cost_without_ends(form: &ModelForm, weights: Weights, step: Step) -> anyhow::Result<Cost> {
    cost_with(form, weights, step, false)
}

fn cost_with(form: &ModelForm, weights: Weights, step: Step, ends: bool) -> anyhow::Result<Cost> {
    let session = session(form, weights, step)?;
    let stages = form.stages(weights, step, ends)?;
    Ok(session + reopened::shapes::cost(&stages))
}

/// A session's part of a step, counted once: a page asks for it several times.
fn session(form: &ModelForm, weights: Weights, step: Step) -> anyhow::Result<Cost> {
    static FOUND: Mutex<Vec<((Weights, &str, Step), Cost)>> = Mutex::new(Vec::new());
    let asked = (weights, form.name, step);
    let mut found = FOUND.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some((_, cost)) = found.iter().find(|(of, _)| *of == asked) {
        return Ok(*cost);
    }
    let (cached, rows) = step.shape();
    let shape = form.session_shape(weights, cached + rows + 16);
    let spec = shapes::spec(SHAPE, shape)?;
    let cost = counted(&spec, Comparison::OneHot, cached, rows)?;
    found.push((asked, cost));
    Ok(cost)
}

fn cost<S: serde::Serializer>(cost: &Cost, serializer: S) -> Result<S::Ok, S::Error> {
    serde_json::json!({
        "rounds": cost.rounds,
        "e0_to_e1_bytes": cost.e0_to_e1_bytes,
        "e1_to_e0_bytes": cost.e1_to_e0_bytes,
        "dealer_to_e1_bytes": cost.dealer_to_e1_bytes,
    })
    .serialize(serializer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marills_form_takes_half_the_rounds_of_a_fine_tune() {
        let counts = counts().unwrap();
        let step = Step::Decode { keys: 128 };
        let rounds = |form| counts.of(Weights::MaskedOnce, form, step).rounds;
        // As `mpc/tests/figures.rs` counts both.
        assert_eq!((rounds("full"), rounds("marill-15")), (2_241, 1_146));
    }
}
