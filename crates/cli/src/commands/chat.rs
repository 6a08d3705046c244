//! `marill chat`: a conversation in the terminal, in one private session as long as it
//! goes on.

mod conversation;
mod input;
mod interrupts;
mod said;

use std::process::ExitCode;

use marill_model::NO_TEMPLATE;
use marill_serving::{
    client::{Client, Request},
    terms::Setting,
};

use self::{
    conversation::Conversation,
    input::{Input, Line},
    interrupts::Interrupts,
    said::{HELP, Said},
};
use crate::{
    args::{
        services::{DEFAULT_SERVER, NoKeepArgs, Services},
        target::Target,
    },
    commands::generate::SamplingArgs,
    output::failure,
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
        "private session with `{}`: {parties}, semi-honest, rounding {}\n\
         `/help` lists commands, Ctrl-C stops an answer, `/quit` or the end of input leaves",
        client.model_name, client.parameters.rounding
    );
    if !client.has_chat_template() {
        eprintln!("warning: {NO_TEMPLATE}");
    }
}

/// Answers until the input ends. An error ends an answer and not the conversation; without a
/// terminal the exit code is that of the last error.
///
/// # Errors
/// Services or a partition that cannot be used, and input that fails.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let sampling = args.sampling_args.sampling()?;
    let connected = args.target.connect(&args.services)?;
    let client = &connected.client;
    introduce(client);
    let form = Request {
        max_tokens: Some(args.max_tokens as usize),
        ignore_eos: args.ignore_eos,
        sampling,
        keep: args.keep.keeps(),
        ..Request::default()
    };
    let mut conversation = Conversation::new(client, form, args.system, args.quiet);
    let mut input = Input::open()?;
    let interrupts = match input.is_terminal() {
        true => Some(Interrupts::watch(client.cutter())?),
        // As other programs in a pipe do, this one ends with Ctrl-C.
        false => None,
    };
    let mut code = ExitCode::SUCCESS;
    loop {
        let line = match input.next()? {
            Line::Text(line) => line,
            Line::Cleared => continue,
            Line::End => break,
        };
        match obey(&mut conversation, &line, interrupts.as_ref()) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => {
                let failed = failure::report(&error);
                if !input.is_terminal() {
                    code = failed;
                }
            }
        }
    }
    Ok(code)
}

/// Does what a line asks for; false where that is to leave.
fn obey(
    conversation: &mut Conversation,
    line: &str,
    interrupts: Option<&Interrupts>,
) -> anyhow::Result<bool> {
    let said = Said::parse(line).map_err(|refused| failure::BadInput(anyhow::anyhow!(refused)))?;
    match said {
        Said::Nothing => {}
        Said::Question(text) => conversation.ask(text, interrupts)?,
        Said::Help => eprintln!("{HELP}"),
        Said::Reset => conversation.reset(),
        Said::System(Some(text)) => conversation.instruct(text),
        Said::System(None) => match conversation.system() {
            Some(text) => eprintln!("instructions: {text}"),
            None => eprintln!("there are no instructions; `/system TEXT` gives some"),
        },
        Said::Save(path) => {
            conversation.save(&path)?;
            eprintln!("saved as `{}`", path.display());
        }
        Said::Quit => return Ok(false),
    }
    Ok(true)
}
