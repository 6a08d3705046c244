//! `--help` of every command, as a person reads it. After a change on purpose:
//! `INSTA_UPDATE=always cargo test -p marill --test help`, then read the difference.

use std::{collections::BTreeSet, process::Command};

/// What `marill ARGS --help` prints, without colors, in 100 columns, in an empty environment.
fn help(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_marill"))
        .args(args)
        .arg("--help")
        .env_clear()
        .env("COLUMNS", "100")
        .output()
        .expect("the binary starts");
    assert!(output.status.success(), "{args:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The commands that a help text lists.
fn commands(help: &str) -> BTreeSet<&str> {
    let list = help
        .split_once("\nCommands:\n")
        .map_or("", |(_, list)| list);
    let names = list
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| {
            // Two spaces, a name, its text; more spaces go on with the text before.
            let name = line.strip_prefix("  ")?;
            name.split(' ').next().filter(|name| !name.is_empty())
        });
    names.filter(|name| *name != "help").collect()
}

#[test]
fn help_of_every_command() {
    let top = help(&[]);
    insta::assert_snapshot!("marill", top);
    let names = commands(&top);
    // There are 17 commands; less means that the list was read wrongly.
    assert!(
        names.len() > 10,
        "the list of commands was not found: {names:?}"
    );
    for name in names {
        let text = help(&[name]);
        insta::assert_snapshot!(name, text);
        for nested in commands(&text) {
            insta::assert_snapshot!(format!("{name} {nested}"), help(&[name, nested]));
        }
    }
}
