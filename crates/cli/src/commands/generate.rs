//! `marill generate`: one private answer to one prompt.

mod twin_check;

use std::{io::Read, ops::ControlFlow, path::PathBuf, process::ExitCode};

use anyhow::Context;
use marill_model::{Message, NO_TEMPLATE};
use marill_mpc::Sampling;
use marill_serving::client::{Answer, Client, Event, Request};
use twin_check::TwinCheck;

use crate::{
    args::{
        services::{DEFAULT_SERVER, Services},
        target::Target,
    },
    output::{advice::advise, failure::INPUT_FAILED, terminal::show},
};

#[derive(clap::Args)]
pub struct Args {
    /// A server's address, or a partition's folder (then all parties run in this process)
    #[arg(value_name = "URL_OR_DIR", env = "MARILL_SERVER", default_value = DEFAULT_SERVER)]
    target: Target,
    /// The prompt; without it, standard input
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Instructions before the prompt, for models with a chat template
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// Give the prompt to the model as it stands, without the chat template
    #[arg(long)]
    raw: bool,
    /// Most tokens of the answer
    #[arg(
        long,
        value_name = "N",
        default_value_t = 128,
        value_parser = clap::value_parser!(u32).range(1..),
    )]
    max_tokens: u32,
    /// Go on after an end token, up to `--max-tokens`
    #[arg(long)]
    ignore_eos: bool,
    /// Before this many tokens neither an end token nor a stop text ends the answer
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_tokens: u32,
    /// End the answer before this text (repeatable)
    #[arg(
        long,
        value_name = "TEXT",
        value_parser = clap::builder::NonEmptyStringValueParser::new(),
    )]
    stop: Vec<String>,
    #[command(flatten)]
    sampling_args: SamplingArgs,
    /// Compare with the plaintext twin of this partition (needs its private part); differing ends
    /// with exit code 1, unless the partition rounds stochastically: then a token may be one that
    /// the exactly rounding twin finds nearly as good. Not for sampled tokens: the noise is the
    /// server's alone
    #[arg(long, value_name = "DIR")]
    check_twin: Option<PathBuf>,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    services: Services,
}

/// How tokens are chosen.
#[derive(clap::Args)]
pub struct SamplingArgs {
    /// Sampling temperature, 0 (greedy) to 2
    #[arg(long, value_name = "T", default_value_t = 0.0)]
    temperature: f64,
    /// Sample among the N most likely tokens only
    #[arg(long, value_name = "N", requires = "temperature")]
    top_k: Option<u32>,
}

impl SamplingArgs {
    pub fn sampling(&self) -> anyhow::Result<Option<Sampling>> {
        Ok(Sampling::new(self.temperature, self.top_k)?)
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let sampling = args.sampling_args.sampling()?;
    anyhow::ensure!(
        sampling.is_none() || args.check_twin.is_none(),
        "`--check-twin` compares token by token, and sampled tokens depend on the server's own \
         noise\nhint: leave out `--temperature`"
    );
    let text = match &args.prompt {
        Some(prompt) => prompt.clone(),
        None => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read the prompt from standard input")?;
            text
        }
    };
    let connected = args.target.connect(&args.services)?;
    let client = &connected.client;
    let request = Request {
        prompt: tokens(client, &args, text)?,
        max_tokens: Some(args.max_tokens as usize),
        ignore_eos: args.ignore_eos,
        min_tokens: args.min_tokens as usize,
        stop: args.stop.clone(),
        keep_boundary: args.check_twin.is_some(),
        sampling,
        keep: false,
        id: None,
    };
    let quiet = args.json;
    let answer = client.generate(&request, &mut |event| {
        if let Event::Text(piece) = event
            && !quiet
        {
            show(&piece);
        }
        ControlFlow::Continue(())
    });
    let answer = answer.map_err(advise)?;
    let check = args
        .check_twin
        .as_deref()
        .map(|folder| TwinCheck::run(folder, &answer))
        .transpose()?;
    if args.json {
        println!("{}", json(client, &answer, sampling, check));
    } else {
        println!();
        eprintln!("{}", summary(&answer));
        if let Some(check) = &check {
            eprintln!("{}", check.describe());
        }
    }
    Ok(if check.is_none_or(|check| check.passes()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(INPUT_FAILED)
    })
}

fn tokens(client: &Client, args: &Args, text: String) -> anyhow::Result<Vec<u32>> {
    if args.raw {
        return client.plain_prompt(&text).map_err(advise);
    }
    if !client.has_chat_template() {
        eprintln!("warning: {NO_TEMPLATE}\nhint: `--raw` asks for the continuation of a text");
    }
    let message = |role: &str, content: String| Message {
        role: role.into(),
        content,
    };
    let mut messages: Vec<Message> = args
        .system
        .iter()
        .map(|text| message("system", text.clone()))
        .collect();
    messages.push(message("user", text));
    client.chat_prompt(&messages).map_err(advise)
}

/// Time, rounds and bytes of an answer in one line.
pub fn summary(answer: &Answer) -> String {
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let steps = answer.decode_steps.max(1) as f64;
    let cached = match answer.cached_tokens {
        0 => String::new(),
        cached => format!(", {cached} of {} tokens seen before", answer.prompt_tokens),
    };
    format!(
        "{} tokens; session {:.2} s, prefill {:.2} s ({:.1} MiB sent, {:.1} MiB received, {} \
         rounds{cached}); then {:.3} s, {:.2} MiB sent, {:.2} MiB received, {:.0} rounds per token",
        answer.tokens.len(),
        answer.open_seconds,
        answer.prefill.seconds,
        mib(answer.prefill.bytes_sent),
        mib(answer.prefill.bytes_received),
        answer.prefill.rounds,
        answer.decode.seconds / steps,
        mib(answer.decode.bytes_sent) / steps,
        mib(answer.decode.bytes_received) / steps,
        answer.decode.rounds as f64 / steps,
    )
}

fn json(
    client: &Client,
    answer: &Answer,
    sampling: Option<Sampling>,
    check: Option<TwinCheck>,
) -> serde_json::Value {
    let (server, dealer) = client.wire_counts();
    // An answer of one token has no decode step; null says so.
    let per_token =
        |total: f64| (answer.decode_steps > 0).then(|| total / answer.decode_steps as f64);
    let step = |cost: &marill_serving::client::Cost| {
        serde_json::json!({
            "rounds": cost.rounds, "bytes_sent": cost.bytes_sent,
            "bytes_received": cost.bytes_received,
            "seconds": cost.seconds,
        })
    };
    serde_json::json!({
        "text": answer.text,
        "tokens": answer.tokens,
        "finish_reason": answer.finish.as_str(),
        "prompt_tokens": answer.prompt_tokens,
        "completion_tokens": answer.tokens.len(),
        "model": client.model_name,
        "partition_id": client.parameters.partition_id,
        "setting": client.parameters.setting,
        "rounding": client.parameters.rounding,
        "pid": std::process::id(),
        "correlations": answer.correlations.as_str(),
        "material": answer.comparison,
        "sampling": sampling,
        "open_seconds": answer.open_seconds,
        "prefill": step(&answer.prefill),
        "decode": step(&answer.decode),
        "decode_steps": answer.decode_steps,
        "cached_tokens": answer.cached_tokens,
        "request_id": answer.request_id.as_str(),
        "offline_bytes": answer.offline.map(|offline| offline.bytes),
        "offline_seconds": answer.offline.map(|offline| offline.seconds),
        "rounds_per_token": per_token(answer.decode.rounds as f64),
        "client_bytes_sent_per_token": per_token(answer.decode.bytes_sent as f64),
        "client_bytes_received_per_token": per_token(answer.decode.bytes_received as f64),
        "seconds_per_token": per_token(answer.decode.seconds),
        "socket_bytes": {
            "server_sent": server.sent_bytes(), "server_received": server.received_bytes(),
            "dealer_sent": dealer.sent_bytes(), "dealer_received": dealer.received_bytes(),
        },
        "twin_equal": check.and_then(|check| check.is_equal()),
        "exact_twin": check,
    })
}
