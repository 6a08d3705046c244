//! Writing a partition, and checking what was written.

use std::path::{Path, PathBuf};

use candle_core::Tensor;
use marill_model::{Adapter, Checkpoint, ModelConfig, ModelError, Transforms};
use marill_mpc::{
    PrivateForm, PrivateWeights, ProgramSpec, PublicWeights,
    reference::range::{Proof, Unproved},
};
use marill_numeric::NumericSpec;

use crate::{
    Partition, PartitionError, PrivatePart, card,
    layers::floats,
    llama,
    manifest::{Base, BaseFormat, FileEntry, ID_FILE, Manifest, Reveal, SCHEMA},
};

/// What [`export`] may be told besides the model itself.
#[derive(Default)]
pub struct ExportOptions<'a> {
    /// A name for people; the base's file name when empty.
    pub name: String,
    /// What the manifest calls the base; its file's or folder's name when empty.
    pub base_name: String,
    pub numeric: NumericSpec,
    /// A full checkpoint of the fine-tuned model, when training kept one: everything in it would be
    /// published, so it must equal the base bit for bit.
    pub model: Option<&'a Checkpoint>,
    /// Write `adapter_config.json` even where PEFT cannot express the heads or approximations.
    pub peft_lossy: bool,
    /// Hears what is being done.
    pub progress: Option<&'a dyn Fn(ExportStage)>,
}

/// A part of an export, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExportStage {
    /// Weights become integers.
    Weights,
    /// Envelopes for which a proof was tried, and all that will be.
    Ranges {
        done: usize,
        all: usize,
    },
    Writing,
    /// What was written is read again and compared.
    Checking,
}

impl ExportOptions<'_> {
    fn tell(&self, stage: ExportStage) {
        if let Some(progress) = self.progress {
            progress(stage);
        }
    }

    /// The range analysis, told as it goes on.
    fn analyze(&self, public: &PublicWeights, private: PrivateWeights) -> Result<Proof, Unproved> {
        crate::range::analyze(public, private, &mut |done, all| {
            self.tell(ExportStage::Ranges { done, all });
        })
    }
}

/// What was written.
#[derive(Debug, Clone)]
pub struct ExportReport {
    pub partition_id: String,
    pub dir: PathBuf,
    /// What a client downloads once.
    pub public_bytes: u64,
    pub private_bytes: u64,
    /// How many layers a client runs in clear, and how many are run under secure computation.
    pub public_layers: usize,
    pub private_layers: usize,
    pub wrote_peft_config: bool,
    /// Over which inputs no value overflows, or what keeps that from being proved. It depends on
    /// the private part a little, so it is told to the owner and not written into the partition.
    pub range: Result<Proof, Unproved>,
    /// What [`crate::measure_range`] found where `range` is no proof and rows are at hand; the
    /// export itself has none.
    pub measured: Option<crate::Measured>,
}

/// Writes the partition of `base` with `transforms` and `adapter` into the new folder `out_dir`.
///
/// The folder appears complete or not at all. The written base is opened again and compared with
/// `base` value by value; the private part holds the low-rank factors that `transforms` lists and
/// nothing else. A full fine-tune is for [`export_full`].
///
/// # Errors
/// [`PartitionError::PublicPartDiffers`] naming the tensor when `opts.model` is not the base,
/// [`PartitionError::PrivateTensor`] when the adapter holds anything else, and errors of files and
/// shapes.
pub fn export(
    base: &Checkpoint,
    transforms: &Transforms,
    adapter: &Adapter,
    out_dir: &Path,
    opts: &ExportOptions<'_>,
) -> Result<ExportReport, PartitionError> {
    transforms.check(&base.config)?;
    if let Some(model) = opts.model {
        same_tensors(base, model, None)?;
    }
    let private = PrivatePart::LowRank(adapter.clone());
    private.check(base, transforms)?;
    let decoder = llama::program_spec(&base.config, transforms, opts.numeric.clone())?;
    // Weights that do not fit the numeric format are found now rather than when the server starts.
    opts.tell(ExportStage::Weights);
    let public = llama::public_weights(&decoder, base, transforms)?;
    let integers = llama::private_weights(&public, &base.config, transforms, adapter)?;
    let range = opts.analyze(&public, integers);
    drop(public);
    write(base, transforms, &private, out_dir, decoder, range, opts)
}

/// As [`export()`] for an ordinary full fine-tune: every linear map and norm of the private layers
/// of `model` is private.
///
/// # Errors
/// [`PartitionError::PublicPartDiffers`] naming a tensor outside the private layers in which
/// `model` is not the base: embedding, final norm and head would be published, and so would frozen
/// layers. As [`export()`].
pub fn export_full(
    base: &Checkpoint,
    transforms: &Transforms,
    model: &Checkpoint,
    out_dir: &Path,
    opts: &ExportOptions<'_>,
) -> Result<ExportReport, PartitionError> {
    transforms.check(&base.config)?;
    if transforms.lora.is_some() {
        let tensor = String::from("lora");
        let reason = "a full fine-tune has no low-rank factors".into();
        return Err(PartitionError::PrivateTensor { tensor, reason });
    }
    same_tensors(base, model, Some(transforms.frozen_layers))?;
    let private = PrivatePart::layers_of(model, transforms.frozen_layers)?;
    private.check(base, transforms)?;
    let decoder = llama::program_spec(&base.config, transforms, opts.numeric.clone())?;
    let decoder = ProgramSpec {
        private: PrivateForm::FullRank,
        ..decoder
    };
    opts.tell(ExportStage::Weights);
    let public = llama::public_weights(&decoder, base, transforms)?;
    let integers = llama::full_weights(&decoder, &base.config, transforms, private.tensors())?;
    let range = opts.analyze(&public, integers);
    drop(public);
    write(base, transforms, &private, out_dir, decoder, range, opts)
}

/// How many first layers of `model` are the base's, bit for bit: what may stay public of a full
/// fine-tune.
///
/// # Errors
/// [`PartitionError::PublicPartMissing`] when the two do not have the same tensors.
pub fn shared_layers(base: &Checkpoint, model: &Checkpoint) -> Result<usize, PartitionError> {
    let layers = base.config.num_hidden_layers();
    for layer in 0..layers {
        let of_layer = |name: &&String| base.config.layer_of(name) == Some(layer);
        for name in base.tensors.keys().filter(of_layer) {
            let theirs = model.tensors.get(name);
            let theirs = theirs.ok_or_else(|| PartitionError::PublicPartMissing {
                tensor: name.clone(),
            })?;
            if bits(&base.tensors[name])? != bits(theirs)? {
                return Ok(layer);
            }
        }
    }
    Ok(layers)
}

/// Writes beside the place and moves it there when it is complete and checked.
fn write(
    base: &Checkpoint,
    transforms: &Transforms,
    private: &PrivatePart,
    out_dir: &Path,
    decoder: ProgramSpec,
    range: Result<Proof, Unproved>,
    opts: &ExportOptions<'_>,
) -> Result<ExportReport, PartitionError> {
    let occupied = out_dir
        .read_dir()
        .is_ok_and(|mut entries| entries.next().is_some());
    if occupied || out_dir.is_file() {
        return Err(PartitionError::OutputExists {
            path: out_dir.into(),
        });
    }
    let staging = staging_folder(out_dir)?;
    opts.tell(ExportStage::Writing);
    let result =
        write_all(base, transforms, private, &staging, decoder, range, opts).and_then(|report| {
            opts.tell(ExportStage::Checking);
            verify_written(base, &staging).map(|()| report)
        });
    match result {
        Ok(report) => {
            if out_dir.is_dir() {
                std::fs::remove_dir(out_dir).map_err(PartitionError::io(out_dir))?;
            }
            std::fs::rename(&staging, out_dir).map_err(PartitionError::io(out_dir))?;
            Ok(ExportReport {
                dir: out_dir.into(),
                ..report
            })
        }
        Err(error) => {
            // The first error is the one to report.
            let _ = std::fs::remove_dir_all(&staging);
            Err(error)
        }
    }
}

fn staging_folder(out_dir: &Path) -> Result<PathBuf, PartitionError> {
    let mut name = out_dir.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".partial-{}", std::process::id()));
    let staging = out_dir.with_file_name(name);
    if staging.exists() {
        std::fs::remove_dir_all(&staging).map_err(PartitionError::io(&staging))?;
    }
    for folder in ["public", "private"] {
        let path = staging.join(folder);
        std::fs::create_dir_all(&path).map_err(PartitionError::io(&path))?;
    }
    Ok(staging)
}

fn write_all(
    base: &Checkpoint,
    transforms: &Transforms,
    private: &PrivatePart,
    dir: &Path,
    decoder: ProgramSpec,
    range: Result<Proof, Unproved>,
    opts: &ExportOptions<'_>,
) -> Result<ExportReport, PartitionError> {
    let (format, public) = write_base(base, dir)?;
    private.save(dir)?;
    let mut private = vec![private.file().to_string()];
    // PEFT knows neither merged heads nor approximations: what it would run is another model.
    let exact = transforms.heads.is_none() && transforms.approx.is_none();
    // Nor updates of a part of a map.
    let fused = base.config.llama()?.is_fused();
    let wrote_peft_config = transforms.lora.is_some() && !fused && (exact || opts.peft_lossy);
    if wrote_peft_config {
        private.push("private/adapter_config.json".into());
        write_peft_config(base, transforms, &dir.join("private/adapter_config.json"))?;
    }
    let entries = |paths: Vec<String>| {
        paths
            .iter()
            .map(|path| FileEntry::of(dir, path))
            .collect::<Result<Vec<_>, _>>()
    };
    let base_name = if opts.base_name.is_empty() {
        base_name(base)
    } else {
        opts.base_name.clone()
    };
    let mut manifest = Manifest {
        schema: SCHEMA,
        partition_id: String::new(),
        name: if opts.name.is_empty() {
            base_name.clone()
        } else {
            opts.name.clone()
        },
        marill_version: env!("CARGO_PKG_VERSION").into(),
        base: Base {
            name: base_name,
            format,
            tensor_digest: base.digest(),
            ignored: base.ignored.clone(),
        },
        config: base.config.clone(),
        transforms: transforms.clone(),
        decoder,
        reveal: Reveal::Token,
        public_files: entries(public)?,
        private_files: entries(private)?,
    };
    manifest.partition_id = manifest.compute_id();
    for folder in ["public", "private"] {
        let path = dir.join(folder).join(ID_FILE);
        std::fs::write(&path, format!("{}\n", manifest.partition_id))
            .map_err(PartitionError::io(path))?;
    }
    manifest.save(dir)?;
    let card_path = dir.join("README.md");
    std::fs::write(&card_path, card::render(&manifest, wrote_peft_config))
        .map_err(PartitionError::io(card_path))?;
    Ok(ExportReport {
        partition_id: manifest.partition_id.clone(),
        dir: dir.into(),
        public_bytes: manifest.public_bytes(),
        private_bytes: manifest.private_files.iter().map(|file| file.bytes).sum(),
        public_layers: transforms.frozen_layers,
        private_layers: transforms.private_layers(&base.config),
        wrote_peft_config,
        range,
        measured: None,
    })
}

/// Copies the base as it is stored; returns the listed paths.
fn write_base(base: &Checkpoint, dir: &Path) -> Result<(BaseFormat, Vec<String>), PartitionError> {
    let has_ending = |path: &Path, ending: &str| path.extension().is_some_and(|e| e == ending);
    let copy = |from: &Path, to: &str| {
        let label = dir.join(to);
        // A failed copy does not say which side failed.
        let failed = if std::fs::File::open(from).is_ok() {
            &label
        } else {
            from
        };
        std::fs::copy(from, &label)
            .map(|_| to.to_string())
            .map_err(PartitionError::io(failed))
    };
    if let Some(gguf) = base.files.iter().find(|path| has_ending(path, "gguf")) {
        return Ok((BaseFormat::Gguf, vec![copy(gguf, "public/base.gguf")?]));
    }
    let mut listed = Vec::new();
    for file in base
        .files
        .iter()
        .filter(|path| has_ending(path, "safetensors"))
    {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        listed.push(copy(file, &format!("public/{name}"))?);
    }
    if listed.is_empty() {
        return Err(ModelError::NotACheckpoint {
            path: base.files.first().cloned().unwrap_or_default(),
        }
        .into());
    }
    write_json(&dir.join("public/config.json"), &base.config)?;
    write_json(
        &dir.join("public/tokenizer_config.json"),
        &base.tokenizer_config(),
    )?;
    base.tokenizer.save(&dir.join("public/tokenizer.json"))?;
    listed.extend(
        ["config.json", "tokenizer.json", "tokenizer_config.json"]
            .map(|name| format!("public/{name}")),
    );
    Ok((BaseFormat::Safetensors, listed))
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<(), PartitionError> {
    let text = serde_json::to_string_pretty(value).expect("a plain value serializes");
    std::fs::write(path, text + "\n").map_err(PartitionError::io(path))
}

/// PEFT's description of the same factors; its field names.
fn write_peft_config(
    base: &Checkpoint,
    transforms: &Transforms,
    path: &Path,
) -> Result<(), PartitionError> {
    let Some(lora) = &transforms.lora else {
        return Ok(());
    };
    let layers: Vec<usize> = (transforms.frozen_layers..base.config.num_hidden_layers()).collect();
    let mut config = serde_json::json!({
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base_name(base),
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": false,
        "inference_mode": true,
        "target_modules": lora.target_modules,
        "layers_to_transform": layers,
        "layers_pattern": "layers",
    });
    // Left out where it is PEFT's default, so that the file and its digest stay what they are.
    if lora.rslora {
        config["use_rslora"] = true.into();
    }
    // PEFT takes alpha over each one's own rank, as here.
    if !lora.ranks.is_empty() {
        config["rank_pattern"] = serde_json::json!(lora.ranks);
    }
    write_json(path, &config)
}

fn base_name(base: &Checkpoint) -> String {
    let file = base.files.first().cloned().unwrap_or_default();
    let named = if file.extension().is_some_and(|e| e == "gguf") {
        file.file_stem()
    } else {
        file.parent().and_then(Path::file_name)
    };
    named.map_or_else(|| "base".into(), |name| name.to_string_lossy().into_owned())
}

/// What lies on the disk is the base, value by value, and opens as a partition.
fn verify_written(base: &Checkpoint, dir: &Path) -> Result<(), PartitionError> {
    let written = Partition::open(dir)?;
    same_tensors(base, written.base(), None)
}

/// Equality of all tensors, as bits, or of those before and outside the private layers.
fn same_tensors(
    base: &Checkpoint,
    model: &Checkpoint,
    private_from: Option<usize>,
) -> Result<(), PartitionError> {
    let odd = |name: &String| !base.tensors.contains_key(name) || !model.tensors.contains_key(name);
    if let Some(tensor) = base
        .tensors
        .keys()
        .chain(model.tensors.keys())
        .find(|name| odd(name))
    {
        return Err(PartitionError::PublicPartMissing {
            tensor: tensor.clone(),
        });
    }
    for (name, ours) in &base.tensors {
        let layer = base.config.layer_of(name);
        let private = private_from.is_some_and(|first| layer >= Some(first));
        if private && !base.config.is_public(name) {
            continue;
        }
        let ours = bits(ours)?;
        let theirs = bits(&model.tensors[name])?;
        let differs = ours.iter().zip(&theirs).position(|(a, b)| a != b);
        let shorter = (ours.len() != theirs.len()).then(|| ours.len().min(theirs.len()));
        if private && (differs.is_some() || shorter.is_some()) {
            let tensor = name.clone();
            let reason = "it is a public row of the secure program, and differs from the base's";
            return Err(PartitionError::PrivateTensor {
                tensor,
                reason: reason.into(),
            });
        }
        if let Some(element) = differs.or(shorter) {
            return Err(PartitionError::PublicPartDiffers {
                tensor: name.clone(),
                element,
            });
        }
    }
    Ok(())
}

fn bits(tensor: &Tensor) -> Result<Vec<u32>, PartitionError> {
    Ok(floats(tensor)?.into_iter().map(f32::to_bits).collect())
}
