//! What a private answer of a partition costs: real weights, prompt and answer, compared with the
//! twin.

use std::{path::Path, process::ExitCode, time::Instant};

use anyhow::Context;
use marill_evals::engine::{Engine, SecureCost, SecureEngine, TwinEngine};
use marill_mpc::{cost::Cost, tally_decode, tally_prefill};
use marill_partition::Partition;
use marill_report::{Table, bytes};

use crate::output::failure::{BadInput, INPUT_FAILED};

/// Times an answer under the secure protocol, compares it with the twin, and its traffic with the
/// tally.
///
/// # Errors
/// [`BadInput`] for a damaged partition or a prompt that does not fit.
pub fn run(dir: &Path, prompt_tokens: u32, tokens: u32, json: bool) -> anyhow::Result<ExitCode> {
    if tokens < 2 {
        return Err(BadInput(anyhow::anyhow!(
            "an answer of at least 2 tokens is needed to time one"
        ))
        .into());
    }
    let partition = Partition::open(dir).map_err(|e| BadInput(e.into()))?;
    let spec = partition.program_spec().clone();
    let prompt_tokens = prompt_tokens as usize;
    let tokens = tokens as usize;
    let bucket = spec.bucket(prompt_tokens);
    if bucket + tokens > spec.max_positions {
        let error = anyhow::anyhow!(
            "{bucket} and {tokens} tokens do not fit the {} positions",
            spec.max_positions
        );
        return Err(BadInput(error).into());
    }
    let prompt: Vec<u32> = (0..prompt_tokens)
        .map(|i| (i * 7919 % spec.vocab_size) as u32)
        .collect();

    let mut secure = SecureEngine::new(&partition)?;
    let (public, private) = secure.weights();
    let mut twin = TwinEngine::with_weights(partition.prefix()?, public, private);
    let answer = secure.generate(&prompt, tokens, &|_, _| false)?;
    let start = Instant::now();
    let twin_equal = twin.generate(&prompt, tokens, &|_, _| false)? == answer;
    let twin_seconds = start.elapsed().as_secs_f64();

    let cost = secure.cost();
    let steps = tokens - 1;
    let prefill = tally_prefill(&spec, bucket)?;
    let decode = (0..steps)
        .map(|step| tally_decode(&spec, bucket + step))
        .collect::<Result<Vec<Cost>, _>>()?;
    let sum = |pick: fn(&Cost) -> u64| decode.iter().map(pick).sum::<u64>();
    let tally_equal = is_tallied(&cost, &prefill, &decode);
    if json {
        let json = serde_json::json!({
            "prompt_tokens": prompt_tokens, "bucket": bucket, "tokens": tokens, "cost": cost,
            "dealer_to_server_bytes": { "prefill": prefill.dealer_to_e1_bytes,
                "decode": sum(|c| c.dealer_to_e1_bytes) },
            "seconds_per_token": cost.decode_seconds / steps as f64, "twin_seconds": twin_seconds,
            "twin_equal": twin_equal, "tally_equal": tally_equal,
        });
        println!(
            "{}",
            serde_json::to_string_pretty(&json).context("cannot write JSON")?
        );
    } else {
        println!(
            "{}",
            table(bucket, steps, &cost, &prefill, &decode).markdown()
        );
        let verdict = |equal: bool| if equal { "equal" } else { "DIFFERENT" };
        println!(
            "\ntokens and the twin's: {}; traffic and the tally: {}",
            verdict(twin_equal),
            verdict(tally_equal)
        );
    }
    Ok(if twin_equal && tally_equal {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}

/// Seconds, rounds and bytes of the prompt and of a token.
fn table(bucket: usize, steps: usize, cost: &SecureCost, prefill: &Cost, decode: &[Cost]) -> Table {
    let sum = |pick: fn(&Cost) -> u64| decode.iter().map(pick).sum::<u64>();
    let mut table = Table::new([
        "step",
        "seconds",
        "rounds",
        "client sends",
        "client receives",
        "dealer to server",
    ])
    .right(&[1, 2, 3, 4, 5]);
    let per = |total: u64| total / steps as u64;
    table.row([
        format!("prompt of {bucket}"),
        format!("{:.3}", cost.prefill_seconds),
        cost.prefill_rounds.to_string(),
        bytes(cost.prefill_bytes_sent),
        bytes(cost.prefill_bytes_received),
        bytes(prefill.dealer_to_e1_bytes),
    ]);
    table.row([
        "per token".to_string(),
        format!("{:.3}", cost.decode_seconds / steps as f64),
        per(cost.decode_rounds).to_string(),
        bytes(per(cost.decode_bytes_sent)),
        bytes(per(cost.decode_bytes_received)),
        bytes(per(sum(|c| c.dealer_to_e1_bytes))),
    ]);
    table
}

/// Whether the client's traffic is what was counted over shapes.
fn is_tallied(cost: &SecureCost, prefill: &Cost, decode: &[Cost]) -> bool {
    let sum = |pick: fn(&Cost) -> u64| decode.iter().map(pick).sum::<u64>();
    (
        cost.prefill_rounds,
        cost.prefill_bytes_sent,
        cost.prefill_bytes_received,
    ) == (
        prefill.rounds,
        prefill.e0_to_e1_bytes,
        prefill.e1_to_e0_bytes,
    ) && (
        cost.decode_rounds,
        cost.decode_bytes_sent,
        cost.decode_bytes_received,
    ) == (
        sum(|c| c.rounds),
        sum(|c| c.e0_to_e1_bytes),
        sum(|c| c.e1_to_e0_bytes),
    )
}
