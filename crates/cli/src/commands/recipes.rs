//! `marill recipes`: the recipes inside the program, and what their keys mean.

mod keys;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use marill_recipe::Recipe;
use marill_report::Table;

use crate::output::failure::BadInput;

/// Name, what it does, text.
pub const RECIPES: [(&str, &str, &str); 7] = [
    (
        "agnews-smollm2",
        "SmolLM2-135M-Instruct classifies news: 15 layers frozen, rank 8, 9 to 3 heads",
        include_str!("../../../../recipes/agnews-smollm2.toml"),
    ),
    (
        "multi30k-de-en-smollm2",
        "SmolLM2-135M-Instruct translates captions, German to English, transformed alike",
        include_str!("../../../../recipes/multi30k-de-en-smollm2.toml"),
    ),
    (
        "trec-smollm2",
        "SmolLM2-135M-Instruct tells what kind of answer a question wants, transformed alike",
        include_str!("../../../../recipes/trec-smollm2.toml"),
    ),
    (
        "mbpp-smollm2",
        "SmolLM2-135M-Instruct writes short Python functions, half of it frozen, heads unmerged",
        include_str!("../../../../recipes/mbpp-smollm2.toml"),
    ),
    (
        "dolly-smollm2",
        "SmolLM2-135M-Instruct answers instructions: 15 layers frozen, rank 8, 9 to 3 heads",
        include_str!("../../../../recipes/dolly-smollm2.toml"),
    ),
    (
        "demo",
        "the embedded base tells four kinds of request apart",
        include_str!("../../../../recipes/demo.toml"),
    ),
    (
        "base",
        "the embedded base itself, trained from nothing",
        include_str!("../../../../recipes/base.toml"),
    ),
];

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List the recipes
    Ls,
    /// Copy a recipe to a file
    Cp {
        name: String,
        /// [default: NAME.toml]
        to: Option<PathBuf>,
    },
    /// Say what each key of a recipe means, takes and is when left out
    Keys(keys::Args),
    /// Report every mistake of a recipe file
    Validate {
        file: PathBuf,
        /// Override a key, as in `marill train`
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
}

/// # Errors
/// [`BadInput`] for an unknown name, an existing file or a wrong recipe.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Ls => {
            let mut table = Table::new(["recipe", "what it does"]);
            for (name, about, _) in RECIPES {
                table.row([name, about]);
            }
            println!("{}", table.markdown());
        }
        Command::Cp { name, to } => copy(&name, to)?,
        Command::Keys(args) => keys::run(&args)?,
        Command::Validate { file, set } => {
            let recipe = Recipe::read(&file, &set).map_err(|e| BadInput(e.into()))?;
            crate::commands::eval::chosen::check(&recipe, file.parent().unwrap_or(Path::new("")))?;
            eprintln!("`{}` is a valid recipe", file.display());
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The text of a recipe inside the program.
///
/// # Errors
/// [`BadInput`] for an unknown name.
pub fn text_of(name: &str) -> anyhow::Result<&'static str> {
    if let Some((_, _, text)) = RECIPES.iter().find(|(known, ..)| *known == name) {
        return Ok(text);
    }
    let names: Vec<String> = RECIPES
        .iter()
        .map(|(name, ..)| format!("`{name}`"))
        .collect();
    let error = anyhow::anyhow!(
        "there is no recipe `{name}`\nhint: the recipes are {}",
        names.join(", ")
    );
    Err(BadInput(error).into())
}

/// A recipe file, or a recipe inside the program where no such file is.
///
/// # Errors
/// [`BadInput`] for an unknown name, a file that cannot be read and a wrong recipe.
pub fn read(name: &Path, set: &[String]) -> anyhow::Result<Recipe> {
    let is_file = name.extension().is_some() || name.components().count() > 1 || name.is_file();
    let read = match name.to_str().filter(|_| !is_file) {
        Some(known) => Recipe::parse(text_of(known)?, known, set),
        None => Recipe::read(name, set),
    };
    Ok(read.map_err(|error| BadInput(error.into()))?)
}

fn copy(name: &str, to: Option<PathBuf>) -> anyhow::Result<()> {
    let text = text_of(name)?;
    let to = to.unwrap_or_else(|| PathBuf::from(format!("{name}.toml")));
    if to.exists() {
        let error = anyhow::anyhow!("`{}` exists\nhint: name another file", to.display());
        return Err(BadInput(error).into());
    }
    std::fs::write(&to, text).with_context(|| format!("cannot write `{}`", to.display()))?;
    println!("{}", to.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_recipe_inside_the_program_is_valid() {
        for (name, _, text) in RECIPES {
            Recipe::parse(text, name, &[]).unwrap_or_else(|e| panic!("{e}"));
        }
    }

    #[test]
    fn a_copy_never_overwrites() {
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("recipe.toml");
        copy("demo", Some(to.clone())).unwrap();
        assert!(copy("demo", Some(to)).is_err());
        assert!(
            copy("demos", None)
                .unwrap_err()
                .to_string()
                .contains("`demo`")
        );
    }
}
