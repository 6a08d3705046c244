//! `marill recipes keys`: what each key of a recipe means; `docs/recipe.md` is its Markdown.

use std::fmt::Write;

use anyhow::anyhow;
use marill_recipe::{Key, keys};
use marill_report::Table;

use crate::output::failure::BadInput;

#[derive(clap::Args)]
pub struct Args {
    /// Only this key or table, as `lora` or `train.epochs`
    #[arg(value_name = "KEY")]
    key: Option<String>,
    /// A page of all keys
    #[arg(long, conflicts_with_all = ["key", "json"])]
    markdown: bool,
    /// A JSON list on standard output
    #[arg(long)]
    json: bool,
}

/// # Errors
/// [`BadInput`] for a key that is not there.
pub fn run(args: &Args) -> anyhow::Result<()> {
    if args.markdown {
        print!("{}", page());
        return Ok(());
    }
    let chosen: Vec<Key> = match &args.key {
        None => keys(),
        Some(path) => below(path)?,
    };
    if args.json {
        let list: Vec<_> = chosen.iter().map(json).collect();
        println!("{}", serde_json::to_string_pretty(&list)?);
        return Ok(());
    }
    for key in &chosen {
        println!("{}", line(key));
    }
    Ok(())
}

/// A key, or a table with all its keys.
fn below(path: &str) -> anyhow::Result<Vec<Key>> {
    let inside = format!("{path}.");
    let is_chosen = |key: &Key| key.path == path || key.path.starts_with(&inside);
    let chosen: Vec<Key> = keys().into_iter().filter(is_chosen).collect();
    if chosen.is_empty() {
        let hint = "`marill recipes keys` lists all";
        let error = anyhow!("a recipe has no key `{path}`\nhint: {hint}");
        return Err(BadInput(error).into());
    }
    Ok(chosen)
}

fn json(key: &Key) -> serde_json::Value {
    serde_json::json!({
        "key": key.path,
        "takes": key.takes.replace('`', ""),
        "default": key.default.replace('`', ""),
        "needed": key.needed,
        "about": key.about,
    })
}

/// What a person reads of one key.
fn line(key: &Key) -> String {
    let left_out = match (key.needed, key.default) {
        (true, _) => "; needed".to_owned(),
        (false, "") => String::new(),
        (false, default) => format!("; left out: {default}"),
    };
    format!(
        "{}\n    {}\n    {}{left_out}",
        key.path, key.about, key.takes
    )
}

/// How the page begins.
const HEAD: &str = "# Every key of a recipe

Written by `marill recipes keys --markdown`; `marill recipes keys lora.rank` answers for one key.
[Training](training.md) says more about the less obvious ones. `marill train RECIPE --set KEY=VALUE`
overrides any of them, and `marill recipes validate FILE` reports every mistake at once.
";

/// The page: a section for each table of the root, the tables inside it below.
fn page() -> String {
    let all = keys();
    let mut out = String::from(HEAD);
    for table in all.iter().filter(|key| key.is_table()) {
        let brackets = match table.takes.starts_with("tables") {
            true => format!("[[{}]]", table.path),
            false => format!("[{}]", table.path),
        };
        let needed = if table.needed { " Needed." } else { "" };
        let left_out = match table.default {
            "" => String::new(),
            default => format!(" Left out: {default}."),
        };
        let _ = write!(
            out,
            "\n## `{brackets}`\n\n{}{needed}{left_out}\n",
            table.about
        );
        let inside: Vec<&Key> = all
            .iter()
            .filter(|key| key.table() == table.path && !key.is_table())
            .collect();
        if inside.is_empty() {
            continue;
        }
        let mut rows = Table::new(["key", "takes", "left out", "meaning"]);
        for key in inside {
            let name = format!("`{}`", &key.path[table.path.len() + 1..]);
            let left_out = match (key.needed, key.default) {
                (true, _) => "needed",
                (false, "") => "",
                (false, default) => default,
            };
            let cells = [name.as_str(), key.takes.as_str(), left_out, key.about];
            rows.row(cells.map(|cell: &str| cell.replace('|', "\\|")));
        }
        let _ = write!(out, "\n{}\n", rows.markdown());
    }
    out
}
