//! How the help of commands is arranged: flags in groups, rare ones in `--help` alone, examples
//! behind it.

use clap::{Arg, Command};

/// A heading and the flags below it, by their names in the program.
type Group = (&'static str, &'static [&'static str]);

/// What every command calls alike.
const COMMON: [Group; 6] = [
    (
        "Services",
        &[
            "server",
            "dealer",
            "dealer_key",
            "party",
            "api_key",
            "tls_ca",
        ],
    ),
    (
        "Protocol",
        &[
            "setting",
            "e0",
            "correlations",
            "comparison",
            "network",
            "greedy_only",
            "no_dcf",
        ],
    ),
    (
        "Listening",
        &[
            "host",
            "port",
            "tls",
            "tls_cert",
            "tls_key",
            "metrics_listen",
            "log_format",
        ],
    ),
    (
        "Sessions",
        &["max_sessions", "keep_seconds", "keep_sessions", "no_keep"],
    ),
    ("Folders", &["cache", "state", "output_dir", "vault"]),
    ("Output", &["json", "quiet", "no_progress", "dry_run"]),
];

/// Flags that `-h` leaves out: whoever needs them reads `--help`.
const RARE: &[&str] = &[
    "dealer_key",
    "tls_ca",
    "correlations",
    "comparison",
    "network",
    "greedy_only",
    "no_dcf",
    "tls_cert",
    "tls_key",
    "metrics_listen",
    "log_format",
    "keep_seconds",
    "keep_sessions",
    "no_keep",
    "cache",
    "state",
    "vault",
    "preprocess",
    "preprocessed",
    "preprocess_request",
    "request",
    "bucket",
    "selection",
    "sessions",
    "owner",
    "ignore_eos",
    "min_tokens",
    "check_twin",
    "no_progress",
    "calibrate",
    "check_calibration",
    "extension",
    "products",
    "dealer_network",
    "show",
    "exclude",
    "rows",
    "merge",
    "reference",
];

/// A command, its own groups, and its examples.
struct Arranged {
    command: &'static str,
    groups: &'static [Group],
    examples: &'static str,
}

const ANSWER: Group = (
    "Answer",
    &["max_tokens", "ignore_eos", "temperature", "top_k"],
);

const ARRANGED: [Arranged; 13] = [
    Arranged {
        command: "train",
        groups: &[
            ("Recipe", &["set", "output_dir", "seed", "offline"]),
            ("Run", &["resume", "dry_run"]),
        ],
        examples: "\
  marill train recipe.toml --dry-run          what it needs and costs; nothing is written
  marill train recipe.toml --set train.epochs=2
  marill train recipe.toml --resume           go on from the newest checkpoint",
    },
    Arranged {
        command: "plan",
        groups: &[
            (
                "Budget",
                &["budget", "network", "quality", "keys", "setting"],
            ),
            ("Recipe", &["set", "out", "offline"]),
            ("Ground", &["curve", "calibration"]),
        ],
        examples: "\
  marill plan recipe.toml --budget 0.5s/token --network wan
  marill plan recipe.toml --budget 4MiB/token --out planned.toml",
    },
    Arranged {
        command: "export",
        groups: &[],
        examples: "\
  marill export runs/agnews                   a run's folder becomes a partition in it
  marill inspect runs/agnews/export           what each party will learn",
    },
    Arranged {
        command: "serve",
        groups: &[
            ("Users", &["keys", "allow_anonymous"]),
            ("Preprocessing", &["preprocessed", "preprocess_request"]),
        ],
        examples: "\
  marill serve runs/agnews/export --dealer http://127.0.0.1:8200
  marill serve runs/agnews/export --setting 2pc         no dealer, small models
  marill serve DIR --host 0.0.0.0 --tls --keys keys     other machines, with keys",
    },
    Arranged {
        command: "dealer",
        groups: &[
            ("Owners", &["add_owner"]),
            (
                "Preprocessing",
                &[
                    "vault",
                    "preprocess",
                    "request",
                    "bucket",
                    "tokens",
                    "selection",
                    "sessions",
                    "owner",
                    "dry_run",
                ],
            ),
        ],
        examples: "\
  marill dealer                               for parties on this machine
  marill dealer --host 0.0.0.0 --tls          for others; it prints its address
  marill dealer --add-owner acme              the key of a further owner of models",
    },
    Arranged {
        command: "party",
        groups: &[],
        examples: "\
  marill party --server https://model.example:8100 --dealer https://dealer.example:8200",
    },
    Arranged {
        command: "gateway",
        groups: &[("Users", &["keys", "allow_anonymous", "origins"])],
        examples: "\
  marill gateway --server https://model.example:8100 --dealer https://dealer.example:8200
  curl http://127.0.0.1:8000/v1/models        what OpenAI clients see",
    },
    Arranged {
        command: "up",
        groups: &[],
        examples: "\
  marill up                                   as `marill.toml` in this folder says
  marill up demo.toml                         another file",
    },
    Arranged {
        command: "chat",
        groups: &[("Conversation", &["system"]), ANSWER],
        examples: "\
  marill chat https://model.example:8100 --dealer https://dealer.example:8200
  marill chat runs/agnews/export              all parties in this process: a demonstration
  printf 'Hello\\nAnd now?\\n' | marill chat --quiet",
    },
    Arranged {
        command: "generate",
        groups: &[
            ("Prompt", &["prompt", "system", "raw"]),
            ANSWER,
            ("Answer", &["min_tokens", "stop"]),
            ("Output", &["check_twin"]),
        ],
        examples: "\
  marill generate http://127.0.0.1:8100 --prompt 'Classify: the index fell'
  marill generate runs/agnews/export --prompt Hello --check-twin runs/agnews/export --json",
    },
    Arranged {
        command: "eval",
        groups: &[
            (
                "Questions",
                &[
                    "tasks",
                    "limit",
                    "rows",
                    "exclude",
                    "data",
                    "reference",
                    "shots",
                    "seed",
                    "recipe",
                ],
            ),
            (
                "Answers",
                &["engine", "max_new_tokens", "allow_code_execution", "show"],
            ),
            ("Result", &["min", "compare", "merge", "log_samples"]),
        ],
        examples: "\
  marill eval runs/agnews/export --tasks agnews --limit 100
  marill eval runs/agnews/export --tasks agnews --engine twin,secure --limit 20",
    },
    Arranged {
        command: "bench",
        groups: &[
            ("Answer of a partition (DIR)", &["prompt_tokens"]),
            (
                "Steps of random weights or of a partition (--arch)",
                &[
                    "arch",
                    "setting",
                    "extension",
                    "products",
                    "phase",
                    "tokens",
                    "context",
                    "network",
                    "dealer_network",
                    "comparison",
                    "private",
                    "rank",
                    "merge",
                    "layers",
                    "rounding",
                    "processes",
                    "explain",
                ],
            ),
            ("Calibration", &["calibrate", "check_calibration"]),
        ],
        examples: "\
  marill bench runs/agnews/export             an answer of real weights
  marill bench --arch smollm2-135m --layers 1 --explain
  marill bench --arch smollm2-135m --layers 15 --merge 3 --network wan",
    },
    Arranged {
        command: "doctor",
        groups: &[],
        examples: "\
  marill doctor                               this machine alone
  marill doctor --server https://model.example:8100 --dealer https://dealer.example:8200
  marill doctor --json || echo 'something does not work'",
    },
];

const FIRST_STEPS: &str = "\
Examples:
  marill demo                                 everything on this machine, in a minute or two
  marill recipes ls                           recipes to begin with
  marill train recipe.toml                    fine-tune and export
  marill serve runs/NAME/export               the model's owner
  marill chat                                 the user

`marill COMMAND --help` has each command's flags and examples.";

fn heading(groups: &[Group], name: &str) -> Option<&'static str> {
    let found = groups.iter().find(|(_, names)| names.contains(&name));
    found.map(|(heading, _)| *heading)
}

/// Puts a flag below its heading; what has none stays below `Options`.
fn arrange(arg: Arg, groups: &[Group]) -> Arg {
    if arg.is_positional() {
        return arg;
    }
    let name = arg.get_id().to_string();
    let arg = match RARE.contains(&name.as_str()) {
        true => arg.hide_short_help(true),
        false => arg,
    };
    match heading(groups, &name).or_else(|| heading(&COMMON, &name)) {
        Some(heading) => arg.help_heading(heading),
        None => arg,
    }
}

/// The program's commands with their help arranged.
pub fn arranged(program: Command) -> Command {
    let program = program.after_long_help(FIRST_STEPS);
    ARRANGED.iter().fold(
        program,
        |program,
         Arranged {
             command,
             groups,
             examples,
         }| {
            program.mut_subcommand(command, |command| {
                command
                    .mut_args(|arg| arrange(arg, groups))
                    .after_long_help(format!("Examples:\n  {examples}"))
            })
        },
    )
}

/// The flags that `-h` leaves out.
#[cfg(test)]
pub fn rare() -> &'static [&'static str] {
    RARE
}

/// The commands and flags that are arranged apart.
#[cfg(test)]
pub fn names() -> impl Iterator<Item = (&'static str, &'static str)> {
    ARRANGED.iter().flat_map(|arranged| {
        let names = arranged.groups.iter().flat_map(|(_, names)| *names);
        names.map(|name| (arranged.command, *name))
    })
}
