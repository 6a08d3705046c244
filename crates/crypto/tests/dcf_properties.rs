//! Distributed comparison functions for random shapes, thresholds and inputs.

use marill_crypto::{
    Prg, Seed,
    aes::Cipher,
    dcf::{Keys, Shape, generate, root},
};
use proptest::{collection::vec, prelude::*};

/// Elements of a payload: at most three of one to eight bytes, 16 bytes in all.
fn widths() -> impl Strategy<Value = Vec<usize>> {
    vec(1usize..=8, 1..=3).prop_filter("one block hides a payload", |widths| {
        widths.iter().sum::<usize>() <= 16
    })
}

#[derive(Debug)]
struct Case {
    bits: u32,
    widths: Vec<usize>,
    /// A threshold for each key.
    alpha: Vec<u64>,
    /// Points of each key.
    points: Vec<Vec<u64>>,
    seed: [u8; 32],
    first_tree: u64,
}

impl Case {
    fn per_key(&self) -> usize {
        self.points[0].len()
    }

    /// The points in a row; for half of all seeds a threshold and its neighbors come first.
    fn inputs(&self) -> Vec<u64> {
        let largest = u64::MAX >> (64 - self.bits);
        let keys = self.alpha.iter().zip(&self.points);
        keys.flat_map(|(&alpha, points)| {
            let near = [
                alpha,
                alpha.saturating_sub(1),
                alpha.saturating_add(1).min(largest),
            ];
            let near = if self.seed[0] & 1 == 1 {
                &near[..]
            } else {
                &[]
            };
            let all: Vec<u64> = near.iter().chain(points).copied().collect();
            all.into_iter().take(points.len())
        })
        .collect()
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let shape = (1u32..=64, widths(), 1usize..=5, 1usize..=4);
    shape.prop_flat_map(|(bits, widths, keys, per_key)| {
        let number = move || any::<u64>().prop_map(move |word| word >> (64 - bits));
        let rest = (
            vec(number(), keys),
            vec(vec(number(), per_key), keys),
            any::<[u8; 32]>(),
            any::<u64>().prop_map(|tree| tree >> 1),
        );
        rest.prop_map(move |(alpha, points, seed, first_tree)| Case {
            bits,
            widths: widths.clone(),
            alpha,
            points,
            seed,
            first_tree,
        })
    })
}

/// Both parties' results of every point under its key, by element of the payload.
fn evaluate(case: &Case, payload: &[Vec<u64>], inputs: &[u64]) -> [Vec<Vec<u64>>; 2] {
    let shape = Shape::new(case.bits, &case.widths);
    let mut prg = Prg::new(&Seed::from_bytes(case.seed), "roots");
    let roots = [true, false].map(|first| -> Vec<u128> {
        let words = prg.words(2 * case.alpha.len());
        words.chunks(2).map(|w| root(w[0], w[1], first)).collect()
    });
    let cipher = Cipher::new(case.seed.first_chunk().expect("16 of 32 bytes"));
    let mut cws = Vec::new();
    generate(
        &shape,
        [&roots[0], &roots[1]],
        &case.alpha,
        |key, element| payload[element][key],
        case.first_tree,
        &cipher,
        &mut cws,
    );
    assert_eq!(cws.len(), case.alpha.len() * shape.key_bytes());
    [true, false].map(|first| {
        let mut sums = vec![vec![0u64; inputs.len()]; shape.columns()];
        let mut columns: Vec<&mut [u64]> = sums.iter_mut().map(Vec::as_mut_slice).collect();
        let keys = Keys {
            shape: &shape,
            first,
            roots: &roots[usize::from(!first)],
            cws: &cws,
            first_tree: case.first_tree,
            cipher: &cipher,
        };
        keys.evaluate(inputs, case.per_key(), &mut columns);
        sums
    })
}

proptest! {
    // A failing case is printed with everything that it needs; no file remembers it.
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..Default::default()
    })]

    #[test]
    fn halves_add_up_to_the_payload_below_the_threshold(case in cases()) {
        let mut prg = Prg::new(&Seed::from_bytes(case.seed), "payload");
        let payload: Vec<Vec<u64>> =
            case.widths.iter().map(|_| prg.words(case.alpha.len())).collect();
        let inputs = case.inputs();
        let [mine, theirs] = evaluate(&case, &payload, &inputs);
        for (element, &width) in case.widths.iter().enumerate() {
            let mask = u64::MAX >> (64 - 8 * width);
            for (j, &x) in inputs.iter().enumerate() {
                let key = j / case.per_key();
                let expected = if x < case.alpha[key] { payload[element][key] } else { 0 };
                let sum = mine[element][j].wrapping_add(theirs[element][j]);
                prop_assert_eq!(sum & mask, expected & mask, "element {} at {}", element, x);
            }
        }
    }
}
