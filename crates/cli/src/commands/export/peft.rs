//! From an adapter that the `peft` package wrote to a partition.

use std::path::Path;

use anyhow::Context;
use marill_model::{Checkpoint, PeftAdapter, Transforms, peft::CONFIG_FILE};
use marill_numeric::{NumericSpec, Rounding};
use marill_partition::{ExportOptions, ExportReport};

use crate::{
    commands::export::write::{ExportAs, say_range},
    output::failure::BadInput,
};

/// The base that an adapter's own file names; it may be a path on another machine.
pub fn base_named_in(dir: &Path) -> Option<String> {
    let text = std::fs::read_to_string(dir.join(CONFIG_FILE)).ok()?;
    let config: serde_json::Value = serde_json::from_str(&text).ok()?;
    let name = config.get("base_model_name_or_path")?.as_str()?;
    (!name.trim().is_empty()).then(|| name.to_owned())
}

/// Opens an adapter and the base that it changes. An entry of `ignore` may stand for something in
/// either.
///
/// # Errors
/// Errors of both, and an entry that stands for nothing in either.
pub fn open(
    dir: &Path,
    base: &Path,
    ignore: &[String],
) -> anyhow::Result<(PeftAdapter, Checkpoint)> {
    let (base, unmet_in_base) = Checkpoint::open_ignoring_any(base, ignore)?;
    let (adapter, unmet) = PeftAdapter::open_ignoring(dir, base.config.llama()?, ignore)?;
    if let Some(entry) = unmet.iter().find(|entry| unmet_in_base.contains(entry)) {
        anyhow::bail!(
            "`--ignore {entry}` is no key, tensor or token of the base, and no key of \
             `{CONFIG_FILE}`"
        );
    }
    Ok((adapter, base))
}

/// Exports an adapter of PEFT. With `public_prefix` the layers below the first one that it changes
/// are public; otherwise every layer is private.
///
/// # Errors
/// [`BadInput`] where adapter or base are refused, or the export refuses them.
pub fn export(
    dir: &Path,
    base: &Path,
    out: &Path,
    told: &ExportAs<'_>,
    public_prefix: bool,
) -> anyhow::Result<ExportReport> {
    let work = || -> anyhow::Result<ExportReport> {
        let (found, base) = open(dir, base, told.ignore)
            .with_context(|| format!("`{}` cannot be exported", dir.display()))?;
        let config = base.config.llama()?;
        let frozen_layers = if public_prefix { found.first_layer } else { 0 };
        let transforms = Transforms {
            frozen_layers,
            lora: Some(found.lora.clone()),
            ..Default::default()
        };
        let opts = ExportOptions {
            name: told.name.into(),
            peft_lossy: told.peft_lossy,
            numeric: NumericSpec::with_rounding(told.rounding.unwrap_or(Rounding::Exact)),
            ..Default::default()
        };
        let adapter = found.from_layer(frozen_layers, config)?;
        let report = marill_partition::export(&base, &transforms, &adapter, out, &opts)?;
        say_layers(&found, frozen_layers, config.num_hidden_layers);
        say_range(&report);
        Ok(report)
    };
    work().map_err(|error| BadInput(error).into())
}

/// What becomes public and what private.
fn say_layers(found: &PeftAdapter, frozen: usize, layers: usize) {
    let named = |first: usize, behind: usize| match behind - first {
        1 => format!("layer {first}"),
        _ => format!("layers {first} to {}", behind - 1),
    };
    if frozen > 0 {
        eprintln!(
            "public, on the client: {}; under secure computation, with the adapter's factors \
             private: {}",
            named(0, frozen),
            named(frozen, layers)
        );
        return;
    }
    eprintln!(
        "under secure computation, with the adapter's factors private: {}",
        named(0, layers)
    );
    let first = found.first_layer;
    if first > 0 {
        eprintln!(
            "note: the adapter changes nothing in {}\n\
             hint: `--public-prefix` lets clients run that part in clear, which costs less per \
             token, and tells everyone which layers were tuned",
            named(0, first)
        );
    }
}
