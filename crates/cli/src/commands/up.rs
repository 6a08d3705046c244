//! `marill up`: all roles on this machine, from one file. A demonstration.

mod file;
#[cfg(test)]
mod tests;

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use clap::Command;

use self::file::{Roles, check, parse};
use crate::{
    output::failure::{BadInput, INPUT_FAILED},
    process::Service,
};

#[derive(clap::Args)]
pub struct Args {
    /// The file: tables `[dealer]`, `[serve]`, `[party]`, `[gateway]` with the flags of those
    /// commands, and `partition` in `[serve]`. Paths are seen from its folder
    #[arg(value_name = "FILE", default_value = "marill.toml")]
    file: PathBuf,
}

/// A role may load a large model before it listens.
const START: Duration = Duration::from_secs(600);
/// Longer than services give their sessions to end.
const END: Duration = Duration::from_secs(40);
/// How often the roles are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Starts the roles, passes on what they say, and ends all when one ends or a signal comes.
///
/// # Errors
/// A file that is not understood, a role that does not start.
pub fn run(args: &Args, program: &Command) -> anyhow::Result<ExitCode> {
    let path = &args.file;
    let text = std::fs::read_to_string(path).map_err(|error| {
        let hint = "`[serve]` with `partition = \"FOLDER\"` is all that it needs";
        BadInput(anyhow!(
            "cannot read `{}`: {error}\nhint: {hint}",
            path.display()
        ))
    })?;
    let roles = parse(&text, path, program)?;
    check(&roles, path)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let stop = stop_at_signals()?;
    let mut running = start(&roles, folder, &stop)?;
    if stop.load(Ordering::Relaxed) {
        return end(&mut running).map(|()| ExitCode::SUCCESS);
    }
    warn(&running);
    let ended = watch(&mut running, &stop)?;
    end(&mut running)?;
    Ok(match ended {
        None => ExitCode::SUCCESS,
        Some(name) => {
            eprintln!("error: the {name} ended, so the others were ended too");
            ExitCode::from(INPUT_FAILED)
        }
    })
}

/// Set by SIGINT and SIGTERM.
fn stop_at_signals() -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let set = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot listen for signals")?;
    let (mut interrupt, mut terminate) = {
        let _inside = runtime.enter();
        let of = |kind| signal(kind).context("cannot listen for signals");
        (of(SignalKind::interrupt())?, of(SignalKind::terminate())?)
    };
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
        });
        set.store(true, Ordering::Relaxed);
    });
    Ok(stop)
}

/// What a role is called.
fn noun(role: &'static str) -> &'static str {
    match role {
        "serve" => "server",
        "party" => "computing party",
        other => other,
    }
}

/// Starts each role when those that it talks to listen.
fn start(roles: &Roles, folder: &Path, stop: &AtomicBool) -> anyhow::Result<Vec<Service>> {
    let mut running: Vec<Service> = Vec::new();
    let has_dealer = roles.flag("serve", "setting") != Some("2pc");
    for role in file::ROLES {
        let wanted = match role {
            "dealer" => has_dealer && roles.flag("serve", "dealer").is_none(),
            "party" => roles.flag("serve", "e0") == Some("party"),
            _ => true,
        };
        if !wanted || stop.load(Ordering::Relaxed) {
            continue;
        }
        let url = |of: &'static str| {
            let mut of = running.iter().filter(|service| service.name() == noun(of));
            of.next().map(|service| service.url.clone())
        };
        let mut flags = roles.of(role).cloned().unwrap_or_default();
        let mut tell = |flag: &str, value: Option<String>| {
            if let Some(value) = value {
                flags.entry(flag.to_owned()).or_insert(value);
            }
        };
        if role != "dealer" && has_dealer {
            let elsewhere = roles.flag("serve", "dealer").map(str::to_owned);
            tell("dealer", url("dealer").or(elsewhere));
        }
        if matches!(role, "party" | "gateway") {
            tell("server", url("serve"));
        }
        if role == "gateway" {
            tell("party", url("party"));
        }
        let prefix = format!("MARILL_{}_", role.to_ascii_uppercase());
        let variables = flags.into_iter().map(|(flag, value)| {
            let flag = flag.replace('-', "_").to_ascii_uppercase();
            (format!("{prefix}{flag}"), value)
        });
        let unset = |(name, _): &(String, String)| std::env::var_os(name).is_none();
        let variables: Vec<_> = variables.filter(unset).collect();
        let mut arguments = vec![role];
        if role == "serve" {
            arguments.push(&roles.partition);
        }
        let width = file::ROLES.iter().map(|role| role.len()).max();
        let width = width.unwrap_or_default();
        let say = move |line: &str| eprintln!("{role:width$} | {line}");
        let service = Service::start_aloud(
            noun(role),
            &arguments,
            folder,
            &variables,
            (START, stop),
            say,
        )?;
        running.push(service);
    }
    Ok(running)
}

/// What this is not, in red where there are colors.
fn warn(running: &[Service]) {
    let names: Vec<_> = running.iter().map(Service::name).collect();
    let text = format!(
        "ONE OPERATOR RUNS ALL ROLES ({}): a demonstration. Whoever runs this machine can read \
         prompts and adapter.",
        names.join(", ")
    );
    let colors = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    match colors {
        true => eprintln!("\u{1b}[1;31m{text}\u{1b}[0m"),
        false => eprintln!("{text}"),
    }
    for service in running {
        eprintln!("{:16}{}", service.name(), service.url);
    }
}

/// Waits for a signal, or for the first role that ends: its name.
fn watch(running: &mut [Service], stop: &AtomicBool) -> anyhow::Result<Option<&'static str>> {
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        for service in &mut *running {
            if service.has_ended()? {
                return Ok(Some(service.name()));
            }
        }
        std::thread::sleep(LOOK);
    }
}

/// Asks all to end, those first that others do not need; what does not end in time is killed.
fn end(running: &mut Vec<Service>) -> anyhow::Result<()> {
    let until = Instant::now() + END;
    for service in running.iter().rev() {
        service.ask_to_end();
    }
    while let Some(service) = running.last_mut() {
        if service.has_ended()? || Instant::now() >= until {
            running.pop();
        } else {
            std::thread::sleep(LOOK);
        }
    }
    Ok(())
}
