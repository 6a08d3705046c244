//! What `marill.toml` may say.

use std::path::Path;

use clap::Command;

use super::file::{Roles, check, parse};

#[derive(clap::Parser)]
struct Program {
    #[command(subcommand)]
    _role: Role,
}

#[derive(clap::Subcommand)]
enum Role {
    Dealer(crate::commands::dealer::Args),
    Serve(crate::commands::serve::Args),
    Party(crate::commands::party::Args),
    Gateway(crate::commands::gateway::Args),
}

fn program() -> Command {
    <Program as clap::CommandFactory>::command()
}

fn read(text: &str) -> Result<Roles, String> {
    let path = Path::new("marill.toml");
    let roles = parse(text, path, &program()).map_err(|error| error.to_string())?;
    check(&roles, path).map_err(|error| error.to_string())?;
    Ok(roles)
}

#[test]
fn flags_are_read_in_both_spellings() {
    let text =
        "[serve]\npartition = \"p\"\nmax-sessions = 2\ngreedy_only = true\n[gateway]\nport = 0\n";
    let roles = read(text).unwrap();
    assert_eq!(roles.partition, "p");
    assert_eq!(roles.flag("serve", "max-sessions"), Some("2"));
    assert_eq!(roles.flag("serve", "greedy-only"), Some("true"));
    assert_eq!(roles.flag("gateway", "port"), Some("0"));
    assert!(roles.of("dealer").is_none());
}

#[test]
fn mistakes_are_named_with_their_line() {
    let serve = "[serve]\npartition = \"p\"\n";
    for (text, says) in [
        (
            "[serve]\npartition = \"p\"\nmax-session = 2\n",
            "`marill.toml`, line 3: `marill serve` has no flag `--max-session`",
        ),
        ("[server]\n", "line 1: `server` is no role"),
        ("[serve]\nport = 1\n", "`partition` is missing in `[serve]`"),
        ("[serve]\npartition = 3\n", "line 2: `partition` is no text"),
        (
            "[serve]\npartition = \"p\"\ngreedy-only = 1\n",
            "line 3: `--greedy-only` is a switch",
        ),
        (
            "[serve]\npartition = \"p\"\nport = [1]\n",
            "line 3: `--port` takes one text or number",
        ),
        (
            "[serve]\npartition = \"p\"\nmax-sessions = 1\nmax_sessions = 2\n",
            "line 4: this flag is there twice",
        ),
        (&format!("{serve}[dealer\n"), "line 3"),
        (
            &format!("{serve}setting = \"2pc\"\n[dealer]\n"),
            "no dealer in the setting `2pc`",
        ),
        (
            &format!("{serve}dealer = \"http://127.0.0.1:1\"\n[dealer]\n"),
            "`serve.dealer` names another dealer",
        ),
        (&format!("{serve}[party]\n"), "needs `e0 = \"party\"`"),
    ] {
        let said = read(text).unwrap_err();
        assert!(said.contains(says), "{said}\n{text}");
    }
}
