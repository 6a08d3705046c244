//! `marill state`: what the services have recorded.

use std::{
    io::{BufWriter, Write},
    process::ExitCode,
};

use marill_serving::state::{RECORDS_FILE, export};

use crate::{args::folders::Folders, output::advice::advise};

/// Services keep their records in an embedded database, `records.redb` in each one's folder.
#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    folders: Folders,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Print records as lines of text, each behind its service's name, also while the service runs:
    /// `session ROLE NAME UNIX-SECONDS`, `charges SHA256-OF-KEY TOKENS SESSIONS` and, of the last
    /// minute, `recent SHA256-OF-KEY UNIX-SECONDS TOKENS SESSIONS`
    Export {
        /// One service only [default: all that have records]
        #[arg(long, value_name = "NAME", value_parser = SERVICES)]
        service: Option<String>,
    },
}

const SERVICES: [&str; 4] = ["dealer", "server", "client", "evaluator"];

/// Puts a service's name before each line.
struct Named<'a, W: Write> {
    out: &'a mut W,
    name: &'a str,
}

impl<W: Write> Write for Named<'_, W> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        write!(self.out, "{} ", self.name)?;
        self.out.write_all(line)?;
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.out.flush()
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let state = args.folders.state()?;
    let Action::Export { service } = args.action;
    let mut out = BufWriter::new(std::io::stdout().lock());
    let mut found = false;
    for name in SERVICES
        .into_iter()
        .filter(|name| service.as_deref().is_none_or(|asked| asked == *name))
    {
        let folder = state.join(name);
        found |= folder.join(RECORDS_FILE).is_file();
        export(
            &folder,
            &mut Named {
                out: &mut out,
                name,
            },
        )
        .map_err(advise)?;
    }
    out.flush()?;
    anyhow::ensure!(found, "no service has records below `{}`", state.display());
    Ok(ExitCode::SUCCESS)
}
