//! `marill merge`: base and adapter as one checkpoint of safetensors, which other programs open.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use marill_model::{Adapter, Checkpoint, TensorDtype, Transforms};
use marill_recipe::Recipe;
use marill_report::bytes;

use crate::{
    args::base_model::Search,
    commands::export::{Given, peft, without_base},
    output::failure::BadInput,
};

#[derive(clap::Args)]
pub struct Args {
    /// Output folder of `marill train`, or an adapter of PEFT
    adapter: PathBuf,
    /// The base model, where no recipe says it or it is no longer there: a path, or a name on the
    /// hub
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    /// The new folder
    #[arg(long, short, value_name = "DIR")]
    out: PathBuf,
    /// How weights are stored; 16 bits round them
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = ["f32", "bf16", "f16"])]
    dtype: String,
    /// Go on although this key, tensor or token is not used (again for each; `*` for one part of a
    /// name)
    #[arg(long, value_name = "KEY")]
    ignore: Vec<String>,
    #[command(flatten)]
    search: Search,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// # Errors
/// [`BadInput`] for what cannot be one checkpoint, a missing base or an occupied folder.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let merged = merged(args).map_err(|error| match error.is::<BadInput>() {
        true => error,
        false => BadInput(error).into(),
    })?;
    let written = write(&merged, &args.out, dtype(&args.dtype))?;
    eprintln!(
        "warning: `{}` holds the private adapter inside its weights: whoever has this folder has \
         the fine-tuned model",
        args.out.display()
    );
    if args.json {
        let json = serde_json::json!({
            "dir": args.out, "bytes": written, "dtype": args.dtype,
            "tensor_digest": merged.digest(),
        });
        println!("{json:#}");
    } else {
        println!("{}", args.out.display());
        eprintln!("{} of weights in {}", bytes(written), args.dtype);
    }
    Ok(ExitCode::SUCCESS)
}

fn dtype(name: &str) -> TensorDtype {
    match name {
        "f16" => TensorDtype::F16,
        "bf16" => TensorDtype::BF16,
        _ => TensorDtype::F32,
    }
}

/// The base with the adapter's updates in its weights.
fn merged(args: &Args) -> anyhow::Result<Checkpoint> {
    let dir = &args.adapter;
    let occupied = args.out.read_dir();
    let occupied = occupied.is_ok_and(|mut entries| entries.next().is_some());
    anyhow::ensure!(
        !occupied && !args.out.is_file(),
        "`{}` is there already, and is no empty folder\nhint: name a new one",
        args.out.display()
    );
    let base = args.base.as_ref();
    let base = base.map(|base| args.search.named(base, args.json));
    let base = base.transpose()?;
    match (Given::of(dir), base) {
        (Given::Run, base) => of_run(args, dir, base),
        (Given::Adapter, Some(base)) => {
            let (found, base) = peft::open(dir, &base, &args.ignore)?;
            let adapter = found.from_layer(found.first_layer, base.config.llama()?)?;
            Ok(base.merged(&found.lora, &adapter)?)
        }
        (Given::Checkpoint, Some(_)) => anyhow::bail!(
            "`{}` is a whole checkpoint already: there is nothing to merge",
            dir.display()
        ),
        (given, None) => Err(without_base(dir, given).into()),
    }
}

fn of_run(args: &Args, dir: &Path, base: Option<PathBuf>) -> anyhow::Result<Checkpoint> {
    let shown = dir.display();
    let recipe = Recipe::read(&dir.join("recipe.toml"), &[])?;
    anyhow::ensure!(
        !dir.join("model/config.json").is_file(),
        "`{shown}` is a full fine-tune: `{shown}/model` is a whole checkpoint already"
    );
    let adapter = dir.join("adapter.safetensors");
    anyhow::ensure!(
        adapter.is_file(),
        "`{shown}` has no `adapter.safetensors`\nhint: let `marill train` finish it"
    );
    let transforms = Transforms::load(&dir.join("transforms.json"))?;
    let cannot = |what: &str, why: &str| {
        anyhow::anyhow!(
            "`{shown}` cannot be merged: {what}, and {why}\n\
             hint: `marill export {shown}` writes what serves it"
        )
    };
    if transforms.heads.is_some() {
        let why = "no `config.json` can say which heads share a softmax";
        return Err(cannot(
            "its private layers have merged or pruned heads",
            why,
        ));
    }
    if !transforms.approx.is_none() {
        let why = "other programs compute the exact functions";
        return Err(cannot("its private layers approximate functions", why));
    }
    let lora = transforms.lora.as_ref();
    let lora = lora.with_context(|| format!("`{shown}` has no low-rank factors"))?;
    let base = match base {
        Some(base) => base,
        None => args.search.base(&recipe, dir)?,
    };
    let ignore = [recipe.model.ignore.as_slice(), &args.ignore].concat();
    let base = Checkpoint::open_ignoring(&base, &ignore)?;
    let adapter = Adapter::load(&adapter)?;
    adapter.check(&base.config, lora, transforms.frozen_layers)?;
    Ok(base.merged(lora, &adapter)?)
}

/// Writes beside the place and moves it there when it is complete; returns the size of the weights.
fn write(merged: &Checkpoint, out: &Path, dtype: TensorDtype) -> anyhow::Result<u64> {
    let mut name = out.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".partial-{}", std::process::id()));
    let staging = out.with_file_name(name);
    let work = || -> anyhow::Result<u64> {
        merged.save(&staging, dtype)?;
        // What was rounded may no longer be a number.
        Checkpoint::open(&staging).context("what was written cannot be opened")?;
        let written = std::fs::metadata(staging.join("model.safetensors"))?.len();
        if out.is_dir() {
            std::fs::remove_dir(out)?;
        }
        std::fs::rename(&staging, out)?;
        Ok(written)
    };
    let done = work();
    if done.is_err() {
        // The first error is the one to report.
        let _ = std::fs::remove_dir_all(&staging);
    }
    done.with_context(|| format!("`{}` could not be written", out.display()))
}
