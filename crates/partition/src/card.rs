//! The model card of a partition: what is where, and what each party learns.

use std::fmt::Write;

use marill_model::{HeadMethod, HeadTransform, ModelConfig};
use marill_numeric::{Rounding, approx::describe};

use crate::manifest::{BaseFormat, Manifest};

/// Who learns what in the settings with a dealer; also shown by `marill inspect`.
/// `docs/leakage.md` has
/// every row.
pub(crate) const PARTIES: [(&str, &str, &str); 3] = [
    (
        "client",
        "prompt, public part, output of the frozen layers, a seed",
        "the tokens of its own answer",
    ),
    (
        "server",
        "private part, a seed, the dealer's corrections",
        "lengths of prompt and answer (prompt in buckets), timing, which sessions are one client's",
    ),
    (
        "dealer",
        "both seeds",
        "shapes, number of steps, timing, a lasting name of each client; neither prompt nor \
         answer, and no weights unless its operator is a client too",
    ),
];

/// The limits that stand in every card and on the first screen of every description.
const LIMITS: [&str; 7] = [
    "Semi-honest: every party is assumed to follow the protocol. A cheating client may read the \
     private weights, because it computes one share itself: with a dealer at most 24 bits per \
     step. Budgets of API keys bound that.",
    "With a dealer who is honest, a server that cheats learns nothing of a prompt from frames, \
     whatever it sends: each frame that it gets is a fresh pad. It can spoil answers.",
    "In the setting `2pc`, which has no dealer, nothing bounds what a client that cheats learns of \
     the private weights, nor what a server that cheats learns of a prompt.",
    "Dealer and server together open prompts; dealer and client together open the private weights. \
     They must be run by different people, and the dealer's operator must not be able to be a \
     client: ask for API keys, and give it none. One operator running all roles is a \
     demonstration, not privacy.",
    "Owners who cannot rely on that should serve with a separate computing party (`--e0 party`): \
     clients then compute nothing and hold no masked weights.",
    "The answers themselves teach something about the weights; whoever may ask without limit may \
     imitate the model.",
    "128 bits of computational security (AES); research software, not audited.",
];

/// [`LIMITS`], and what the rounding leaves to be said about equality.
pub(crate) fn limits(rounding: Rounding) -> Vec<&'static str> {
    let equality = match rounding {
        Rounding::Exact => {
            "Equality with the cleartext twin is given the client's boundary integers and values \
             inside the stated range; outside it nothing is promised."
        }
        Rounding::Stochastic => {
            "Values are rounded stochastically, by randomness that the evaluators learn: answers \
             to one prompt may differ from time to time where two tokens are nearly equally \
             likely, and from the twin's. Outside the stated range nothing is promised."
        }
    };
    LIMITS.into_iter().chain([equality]).collect()
}

/// What the partition leaves to whoever serves it; `GET /v1/models` of a server says what it chose.
pub(crate) const CHOICES: [(&str, &str); 4] = [
    (
        "setting",
        "`dealer`; `3pc`: the dealer takes part in every session; `2pc`: there is none",
    ),
    (
        "first evaluator",
        "the client, or a separate computing party (`--e0 party`)",
    ),
    (
        "tokens",
        "greedy; sampled with a temperature and top-k where a client asks, unless the server is \
         `--greedy-only`",
    ),
    (
        "comparisons",
        "one-hot, or DCF where a client asks, unless the server is `--no-dcf`",
    ),
];

/// The card as Markdown.
pub(crate) fn render(manifest: &Manifest, has_peft_config: bool) -> String {
    let mut text = facts(manifest);
    for line in describe(&manifest.decoder.approx) {
        let _ = writeln!(text, "- approximated: {line}");
    }
    text.push_str(
        "\n## What each party holds and learns\n\nSetting `dealer`: the client and the server \
         compute, a dealer deals.\n\n",
    );
    text.push_str("| party | holds | learns |\n|---|---|---|\n");
    for (party, holds, learns) in PARTIES {
        let _ = writeln!(text, "| {party} | {holds} | {learns} |");
    }
    text.push_str("\n## What is published\n\n");
    for line in published(manifest) {
        let _ = writeln!(text, "- {line}");
    }
    text.push_str("\n## What its server decides\n\n| what | choices |\n|---|---|\n");
    for (what, choices) in CHOICES {
        let _ = writeln!(text, "| {what} | {choices} |");
    }
    text.push_str("\n## Limits\n\n");
    for limit in limits(manifest.decoder.numeric.rounding) {
        let _ = writeln!(text, "- {limit}");
    }
    text.push_str(peft_note(
        has_peft_config,
        manifest.transforms.heads.is_some(),
        !manifest.transforms.approx.is_none(),
    ));
    text
}

/// Whether the private part loads in PEFT.
fn peft_note(has_peft_config: bool, merged_heads: bool, approximated: bool) -> &'static str {
    if has_peft_config && (merged_heads || approximated) {
        "\n## PEFT\n\n`private/adapter_config.json` was asked for. PEFT knows neither merged \
         nor pruned heads nor approximations: there the adapter runs with the base's own \
         functions, and the answers differ from those of this model.\n"
    } else if has_peft_config {
        "\n## PEFT\n\nThe folder `private/` loads in PEFT as it is, on the same base.\n"
    } else if merged_heads {
        "\n## PEFT\n\nThere is no `adapter_config.json`: PEFT cannot express merged heads, and the \
         adapter on unmerged heads is another, worse model.\n"
    } else if approximated {
        "\n## PEFT\n\nThere is no `adapter_config.json`: PEFT cannot express approximations, and \
         the adapter on exact functions is another model.\n"
    } else {
        ""
    }
}

/// Base, layers, private part and numbers.
fn facts(manifest: &Manifest) -> String {
    let transforms = &manifest.transforms;
    let layers = manifest.config.num_hidden_layers();
    let frozen = transforms.frozen_layers;
    let mut text = format!(
        "# {}\n\nA partitioned language model for private inference with Marill.\n\n",
        manifest.name
    );
    let _ = writeln!(text, "- partition `{}`", manifest.partition_id);
    let _ = writeln!(
        text,
        "- base `{}`, tensors SHA-256 `{}`",
        manifest.base.name, manifest.base.tensor_digest
    );
    let _ = writeln!(
        text,
        "- layers 0 to {} of {layers} are public and run on the client's machine",
        frozen.max(1) - 1
    );
    let _ = writeln!(
        text,
        "- layers {frozen} to {} run under secure computation",
        layers - 1
    );
    if let Some(lora) = &transforms.lora {
        let named = |module: &String| match lora.ranks.is_empty() {
            true => format!("`{module}`"),
            false => format!("`{module}` ({})", lora.rank_of(module)),
        };
        let modules: Vec<String> = lora.target_modules.iter().map(named).collect();
        let _ = writeln!(
            text,
            "- private: low-rank factors of rank {} on {}{}",
            lora.ranks_said(),
            modules.join(", "),
            if lora.rslora {
                ", scaled over the square root of the rank (rsLoRA)"
            } else {
                ""
            }
        );
    }
    if manifest.decoder.is_full_rank() {
        let _ = writeln!(
            text,
            "- private: every linear map and norm of these layers (a full fine-tune); with a \
             dealer a client downloads {} bytes of masked matrices once, besides the public part",
            marill_mpc::MaskedAdapter::bytes_of(&manifest.decoder)
        );
    }
    if let Some(heads) = &transforms.heads {
        let _ = writeln!(text, "- {}", of_heads(heads, frozen));
    }
    let numeric = &manifest.decoder.numeric;
    let _ = writeln!(
        text,
        "- numbers: {} fractional bits ({} in the residual stream), rounding {}, format version \
         {}",
        numeric.frac_bits, numeric.residual_frac_bits, numeric.rounding, numeric.version
    );
    let bytes = manifest.public_bytes();
    let format = match manifest.base.format {
        BaseFormat::Gguf => "the base's own GGUF file, quantized as it is",
        BaseFormat::Safetensors => "the base's own safetensors files",
    };
    let _ = writeln!(text, "- the public part is {bytes} bytes: {format}");
    text
}

/// What became of the heads, in words.
fn of_heads(heads: &HeadTransform, frozen: usize) -> String {
    let what = match heads.method {
        HeadMethod::Merge => format!("{} query heads share each softmax", heads.merge),
        HeadMethod::Prune => format!("one of {} query heads is left", heads.merge),
    };
    let scale = match heads.scale {
        Some(scale) => format!("scale {scale}"),
        None => "scales of each head's own".into(),
    };
    let most = heads.groups.iter().map(Vec::len).max().unwrap_or_default();
    let least = heads.groups.iter().map(Vec::len).min().unwrap_or_default();
    let whole = (frozen..).zip(&heads.groups);
    let whole = whole.filter(|(_, groups)| least < most && groups.len() == most);
    let whole: Vec<String> = whole.map(|(layer, _)| layer.to_string()).collect();
    let but = match whole.len() {
        0 => String::new(),
        1 => format!(", but in layer {}", whole[0]),
        _ => format!(", but in layers {}", whole.join(", ")),
    };
    format!("{what} (`{}`, {scale}){but}", heads.grouping)
}

/// What the manifest gives away to everyone.
pub(crate) fn published(manifest: &Manifest) -> Vec<String> {
    let mut lines = vec![
        "which base model was tuned, and how many layers are private".to_string(),
        match manifest.decoder.is_full_rank() {
            true => "a SHA-256 of the private part, and that it is every linear map and norm of \
                these layers"
                .into(),
            false => {
                "a SHA-256 of the private part, its size, and with it the rank and the modules of \
                 the low-rank factors"
                    .into()
            }
        },
    ];
    if let Some(heads) = &manifest.transforms.heads {
        let what = match heads.method {
            HeadMethod::Merge => "the head groups of each private layer",
            HeadMethod::Prune => "which heads of each private layer are left",
        };
        let scales = match heads.scale {
            Some(_) => "the attention scale",
            None => "the attention scales",
        };
        // What was measured on training rows tells something of them, however little.
        let measured = match heads.measured {
            true => ", chosen by measuring on training rows",
            false => "",
        };
        let grouping = &heads.grouping;
        lines.push(format!("{what} (`{grouping}`) and {scales}{measured}"));
    }
    for line in describe(&manifest.decoder.approx) {
        lines.push(format!("what the private layers approximate, {line}"));
    }
    if !manifest.base.ignored.is_empty() {
        let names = manifest
            .base
            .ignored
            .iter()
            .map(|name| format!("`{name}`"))
            .collect::<Vec<_>>()
            .join(", ");
        lines.push(format!("what of the base's files was left out: {names}"));
    }
    lines.push("the numeric format".into());
    lines
}
