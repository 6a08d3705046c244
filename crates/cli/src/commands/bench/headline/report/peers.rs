//! One block beside other systems: theirs measured elsewhere, ours counted.

use marill_mpc::cost::Cost;
use marill_report::{Table, count};

use crate::commands::bench::headline::{
    counts::cost_without_ends,
    forms::{FORMS, Step, Weights},
};

/// One middle block of an ordinary fine-tune: 30 layers less 15, by 15.
fn block(weights: Weights, step: Step) -> anyhow::Result<Cost> {
    let all = cost_without_ends(&FORMS[0], weights, step)?;
    let half = cost_without_ends(&FORMS[1], weights, step)?;
    let more = all - half;
    let one = |sum: u64| sum / (FORMS[1].frozen as u64);
    Ok(Cost {
        rounds: one(more.rounds),
        e0_to_e1_bytes: one(more.e0_to_e1_bytes),
        e1_to_e0_bytes: one(more.e1_to_e0_bytes),
        dealer_to_e1_bytes: one(more.dealer_to_e1_bytes),
        ..Cost::default()
    })
}

/// Bytes sent per party, messages or rounds, and seconds of one block as others measured them:
/// SecretFlow SPU 0.9.5 and CrypTen 0.4.1 as separate processes over loopback, on two cores.
const PEERS: [[&str; 5]; 5] = [
    [
        "SPU ABY3, 3 parties",
        "token at 128 keys",
        "1.5 MB",
        "410",
        "0.59",
    ],
    [
        "CrypTen TFP, 2 parties",
        "token at 128 keys",
        "30.6 MB",
        "199",
        "1.0",
    ],
    [
        "SPU CHEETAH, 2 parties",
        "token at 128 keys",
        "21.9 MB",
        "572",
        "7.1",
    ],
    [
        "SPU ABY3, 3 parties",
        "prompt of 128",
        "193 MB",
        "402",
        "5.3",
    ],
    [
        "CrypTen TFP, 2 parties",
        "prompt of 128",
        "265 MB",
        "199",
        "3.4",
    ],
];

/// The table.
///
/// # Errors
/// What counting reports.
pub fn table() -> anyhow::Result<String> {
    let mut table = Table::new([
        "one block, all weights secret",
        "step",
        "a party sends",
        "rounds",
        "s",
    ])
    .right(&[2, 3, 4]);
    PEERS.iter().for_each(|row| table.row(*row));
    for (name, weights) in [
        ("Marill's engine", Weights::MaskedOnce),
        ("the baseline", Weights::OpenedEachCall),
    ] {
        for step in [Step::Decode { keys: 128 }, Step::Prefill { tokens: 128 }] {
            let cost = block(weights, step)?;
            let larger = cost.e0_to_e1_bytes.max(cost.e1_to_e0_bytes);
            table.row([
                name.to_string(),
                step.to_string(),
                format!("{:.2} MB", larger as f64 / 1e6),
                count(cost.rounds),
                String::new(),
            ]);
        }
    }
    Ok(format!("{}\n\n{}", super::text::PEERS, table.markdown()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_baseline_sends_what_crypten_was_measured_to_send() {
        let step = Step::Decode { keys: 128 };
        let sent = block(Weights::OpenedEachCall, step).unwrap().e0_to_e1_bytes as f64;
        // CrypTen sent 30.6 MB for this block: weights of 28.3 MB and costlier functions.
        assert!((28.3e6..30.6e6).contains(&sent), "{sent}");
    }
}
