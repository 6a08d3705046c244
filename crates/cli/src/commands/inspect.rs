//! `marill inspect`: what is in a partition, what is published, what each party learns.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use marill_model::ModelConfig;
use marill_mpc::MaskedAdapter;
use marill_partition::{Manifest, Partition};
use marill_report::{Table, bytes, count};
use serde::Serialize;

use crate::output::failure::BadInput;

#[derive(clap::Args)]
pub struct Args {
    /// Folder of a partition: `manifest.json` and `public/`, on a server also `private/`
    dir: PathBuf,
    /// Also prove for which inputs no value overflows; needs the private part, and seconds to
    /// minutes
    #[arg(long)]
    range: bool,
    /// One JSON object on standard output
    #[arg(long)]
    json: bool,
}

/// One row of "who runs what".
#[derive(Serialize)]
struct LayerRow {
    layers: String,
    runs: &'static str,
    weights: String,
}

#[derive(Serialize)]
struct PrivateTensor {
    name: String,
    shape: Vec<usize>,
    bytes: u64,
}

#[derive(Serialize)]
struct Learned {
    party: &'static str,
    holds: &'static str,
    learns: &'static str,
}

#[derive(Serialize)]
struct Choice {
    what: &'static str,
    choices: &'static str,
}

/// Everything `inspect` says, as one object.
#[derive(Serialize)]
struct Findings<'a> {
    manifest: &'a Manifest,
    layers: Vec<LayerRow>,
    /// Empty where the folder holds the public part only.
    private_tensors: Vec<PrivateTensor>,
    has_private_part: bool,
    public_bytes: u64,
    /// What a client downloads of the private part, under its mask.
    masked_bytes: usize,
    head_groups: Vec<Vec<Vec<usize>>>,
    softmaxes_a_layer: Vec<usize>,
    /// A sentence for each function that the private layers approximate.
    approximations: Vec<String>,
    published: Vec<String>,
    parties: Vec<Learned>,
    /// What is decided when the partition is served.
    choices: Vec<Choice>,
    limits: Vec<&'static str>,
    /// With `--range` only.
    #[serde(skip_serializing_if = "Option::is_none")]
    range: Option<String>,
}

/// Checks the partition's digests and prints what it holds.
///
/// # Errors
/// [`BadInput`] when the partition is incomplete, altered or of another schema.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let has_private = args.dir.join("private").is_dir();
    let opened = if has_private {
        Partition::open(&args.dir)
    } else {
        Partition::open_public(&args.dir)
    };
    let partition = opened.map_err(|error| BadInput(error.into()))?;
    let mut findings = gather(&partition);
    if args.range {
        let outcome =
            marill_partition::range_of(&partition).map_err(|error| BadInput(error.into()))?;
        findings.range = Some(marill_partition::describe_range(&outcome));
    }
    if args.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&findings).context("cannot write JSON")?
        );
    } else {
        print!("{}", render(&findings));
    }
    Ok(ExitCode::SUCCESS)
}

/// Which party runs which layers, and on whose weights.
fn layer_rows(manifest: &Manifest) -> Vec<LayerRow> {
    let layers = manifest.config.num_hidden_layers();
    let frozen = manifest.transforms.frozen_layers;
    let range = |from: usize, to: usize| {
        if from + 1 == to {
            format!("{from}")
        } else {
            format!("{from}-{}", to - 1)
        }
    };
    let mut rows = Vec::new();
    let prefix = if frozen == 0 {
        "embedding".into()
    } else {
        format!("embedding, {}", range(0, frozen))
    };
    rows.push(LayerRow {
        layers: prefix,
        runs: "client, in clear",
        weights: "base, bit for bit".into(),
    });
    let private = match &manifest.transforms.lora {
        _ if manifest.decoder.is_full_rank() => "every linear map and norm (private)".into(),
        Some(lora) => format!(
            "base (public) + rank {} on {} modules (private)",
            lora.ranks_said(),
            lora.target_modules.len()
        ),
        None => "base (public)".into(),
    };
    rows.push(LayerRow {
        layers: range(frozen, layers),
        runs: "client and server, under MPC",
        weights: private,
    });
    rows.push(LayerRow {
        layers: "final norm, head, arg-max".into(),
        runs: "client and server, under MPC",
        weights: "base (public)".into(),
    });
    rows
}

fn gather(partition: &Partition) -> Findings<'_> {
    let manifest = &partition.manifest;
    let private_tensors = partition.private().map_or_else(Vec::new, |private| {
        let described = private
            .tensors()
            .iter()
            .map(|(name, tensor)| PrivateTensor {
                name: name.clone(),
                shape: tensor.dims().to_vec(),
                bytes: 4 * tensor.elem_count() as u64,
            });
        described.collect()
    });
    Findings {
        manifest,
        layers: layer_rows(manifest),
        has_private_part: partition.private().is_some(),
        private_tensors,
        public_bytes: manifest.public_bytes(),
        masked_bytes: MaskedAdapter::bytes_of(&manifest.decoder),
        head_groups: head_groups(manifest),
        softmaxes_a_layer: manifest.decoder.head_groups.iter().map(Vec::len).collect(),
        approximations: marill_numeric::approx::describe(&manifest.decoder.approx),
        published: marill_partition::published(manifest),
        parties: marill_partition::parties()
            .iter()
            .map(|&(party, holds, learns)| Learned {
                party,
                holds,
                learns,
            })
            .collect(),
        choices: marill_partition::choices()
            .iter()
            .map(|&(what, choices)| Choice { what, choices })
            .collect(),
        limits: marill_partition::limits(manifest),
        range: None,
    }
}

fn render(findings: &Findings<'_>) -> String {
    let manifest = findings.manifest;
    let numeric = &manifest.decoder.numeric;
    let mut text = format!(
        "{}\n\npartition  {}\nbase       {} ({})\npublic     {} to download once, and {} of the \
         private part under its mask\n",
        manifest.name,
        manifest.partition_id,
        manifest.base.name,
        manifest.base.tensor_digest,
        bytes(findings.public_bytes),
        bytes(findings.masked_bytes as u64)
    );
    text += &format!(
        "numbers    {} fractional bits, {} in the residual stream, rounding {}, version {} \
         ({})\nreveals    the token, to the client alone\n\n",
        numeric.frac_bits,
        numeric.residual_frac_bits,
        numeric.rounding,
        numeric.version,
        &numeric.digest()[..12]
    );
    let mut layers = Table::new(["layers", "run by", "weights"]);
    for row in &findings.layers {
        layers.row([row.layers.as_str(), row.runs, row.weights.as_str()]);
    }
    text += &layers.markdown();
    text += "\n\n";
    text += &render_heads(findings);
    text += &render_approximations(findings);
    if findings.has_private_part {
        let total: u64 = findings
            .private_tensors
            .iter()
            .map(|tensor| tensor.bytes)
            .sum();
        let mut private = Table::new(["private tensor", "shape", "bytes each"]).right(&[2]);
        for (name, tensor) in fold_layers(&findings.private_tensors) {
            private.row([name, format!("{:?}", tensor.shape), count(tensor.bytes)]);
        }
        text += &format!(
            "{}\n\n{} private tensors, {}\n\n",
            private.markdown(),
            findings.private_tensors.len(),
            bytes(total)
        );
    } else {
        text += "no private part here: this folder is what a client gets\n\n";
    }
    let mut parties = Table::new(["party", "holds", "learns"]);
    for party in &findings.parties {
        parties.row([party.party, party.holds, party.learns]);
    }
    text += &format!("{}\n\npublished with the manifest:\n", parties.markdown());
    for line in &findings.published {
        text += &format!("- {line}\n");
    }
    let mut choices = Table::new(["its server decides", "choices"]);
    for choice in &findings.choices {
        choices.row([choice.what, choice.choices]);
    }
    text += &format!("\n{}\n", choices.markdown());
    if let Some(range) = &findings.range {
        text += &format!("\nrange: {range}\n");
    }
    text += "\nlimits:\n";
    for limit in &findings.limits {
        text += &format!("- {limit}\n");
    }
    text
}

/// One row for a tensor that stands in many layers, named by its first and last layer.
fn fold_layers(tensors: &[PrivateTensor]) -> Vec<(String, &PrivateTensor)> {
    let split = |name: &str| -> Option<(String, usize, String)> {
        let (head, rest) = name.split_once(".layers.")?;
        let (layer, tail) = rest.split_once('.')?;
        Some((head.to_owned(), layer.parse().ok()?, tail.to_owned()))
    };
    let mut rows: Vec<(Option<(String, usize, usize, String)>, &PrivateTensor)> = Vec::new();
    for tensor in tensors {
        let Some((head, layer, tail)) = split(&tensor.name) else {
            rows.push((None, tensor));
            continue;
        };
        let same = rows.iter_mut().find(|(key, first)| {
            first.shape == tensor.shape
                && key
                    .as_ref()
                    .is_some_and(|(h, _, last, t)| *h == head && *t == tail && *last + 1 == layer)
        });
        match same {
            Some((Some((_, _, last, _)), _)) => *last = layer,
            _ => rows.push((Some((head, layer, layer, tail)), tensor)),
        }
    }
    let name = |key: Option<(String, usize, usize, String)>, tensor: &PrivateTensor| match key {
        Some((head, first, last, tail)) if first < last => {
            format!("{head}.layers.{first}-{last}.{tail}")
        }
        _ => tensor.name.clone(),
    };
    rows.into_iter()
        .map(|(key, tensor)| (name(key, tensor), tensor))
        .collect()
}

fn render_approximations(findings: &Findings<'_>) -> String {
    let lines = findings.approximations.iter();
    lines
        .map(|line| format!("approximated  {line}\n\n"))
        .collect()
}

/// By the base's own numbers of its heads, where some are left out too.
fn head_groups(manifest: &Manifest) -> Vec<Vec<Vec<usize>>> {
    let heads = manifest.transforms.heads.as_ref();
    heads.map_or_else(
        || manifest.decoder.head_groups.clone(),
        |heads| heads.groups.clone(),
    )
}

fn render_heads(findings: &Findings<'_>) -> String {
    let heads = findings.manifest.decoder.num_attention_heads;
    let Some(groups) = findings.head_groups.first() else {
        return String::new();
    };
    let show = |groups: &[Vec<usize>]| {
        let parts: Vec<String> = groups
            .iter()
            .map(|g| {
                format!(
                    "{{{}}}",
                    g.iter()
                        .map(ToString::to_string)
                        .collect::<Vec<_>>()
                        .join(",")
                )
            })
            .collect();
        parts.join(" ")
    };
    if findings.head_groups.iter().all(|layer| layer == groups) {
        return format!(
            "head groups  {} softmaxes for {heads} heads in every private layer: {}\n\n",
            groups.len(),
            show(groups)
        );
    }
    let first = findings.manifest.transforms.frozen_layers;
    let lines = findings
        .head_groups
        .iter()
        .zip(first..)
        .map(|(groups, layer)| format!("  layer {layer}: {}\n", show(groups)));
    format!("head groups\n{}\n", lines.collect::<String>())
}
