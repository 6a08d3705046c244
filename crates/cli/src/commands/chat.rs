//! `marill chat`: a conversation in the terminal, in one private session as long as it
//! goes on.

use std::{io::BufRead, ops::ControlFlow, process::ExitCode};

use marill_model::{Message, NO_TEMPLATE};
use marill_serving::{
    ClientError, ServingError,
    client::{Client, Event, Request},
    terms::Setting,
};

use crate::{
    args::{
        services::{DEFAULT_SERVER, NoKeepArgs, Services},
        target::Target,
    },
    commands::generate::{SamplingArgs, summary},
    output::{advice::advise, terminal::show},
};

#[derive(clap::Args)]
pub struct Args {
    /// A server's address, or a partition's folder (then all parties run in this process)
    #[arg(value_name = "URL_OR_DIR", env = "MARILL_SERVER", default_value = DEFAULT_SERVER)]
    target: Target,
    /// Instructions before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,
    /// Most tokens of an answer
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
    #[command(flatten)]
    sampling_args: SamplingArgs,
    /// Print no costs after an answer
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    keep: NoKeepArgs,
    #[command(flatten)]
    services: Services,
}

/// Who takes part in a session of this setting.
fn parties(setting: &str) -> &'static str {
    match Setting::parse(setting) {
        Some(Setting::TwoParties) => "two parties",
        Some(Setting::ThreeParties) => "three parties",
        _ => "two parties and a dealer",
    }
}

/// Says what kind of session answers.
fn introduce(client: &Client) {
    let parties = parties(&client.parameters.setting);
    eprintln!(
        "private session with `{}`: {parties}, semi-honest, rounding {}\n`/reset` starts over, \
         `/quit` or the end of input leaves",
        client.model_name, client.parameters.rounding
    );
    if !client.has_chat_template() {
        eprintln!("warning: {NO_TEMPLATE}");
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let sampling = args.sampling_args.sampling()?;
    let connected = args.target.connect(&args.services)?;
    let client = &connected.client;
    introduce(client);
    let opening = || -> Vec<Message> {
        args.system
            .iter()
            .map(|text| Message {
                role: "system".into(),
                content: text.clone(),
            })
            .collect()
    };
    let mut messages = opening();
    let mut lines = std::io::stdin().lock().lines();
    loop {
        eprint!("> ");
        let Some(line) = lines.next() else { break };
        match line?.trim() {
            "" => continue,
            "/quit" => break,
            "/reset" => {
                messages = opening();
                client.end_kept();
                continue;
            }
            text => messages.push(Message {
                role: "user".into(),
                content: text.into(),
            }),
        }
        let request = Request {
            prompt: client.chat_prompt(&messages).map_err(advise)?,
            max_tokens: Some(args.max_tokens as usize),
            ignore_eos: args.ignore_eos,
            sampling,
            keep: args.keep.keeps(),
            ..Request::default()
        };
        let result = client.generate(&request, &mut |event| {
            if let Event::Text(piece) = event {
                show(&piece);
            }
            ControlFlow::Continue(())
        });
        match result {
            Ok(answer) => {
                println!();
                if !args.quiet {
                    eprintln!("({})", summary(&answer));
                }
                messages.push(Message {
                    role: "assistant".into(),
                    content: answer.text,
                });
            }
            // The conversation has outgrown the context; the next question can start over.
            Err(error @ ServingError::Client(ClientError::PromptTooLong { .. })) => {
                eprintln!("error: {error}\n\nhint: `/reset` starts over");
                messages.pop();
            }
            Err(error) => return Err(advise(error)),
        }
    }
    Ok(ExitCode::SUCCESS)
}
