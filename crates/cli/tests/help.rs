//! `--help` of every command, as a person reads it. After a change on purpose:
//! `INSTA_UPDATE=always cargo test -p marill --test help`, then read the difference.

use std::{collections::BTreeSet, process::Command};

/// What `marill ARGS --help` prints, without colors, in 100 columns, in an empty environment.
fn help(args: &[&str]) -> String {
    help_by(args, "--help")
}

fn help_by(args: &[&str], flag: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_marill"))
        .args(args)
        .arg(flag)
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

#[test]
fn the_short_help_is_shorter_and_the_long_one_has_examples() {
    let main = [
        "train", "plan", "export", "serve", "dealer", "party", "gateway", "chat", "generate",
        "eval", "bench", "doctor",
    ];
    for command in main {
        let short = help_by(&[command], "-h");
        let long = help(&[command]);
        assert!(short.lines().count() < long.lines().count(), "{command}");
        let example = format!("\n  marill {command} ");
        assert!(
            long.contains("\nExamples:\n") && long.contains(&example),
            "{command}"
        );
        assert!(!short.contains("Examples:"), "{command}");
    }
    assert!(help(&[]).contains("\nExamples:\n"));
}

#[test]
fn flags_stand_below_headings() {
    for (command, headings) in [
        (
            "serve",
            &["Services:", "Listening:", "Users:", "Sessions:"][..],
        ),
        ("chat", &["Answer:", "Services:", "Folders:"]),
        ("train", &["Recipe:", "Run:", "Output:"]),
        ("bench", &["Calibration:"]),
    ] {
        let long = help(&[command]);
        for heading in headings {
            assert!(
                long.contains(&format!("\n{heading}\n")),
                "{command} {heading}"
            );
        }
    }
}

#[test]
fn no_line_of_help_is_wider_than_100_columns() {
    for name in commands(&help(&[])) {
        for line in help(&[name]).lines() {
            assert!(line.chars().count() <= 100, "{name}: {line}");
        }
    }
}
