//! Rounds and bytes, counted over shapes: exact, and the same on every machine.

use marill_mpc::{Comparison, cost::Cost, tally::tally_on};
use serde::Serialize;

use super::forms::{FORMS, Step};

/// What one step of one form costs.
#[derive(Serialize)]
pub struct Count {
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
    pub fn of(&self, form: &str, step: Step) -> &Count {
        let found = self.0.iter().find(|c| c.form == form && c.step == step);
        found.expect("every form is counted at every step")
    }
}

/// Counts all forms and steps.
///
/// # Errors
/// What the tally reports.
pub fn counts() -> anyhow::Result<Counts> {
    let mut counts = Vec::new();
    for step in Step::ALL {
        let (cached, rows) = step.shape();
        for form in &FORMS {
            let spec = form.spec(cached + rows + 16)?;
            let labels = tally_on(&spec, Comparison::OneHot, cached, rows)?;
            let cost = labels.iter().fold(Cost::default(), |sum, (_, c)| sum + *c);
            counts.push(Count {
                form: form.name,
                step,
                cost,
            });
        }
    }
    Ok(Counts(counts))
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
        let rounds = |form| counts.of(form, Step::Decode { keys: 128 }).cost.rounds;
        // As `mpc/tests/figures.rs` counts both.
        assert_eq!((rounds("full"), rounds("marill-15")), (2_241, 1_146));
    }
}
