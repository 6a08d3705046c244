//! Which products a step of a model takes when its private weights are opened anew.

use marill_mpc::{
    ProgramSpec,
    cost::Cost,
    spec::{MapSpec, Module},
};

use super::{Product, Stage};

/// Maps of a layer by what they take.
const HALVES: [&[Module]; 4] = [
    &[Module::Q, Module::K, Module::V],
    &[Module::O],
    &[Module::Gate, Module::Up],
    &[Module::Down],
];

/// Products with private weights in a step of `rows` rows, stage by stage; `ends`: embedding and
/// output head are private too.
pub fn stages(spec: &ProgramSpec, rows: usize, ends: bool) -> Vec<Stage> {
    let mut stages = Vec::new();
    let end = |rows, inner, outer| vec![Product { rows, inner, outer }];
    if ends {
        // A one-hot row of the vocabulary's length for each token.
        stages.push(end(rows, spec.vocab_size, spec.hidden_size));
    }
    for layer in 0..spec.num_layers {
        for modules in HALVES {
            // In the last layer only the last row is read behind the attention.
            let first = modules[0] == Module::Q;
            let last = layer + 1 == spec.num_layers;
            let rows = if last && !first { 1 } else { rows };
            let maps = modules.iter();
            let maps = maps.map(|&module| spec.map_spec(spec.map(layer, module)));
            stages.extend(half(rows, &maps.collect::<Vec<_>>(), spec.is_full_rank()));
        }
    }
    if ends {
        stages.push(end(1, spec.hidden_size, spec.vocab_size));
    }
    stages
}

/// Maps that take the same rows: as one matrix, or as one `A` and then each its `B`.
fn half(rows: usize, maps: &[MapSpec], full: bool) -> Vec<Stage> {
    let stacked = |outer: usize| Product {
        rows,
        inner: maps[0].cols,
        outer,
    };
    if full {
        return vec![vec![stacked(maps.iter().map(|map| map.rows).sum())]];
    }
    let up = maps.iter().map(|map| Product {
        rows,
        inner: map.rank,
        outer: map.rows,
    });
    let ranks = maps.iter().map(|map| map.rank).sum();
    vec![vec![stacked(ranks)], up.collect()]
}

/// Rounds and bytes of the stages.
pub fn cost(stages: &[Stage]) -> Cost {
    let words = |of: fn(Product) -> usize| -> u64 {
        let products = stages.iter().flatten();
        8 * products.map(|p| of(*p) as u64).sum::<u64>()
    };
    let opened = words(Product::opened);
    Cost {
        rounds: stages.len() as u64,
        e0_to_e1_bytes: opened,
        e1_to_e0_bytes: opened,
        dealer_to_e1_bytes: words(Product::dealt),
        ..Cost::default()
    }
}

#[cfg(test)]
mod tests {
    use marill_mpc::random_model::{tiny_spec, with_private_matrices};

    use super::*;

    /// Hidden 48, 48 + 16 + 16 rows of queries, keys and values, MLP 80, two layers.
    const WEIGHTS: usize = 2 * (48 * 80 + 48 * 48 + 3 * 48 * 80);

    #[test]
    fn every_private_weight_travels_once_in_a_call() {
        let spec = with_private_matrices(tiny_spec());
        let stages = stages(&spec, 1, false);
        assert_eq!(stages.len(), 2 * 4);
        let inputs = 2 * (48 + 48 + 48 + 80);
        let opened = cost(&stages).e0_to_e1_bytes;
        assert_eq!(opened, 8 * (WEIGHTS + inputs) as u64);
    }

    #[test]
    fn private_ends_add_the_vocabulary_twice() {
        let spec = with_private_matrices(tiny_spec());
        let without = cost(&stages(&spec, 16, false));
        let with = cost(&stages(&spec, 16, true));
        let more = with.e0_to_e1_bytes - without.e0_to_e1_bytes;
        // 16 one-hot rows and the last hidden one beside the two matrices.
        assert_eq!(more, 8 * (2 * 100 * 48 + 16 * 100 + 48));
        assert_eq!(with.rounds, without.rounds + 2);
    }

    #[test]
    fn low_rank_factors_are_what_is_left_of_the_weights() {
        let stages = stages(&tiny_spec(), 1, false);
        assert_eq!(stages.len(), 2 * 8);
        // Rank 4: A of 3, 1, 2 and 1 maps, B of every map's rows, and what both take.
        let a = 4 * (3 * 48 + 48 + 2 * 48 + 80);
        let b = 4 * (48 + 16 + 16 + 48 + 80 + 80 + 48);
        let inputs = 48 + 48 + 48 + 80 + 7 * 4;
        let opened = cost(&stages).e0_to_e1_bytes;
        assert_eq!(opened, 8 * 2 * (a + b + inputs) as u64);
    }
}
