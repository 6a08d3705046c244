//! `marill bench headline`: an ordinary full fine-tune of SmolLM2-135M's shape against Marill's
//! form, at equal numeric specification.

mod counts;
mod forms;
mod quality;

use std::process::ExitCode;

use marill_report::{Table, bytes};

use self::{
    counts::counts,
    forms::{FORMS, Step},
};

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    quality: quality::Quality,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// Runs the comparison.
///
/// # Errors
/// Whatever counting or a session reports.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if args.quality.is_asked() {
        return quality::run(&args.quality);
    }
    let counts = counts()?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&counts)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = Table::new([
        "form",
        "step",
        "rounds",
        "client sends",
        "server sends",
        "dealer to server",
    ])
    .right(&[2, 3, 4, 5]);
    for step in Step::ALL {
        for form in FORMS {
            let cost = &counts.of(form.name, step).cost;
            table.row([
                form.title.to_string(),
                step.to_string(),
                cost.rounds.to_string(),
                bytes(cost.e0_to_e1_bytes),
                bytes(cost.e1_to_e0_bytes),
                bytes(cost.dealer_to_e1_bytes),
            ]);
        }
    }
    println!("{}", table.markdown());
    Ok(ExitCode::SUCCESS)
}
