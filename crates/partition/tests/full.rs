//! Partitions of ordinary full fine-tunes: what is private, what is refused, and that the integers
//! are the floats'.

use std::{fs, path::PathBuf, sync::Arc};

use marill_model::{Checkpoint, FloatModel, Transforms};
use marill_mpc::{MaskedAdapter, Twin};
use marill_partition::{
    ExportOptions, ExportReport, LAYERS_FILE, Partition, PartitionError, PrivatePart,
    describe_range, export_full, range_of, shared_layers,
};
use marill_testkit::models::{tiny_base, tiny_family, tiny_fine_tune, tiny_transforms};
use serde_json::json;

const FROZEN: usize = 2;

struct Fixture {
    dir: tempfile::TempDir,
    base: Checkpoint,
    model: Checkpoint,
    transforms: Transforms,
}

impl Fixture {
    fn new(merged: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let base = tiny_base(&dir.path().join("base"), 1).unwrap();
        let model = tiny_fine_tune(&base, FROZEN, 2).unwrap();
        let transforms = Transforms {
            lora: None,
            ..tiny_transforms(&base.config, merged)
        };
        Self {
            dir,
            base,
            model,
            transforms,
        }
    }

    fn export(&self, out: &str) -> Result<ExportReport, PartitionError> {
        export_full(
            &self.base,
            &self.transforms,
            &self.model,
            &self.out(out),
            &ExportOptions::default(),
        )
    }

    fn out(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

#[test]
fn every_tensor_of_private_layers_is_private() {
    let fixture = Fixture::new(true);
    let report = fixture.export("out").unwrap();
    let server = Partition::open(&report.dir).unwrap();
    assert_eq!(
        server.base().digest(),
        fixture.base.digest(),
        "what is published is the base"
    );
    assert_eq!(
        server.model().unwrap().digest(),
        fixture.model.digest(),
        "and the owner has the model"
    );
    assert!(server.program_spec().is_full_rank() && server.adapter().is_none());
    assert!(matches!(server.private(), Some(PrivatePart::Full(tensors)) if tensors.len() == 2 * 9));
    assert_eq!(
        range_of(&server).unwrap(),
        report.range,
        "{}",
        describe_range(&report.range)
    );
    let card = fs::read_to_string(report.dir.join("README.md")).unwrap();
    let masked = MaskedAdapter::bytes_of(server.program_spec());
    assert!(
        card.contains("a full fine-tune") && card.contains(&masked.to_string()),
        "{card}"
    );

    fs::remove_dir_all(report.dir.join("private")).unwrap();
    let client = Partition::open_public(&report.dir).unwrap();
    assert!(matches!(
        client.model(),
        Err(PartitionError::NoPrivatePart { .. })
    ));
    let public = client.public_weights().unwrap();
    assert_eq!(public.digest(), server.public_weights().unwrap().digest());
    assert!(matches!(
        client.private_weights(&public),
        Err(PartitionError::NoPrivatePart { .. })
    ));
}

/// Gains alone are trained: they are folded into the private maps, whose rows are all that differs.
#[test]
fn trained_gains_are_folded_into_private_maps() {
    let mut fixture = Fixture::new(true);
    let is_gain = |name: &str| name.ends_with("layernorm.weight");
    for (name, tensor) in &mut fixture.model.tensors {
        if !is_gain(name) {
            *tensor = fixture.base.tensors[name].clone();
        }
    }
    let tuned = fixture.export("tuned").unwrap().dir;
    let gains = fixture.model.clone();
    fixture.model = fixture.base.clone();
    let untuned = fixture.export("untuned").unwrap().dir;
    let parts = [&tuned, &untuned].map(|dir| {
        let partition = Partition::open(dir).unwrap();
        let public = Arc::new(partition.public_weights().unwrap());
        let private = Arc::new(partition.private_weights(&public).unwrap());
        (public, private)
    });
    assert_eq!(
        parts[0].0.digest(),
        parts[1].0.digest(),
        "nothing public tells the gains"
    );
    let tokens: Vec<u32> = (0..21u32).map(|k| k * 37 % 256).collect();
    let partition = Partition::open(&tuned).unwrap();
    let boundary = partition.prefix().unwrap().forward(&tokens).unwrap();
    let [got, other] = parts.map(|(public, private)| {
        let mut twin = Twin::new(Arc::clone(&public), private);
        twin.prefill(&public.spec.encode(&boundary).unwrap())
            .unwrap();
        twin.last_logits().to_vec()
    });
    let expected = FloatModel::new(&gains, &fixture.transforms, None)
        .unwrap()
        .logits(&tokens)
        .unwrap();
    let far = |found: &[f32]| {
        let spread = (expected.iter().map(|v| v * v).sum::<f32>() / expected.len() as f32).sqrt();
        let apart = found.iter().zip(&expected).map(|(a, b)| (a - b).abs());
        apart.fold(0.0, f32::max) / spread
    };
    // The stated error of a few layers, and gains a tenth away from the base's.
    assert!(
        far(&got) < 4e-3 && far(&other) > 0.02,
        "{} with the gains, {} without",
        far(&got),
        far(&other)
    );
}

#[test]
fn the_twin_computes_the_fine_tuned_model() {
    for merged in [true, false] {
        let fixture = Fixture::new(merged);
        let partition = Partition::open(&fixture.export("out").unwrap().dir).unwrap();
        let public = Arc::new(partition.public_weights().unwrap());
        let private = Arc::new(partition.private_weights(&public).unwrap());
        let tokens: Vec<u32> = (0..21u32).map(|k| k * 37 % 256).collect();
        let boundary = partition.prefix().unwrap().forward(&tokens).unwrap();
        let mut twin = Twin::new(Arc::clone(&public), private);
        twin.prefill(&public.spec.encode(&boundary).unwrap())
            .unwrap();
        let got = twin.last_logits();
        let logits = |model: &Checkpoint| {
            FloatModel::new(model, &fixture.transforms, None)
                .unwrap()
                .logits(&tokens)
        };
        let far = |expected: Vec<f32>| {
            let spread =
                (expected.iter().map(|v| v * v).sum::<f32>() / expected.len() as f32).sqrt();
            got.iter()
                .zip(&expected)
                .map(|(a, b)| (a - b).abs() / spread)
                .fold(0.0, f32::max)
        };
        let tuned = far(logits(&fixture.model).unwrap());
        let base = far(logits(&fixture.base).unwrap());
        // The stated error of a few layers; the base is another model, dozens of times as far.
        assert!(
            tuned < 4e-3 && base > 0.1,
            "{tuned} from the model, {base} from its base"
        );
    }
}

#[test]
fn what_would_be_published_must_be_the_bases() {
    for stray in [
        "model.embed_tokens.weight",
        "model.norm.weight",
        "model.layers.1.mlp.up_proj.weight",
    ] {
        let mut fixture = Fixture::new(true);
        let changed = (&fixture.model.tensors[stray] * 1.5).unwrap();
        fixture.model.tensors.insert(stray.into(), changed);
        let error = fixture.export("out").unwrap_err();
        assert!(
            matches!(&error, PartitionError::PublicPartDiffers { tensor, .. } if tensor == stray),
            "{error}"
        );
        assert!(!fixture.out("out").exists());
    }
    let mut fixture = Fixture::new(true);
    fixture.transforms.lora = tiny_transforms(&fixture.base.config, true).lora;
    assert!(
        fixture
            .export("out")
            .unwrap_err()
            .to_string()
            .contains("no low-rank factors")
    );
}

#[test]
fn the_layers_that_are_still_the_bases_are_counted() {
    let fixture = Fixture::new(true);
    assert_eq!(
        shared_layers(&fixture.base, &fixture.model).unwrap(),
        FROZEN
    );
    assert_eq!(shared_layers(&fixture.base, &fixture.base).unwrap(), 4);
}

#[test]
fn altered_private_layers_are_refused_by_name() {
    let fixture = Fixture::new(true);
    let dir = fixture.export("out").unwrap().dir;
    let path = dir.join(LAYERS_FILE);
    let mut bytes = fs::read(&path).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&path, bytes).unwrap();
    let error = Partition::open(&dir).err().unwrap().to_string();
    assert!(error.contains(LAYERS_FILE), "{error}");
}

#[test]
fn gains_of_query_norms_stay_the_bases() {
    let dir = tempfile::tempdir().unwrap();
    let keys = json!({ "model_type": "qwen3" });
    let base = tiny_family(&dir.path().join("base"), &keys, 1).unwrap();
    let mut model = tiny_fine_tune(&base, FROZEN, 2).unwrap();
    let transforms = Transforms {
        lora: None,
        ..tiny_transforms(&base.config, false)
    };
    let out = dir.path().join("out");
    let options = ExportOptions::default();
    let refused = export_full(&base, &transforms, &model, &out, &options).unwrap_err();
    let error = refused.to_string();
    assert!(
        error.contains("_norm.weight`") && error.contains("differs from the base's"),
        "{error}"
    );
    for (name, tensor) in &mut model.tensors {
        if name.contains("self_attn.q_norm") || name.contains("self_attn.k_norm") {
            *tensor = base.tensors[name].clone();
        }
    }
    let report = export_full(&base, &transforms, &model, &out, &options).unwrap();
    let server = Partition::open(&report.dir).unwrap();
    let public = server.public_weights().unwrap();
    let private = server.private_weights(&public).unwrap();
    let tokens: Vec<u32> = (0..20).collect();
    let boundary = server.prefix().unwrap().forward(&tokens).unwrap();
    let encoded = server.program_spec().encode(&boundary).unwrap();
    let mut twin = Twin::new(Arc::new(public), Arc::new(private));
    twin.prefill(&encoded).unwrap();
    let float = FloatModel::new(&model, &transforms, None);
    let logits = float.unwrap().logits(&tokens).unwrap();
    let worst = twin.last_logits().into_iter().zip(&logits);
    let worst = worst.fold(0f32, |worst, (a, b)| worst.max((a - b).abs()));
    // Logits of some ten, of layers that are off by two thousandths.
    assert!(worst < 0.05, "{worst}");
}
