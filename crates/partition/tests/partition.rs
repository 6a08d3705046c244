//! Export, open, and everything that must be refused.

use std::{
    fs,
    path::{Path, PathBuf},
};

use candle_core::Tensor;
use marill_model::{Adapter, Checkpoint, Transforms};
use marill_partition::{
    ADAPTER_FILE, ExportOptions, ExportStage, Partition, PartitionError, describe_range, export,
    range_of,
};
use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};

struct Fixture {
    dir: tempfile::TempDir,
    base: Checkpoint,
    transforms: Transforms,
    adapter: Adapter,
}

impl Fixture {
    fn new(merged: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = tiny_base(&dir.path().join("base"), 1).unwrap();
        let transforms = tiny_transforms(&base.config, merged);
        let adapter = tiny_adapter(&base.config, &transforms, 2).unwrap();
        Self {
            dir,
            base,
            transforms,
            adapter,
        }
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn export(&self, name: &str) -> Result<PathBuf, PartitionError> {
        export(
            &self.base,
            &self.transforms,
            &self.adapter,
            &self.out(name),
            &ExportOptions::default(),
        )
        .map(|r| r.dir)
    }
}

fn refusal(dir: &Path) -> String {
    Partition::open(dir)
        .err()
        .expect("must be refused")
        .to_string()
}

/// Flips one bit of one value.
fn flip_bit(tensor: &Tensor, element: usize, bit: u32) -> Tensor {
    let mut values: Vec<f32> = tensor.flatten_all().unwrap().to_vec1().unwrap();
    values[element] = f32::from_bits(values[element].to_bits() ^ (1 << bit));
    Tensor::from_vec(values, tensor.dims(), tensor.device()).unwrap()
}

#[test]
fn a_partition_opens_as_what_was_exported() {
    let fixture = Fixture::new(true);
    let dir = fixture.export("out").unwrap();
    let server = Partition::open(&dir).unwrap();
    assert_eq!(server.base().digest(), fixture.base.digest());
    assert_eq!(server.manifest.base.tensor_digest, fixture.base.digest());
    assert_eq!(server.manifest.transforms, fixture.transforms);
    assert_eq!(server.program_spec().num_layers, 2);
    assert_eq!(server.program_spec().head_groups[0], [[0, 2], [1, 3]]);
    assert_eq!(server.adapter().unwrap().tensors.len(), 2 * 7 * 2);
    let public = server.public_weights().unwrap();
    server.private_weights(&public).unwrap();
    assert_eq!(server.prefix().unwrap().layers(), 2);
    assert!(
        !dir.join("private/adapter_config.json").exists(),
        "PEFT cannot express merged heads"
    );
    let card = fs::read_to_string(dir.join("README.md")).unwrap();
    assert!(
        card.contains("Semi-honest") && card.contains("PEFT cannot express merged heads"),
        "{card}"
    );
}

#[test]
fn a_client_needs_the_manifest_and_the_public_part_only() {
    let fixture = Fixture::new(true);
    let dir = fixture.export("out").unwrap();
    let id = Partition::open(&dir).unwrap().partition_id().to_string();
    fs::remove_dir_all(dir.join("private")).unwrap();
    let client = Partition::open_public(&dir).unwrap();
    assert_eq!(client.partition_id(), id);
    assert!(client.adapter().is_none());
    assert!(refusal(&dir).contains("holds only what a client gets"));
}

/// The same factors with alpha over the rank, and with what over its root gives the same scale.
#[test]
fn a_scale_over_the_root_reaches_the_integers_and_peft() {
    let plain = Fixture::new(false);
    let mut rooted = Fixture::new(false);
    let lora = rooted.transforms.lora.as_mut().unwrap();
    lora.rslora = true;
    lora.alpha /= (lora.rank as f64).sqrt();
    let integers = |fixture: &Fixture| {
        let dir = fixture.export("out").unwrap();
        let server = Partition::open(&dir).unwrap();
        assert_eq!(server.manifest.transforms, fixture.transforms);
        let public = server.public_weights().unwrap();
        let config = fs::read_to_string(dir.join("private/adapter_config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_str(&config).unwrap();
        (server.private_weights(&public).unwrap().to_bytes(), config)
    };
    let (expected, config) = integers(&plain);
    assert!(config["use_rslora"].is_null(), "PEFT's default");
    let (found, config) = integers(&rooted);
    assert_eq!(config["use_rslora"], true);
    assert_eq!(found, expected);
    // An older reader finds no scale, and refuses the manifest rather than take another.
    let text = fs::read_to_string(rooted.out("out").join("manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert!(manifest["transforms"]["lora"]["alpha"].is_null());
}

#[test]
fn ranks_by_module_are_in_program_card_and_peft() {
    let mut fixture = Fixture::new(false);
    let lora = fixture.transforms.lora.as_mut().unwrap();
    lora.ranks.insert("down_proj".into(), 5);
    lora.target_modules.retain(|module| module != "o_proj");
    let config = &fixture.base.config;
    fixture.adapter = tiny_adapter(config, &fixture.transforms, 2).unwrap();
    let dir = fixture.export("out").unwrap();
    let server = Partition::open(&dir).unwrap();
    let spec = server.program_spec();
    assert_eq!(
        (spec.lora_rank, &spec.lora_ranks[..]),
        (5, &[2, 2, 2, 0, 2, 2, 5][..])
    );
    let public = server.public_weights().unwrap();
    let private = server.private_weights(&public).unwrap();
    let elements: usize = spec.maps().flat_map(|map| map.factor_lens()).sum();
    assert_eq!(private.to_bytes().len(), 4 * elements);
    let text = fs::read_to_string(dir.join("private/adapter_config.json")).unwrap();
    let peft: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(peft["r"], 2);
    assert_eq!(peft["rank_pattern"], serde_json::json!({"down_proj": 5}));
    let card = fs::read_to_string(dir.join("README.md")).unwrap();
    assert!(
        card.contains("low-rank factors of rank 2 to 5 on `q_proj` (2)"),
        "{card}"
    );
    // Factors of one rank do not pass for these.
    fixture.transforms.lora.as_mut().unwrap().ranks.clear();
    let error = fixture.export("other").unwrap_err().to_string();
    assert!(error.contains("down_proj"), "{error}");
}

#[test]
fn the_adapter_goes_to_peft_only_when_heads_are_not_merged() {
    let fixture = Fixture::new(false);
    let dir = fixture.export("out").unwrap();
    let text = fs::read_to_string(dir.join("private/adapter_config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["r"], 2);
    assert_eq!(config["layers_to_transform"], serde_json::json!([2, 3]));
    Partition::open(&dir).unwrap();
}

#[test]
fn export_proves_a_range_or_names_a_large_factor() {
    let mut fixture = Fixture::new(true);
    let run = |fixture: &Fixture, name: &str| {
        let opts = ExportOptions::default();
        export(
            &fixture.base,
            &fixture.transforms,
            &fixture.adapter,
            &fixture.out(name),
            &opts,
        )
        .unwrap()
    };
    let report = run(&fixture, "small");
    let proof = report.range.as_ref().unwrap();
    // Rows of this model are far shorter.
    assert!(proof.envelope.row_norm > 100.0, "{proof:?}");
    assert!(
        describe_range(&report.range)
            .starts_with("no value overflows for boundary rows of norm up to")
    );
    let opened = Partition::open(&report.dir).unwrap();
    assert_eq!(range_of(&opened).unwrap(), report.range);

    let name = Adapter::name(3, "down_proj", 'B');
    let large = (&fixture.adapter.tensors[&name] * 100_000.0).unwrap();
    fixture.adapter.tensors.insert(name, large);
    let report = run(&fixture, "large");
    let text = describe_range(&report.range);
    assert!(
        text.starts_with("not proved for any input: private layer 1, `mlp.out`: a value may reach"),
        "{text}"
    );
    assert!(text.contains("bits missing"), "{text}");
}

#[test]
fn an_export_says_what_it_is_doing() {
    let fixture = Fixture::new(true);
    let told = std::cell::RefCell::new(Vec::new());
    let progress = |stage| told.borrow_mut().push(stage);
    let opts = ExportOptions {
        progress: Some(&progress),
        ..Default::default()
    };
    let out = fixture.out("told");
    export(
        &fixture.base,
        &fixture.transforms,
        &fixture.adapter,
        &out,
        &opts,
    )
    .unwrap();
    let told = told.into_inner();
    assert_eq!(told[0], ExportStage::Weights);
    assert_eq!(
        told[told.len() - 2..],
        [ExportStage::Writing, ExportStage::Checking]
    );
    let tried: Vec<_> = told
        .iter()
        .filter_map(|stage| match stage {
            ExportStage::Ranges { done, all } => Some((*done, *all)),
            _ => None,
        })
        .collect();
    // The number of envelopes is known before, and each is told once.
    let all = tried[0].1;
    let expected: Vec<_> = (0..=all).map(|done| (done, all)).collect();
    assert!(all > 2 && tried == expected, "{tried:?}");
}

#[test]
fn one_changed_bit_of_the_public_part_is_refused_by_name() {
    let fixture = Fixture::new(true);
    let name = "model.layers.1.mlp.up_proj.weight";
    let mut tuned = fixture.base.clone();
    tuned
        .tensors
        .insert(name.into(), flip_bit(&tuned.tensors[name], 77, 0));
    let opts = ExportOptions {
        model: Some(&tuned),
        ..Default::default()
    };
    let out = fixture.out("out");
    let error = export(
        &fixture.base,
        &fixture.transforms,
        &fixture.adapter,
        &out,
        &opts,
    )
    .unwrap_err();
    match &error {
        PartitionError::PublicPartDiffers { tensor, element } => {
            assert_eq!((tensor.as_str(), *element), (name, 77))
        }
        other => panic!("{other}"),
    }
    assert!(!out.exists());

    let same = ExportOptions {
        model: Some(&fixture.base),
        ..Default::default()
    };
    export(
        &fixture.base,
        &fixture.transforms,
        &fixture.adapter,
        &out,
        &same,
    )
    .unwrap();
}

#[test]
fn nothing_but_listed_factors_goes_into_the_private_part() {
    for stray in [
        "model.layers.3.input_layernorm.weight".to_string(),
        Adapter::name(1, "q_proj", 'A'),
    ] {
        let mut fixture = Fixture::new(true);
        let any = fixture.adapter.tensors.values().next().unwrap().clone();
        fixture.adapter.tensors.insert(stray.clone(), any);
        let error = fixture.export("out").unwrap_err();
        assert!(
            matches!(&error, PartitionError::PrivateTensor { tensor, .. } if *tensor == stray),
            "{error}"
        );
    }
    let mut fixture = Fixture::new(true);
    fixture
        .adapter
        .tensors
        .remove(&Adapter::name(3, "down_proj", 'B'));
    assert!(
        fixture
            .export("out")
            .unwrap_err()
            .to_string()
            .contains("layers.3.mlp.down_proj.lora_B")
    );
}

#[test]
fn an_altered_file_is_named() {
    let fixture = Fixture::new(true);
    for file in [
        ADAPTER_FILE,
        "public/model.safetensors",
        "public/tokenizer.json",
    ] {
        let dir = fixture.export(&file.replace('/', "-")).unwrap();
        let path = dir.join(file);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        fs::write(&path, bytes).unwrap();
        assert!(refusal(&dir).contains(file), "{}", refusal(&dir));
    }
}

#[test]
fn a_missing_or_unlisted_file_is_named() {
    let fixture = Fixture::new(true);
    let dir = fixture.export("out").unwrap();
    fs::write(dir.join("public/more.safetensors"), b"x").unwrap();
    assert!(refusal(&dir).contains("public/more.safetensors` is not listed"));
    fs::remove_file(dir.join("public/more.safetensors")).unwrap();
    fs::remove_file(dir.join("public/config.json")).unwrap();
    assert!(refusal(&dir).contains("public/config.json` is listed in the manifest and missing"));
}

#[test]
fn a_folder_without_its_partition_id_is_refused() {
    let fixture = Fixture::new(true);
    let dir = fixture.export("out").unwrap();
    for folder in ["public", "private"] {
        let file = dir.join(folder).join("partition_id");
        let id = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        let said = refusal(&dir);
        assert!(
            said.contains(&format!("{folder}/partition_id")) && said.contains("is missing"),
            "{said}"
        );
        fs::write(&file, id).unwrap();
    }
    Partition::open(&dir).unwrap();
    // A client's copy holds what the manifest lists alone.
    fs::remove_dir_all(dir.join("private")).unwrap();
    fs::remove_file(dir.join("public/partition_id")).unwrap();
    Partition::open_public(&dir).unwrap();
}

#[test]
fn parts_of_two_partitions_do_not_mix() {
    let mut fixture = Fixture::new(true);
    let first = fixture.export("first").unwrap();
    fixture.adapter = tiny_adapter(&fixture.base.config, &fixture.transforms, 3).unwrap();
    let second = fixture.export("second").unwrap();
    for file in fs::read_dir(second.join("private")).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), first.join("private").join(file.file_name())).unwrap();
    }
    assert!(
        refusal(&first).contains("belongs to partition"),
        "{}",
        refusal(&first)
    );
}

#[test]
fn a_manifest_is_checked_before_it_is_believed() {
    let fixture = Fixture::new(true);
    let dir = fixture.export("out").unwrap();
    let path = dir.join("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let with = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        refusal(&dir)
    };
    assert!(with("\"schema\": 1", "\"schema\": 2").contains("schema version 2"));
    assert!(with("\"name\": \"base\"", "\"name\": \"other\"").contains("partition_id"));
    assert!(with("\"public/config.json\"", "\"public/../x\"").contains("does not stay in"));
    assert!(with("\"reveal\": \"token\"", "\"reveal\": \"logits\"").contains("logits"));
    fs::remove_file(&path).unwrap();
    assert!(refusal(&dir).contains("is no partition"));
}

#[test]
fn an_occupied_folder_is_left_alone() {
    let fixture = Fixture::new(true);
    fs::create_dir(fixture.out("out")).unwrap();
    fs::write(fixture.out("out").join("mine"), b"x").unwrap();
    assert!(matches!(
        fixture.export("out"),
        Err(PartitionError::OutputExists { .. })
    ));
    assert!(fixture.out("out").join("mine").exists());
}

#[test]
fn what_was_left_out_of_the_base_is_remembered_and_said() {
    let fixture = Fixture::new(false);
    let base = fixture.out("base");
    let path = base.join("config.json");
    let config = fs::read_to_string(&path).unwrap();
    fs::write(&path, config.replacen('{', "{\"odd\": 1,", 1)).unwrap();
    // A tensor stands in the file that is published.
    let mut tensors =
        candle_core::safetensors::load(base.join("model.safetensors"), &candle_core::Device::Cpu)
            .unwrap();
    tensors.insert(
        "score.weight".into(),
        Tensor::zeros(4, candle_core::DType::F32, &candle_core::Device::Cpu).unwrap(),
    );
    candle_core::safetensors::save(&tensors, base.join("model.safetensors")).unwrap();
    assert!(Checkpoint::open(&base).is_err());
    let ignore = ["odd".to_string(), "score.weight".to_string()];
    let opened = Checkpoint::open_ignoring(&base, &ignore).unwrap();
    let out = fixture.out("out");
    export(
        &opened,
        &fixture.transforms,
        &fixture.adapter,
        &out,
        &ExportOptions::default(),
    )
    .unwrap();
    let client = Partition::open_public(&out).unwrap();
    assert_eq!(client.manifest.base.ignored, ignore);
    assert_eq!(client.base().digest(), fixture.base.digest());
    assert!(
        fs::read_to_string(out.join("README.md"))
            .unwrap()
            .contains("`score.weight`")
    );
}
