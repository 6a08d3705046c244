//! Files of figures: what a machine takes, what a form of a model keeps, what was scored; and a
//! network's weights, and the keys of those who may ask.

use std::{
    path::Path,
    sync::{LazyLock, Mutex},
};

use marill_image_networks::{Format, Network, Op, Size, from_safetensors, resnet50};
use marill_plan::{Calibration, Side, Work, calibration::Point, curve::Curve};
use marill_serving::state::{Keys, Limits};
use safetensors::{Dtype, serialize, tensor::TensorView};
use tempfile::TempDir;

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

/// Times of one machine; what is accepted is written out and read back as the same, and every way
/// of working together has a price or is refused.
pub fn calibration(bytes: &[u8]) {
    let Some(Ok(calibration)) = text(bytes).map(Calibration::parse) else {
        return;
    };
    let again = Calibration::parse(&calibration.to_json());
    assert_eq!(again.expect("what is written can be read"), calibration);
    for side in Side::ALL {
        let _ = calibration.prices(side);
        let _ = calibration.deviation(side);
    }
}

/// What forms of a model kept; what is accepted is written out and read back as the same, and asked
/// for every number of frozen layers.
pub fn curve(bytes: &[u8]) {
    let Some(Ok(curve)) = text(bytes).map(Curve::parse) else {
        return;
    };
    let again = Curve::parse(&curve.to_json()).expect("what is written can be read");
    assert_eq!(again, curve);
    for family in curve.families() {
        for frozen in 0..=curve.layers.min(64) {
            let _ = family.at(frozen);
        }
    }
}

static FOLDER: LazyLock<Mutex<TempDir>> =
    LazyLock::new(|| Mutex::new(tempfile::tempdir().expect("a place for files")));

/// Runs something on a file of these bytes.
fn in_file(bytes: &[u8], run: impl FnOnce(&Path)) {
    let folder = FOLDER
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let path = folder.path().join("file");
    std::fs::write(&path, bytes).expect("room on the disk");
    run(&path);
}

/// Scores of `marill eval`: a report or a log, alone and beside itself.
pub fn scores(bytes: &[u8]) {
    in_file(bytes, |path| {
        let Ok(scored) = marill_evals::compare::read(path) else {
            return;
        };
        if let Ok(differences) = marill_evals::compare::compare(&scored, &scored) {
            for difference in differences {
                let nothing = difference.difference == 0.0 || difference.difference.is_nan();
                assert!(nothing, "a run differs from itself");
            }
        }
    });
}

/// A file of keys.
pub fn key_file(bytes: &[u8]) {
    in_file(bytes, |path| {
        if let Ok(Some(keys)) = Keys::read(path) {
            assert!(keys.iter().count() <= bytes.len());
        }
    });
}

/// A network of one block a stage.
static NETWORK: LazyLock<Network> = LazyLock::new(|| {
    let size = Size {
        image: 32,
        classes: 4,
        width: 1.0 / 64.0,
        blocks: Some([1, 1, 1, 1]),
    };
    resnet50(Format::CRYPTFLOW2, size).expect("a small network")
});

/// Weights of an image network; what is accepted fits its ring.
pub fn network_weights(bytes: &[u8]) {
    let _ = from_safetensors(&NETWORK, bytes);
}

pub(crate) fn calibrations() -> Vec<Vec<u8>> {
    let point = |side: Side, n: u32| {
        let n = f64::from(n);
        Point {
            shape: format!("{n} layers"),
            setting: side.setting,
            comparison: side.comparison,
            work: Work {
                rounds: 80.0 * n,
                public_products: 1e6 * n * n,
                private_products: 1e4,
                bytes: 1e5 * (n + 1.0),
            },
            seconds: n / 100.0,
        }
    };
    let points = Side::ALL
        .into_iter()
        .flat_map(|side| (1..=5).map(move |n| point(side, n)));
    let load = [Some(0.1), None];
    let machine = "two cores".to_owned();
    let file = Calibration::new(machine, "release".into(), load, 1e-9, points.collect());
    let text = file.to_json();
    assert_eq!(
        Calibration::parse(&text).expect("times of every side"),
        file
    );
    vec![text.into_bytes()]
}

pub(crate) fn curves() -> Vec<Vec<u8>> {
    Curve::all_shipped()
        .map(|curve| curve.to_json().into_bytes())
        .collect()
}

pub(crate) fn score_files() -> Vec<Vec<u8>> {
    let example = |id: u32| {
        serde_json::json!({
            "doc_id": id, "target_sha256": "ab".repeat(32), "answer_sha256": "cd".repeat(32),
            "figures": { "acc": [0.5, 1.0] },
        })
    };
    let report = serde_json::json!({
        "results": { "agnews": { "version": 1, "examples": [example(0), example(1)] } },
    });
    let line = |id: u32| {
        let line = serde_json::json!({
            "task": "agnews", "doc_id": id, "target": "a", "answer": "b", "label": 1,
            "version": 1, "figures": { "acc": [0.5, 1.0] },
        });
        line.to_string()
    };
    let files: [Vec<u8>; 2] = [
        report.to_string().into_bytes(),
        [line(0), line(1)].join("\n").into_bytes(),
    ];
    for file in &files {
        in_file(file, |path| {
            assert!(
                marill_evals::compare::read(path).is_ok(),
                "scores of two rows"
            );
        });
    }
    files.into()
}

pub(crate) fn key_files() -> Vec<Vec<u8>> {
    let folder = tempfile::tempdir().expect("a place for files");
    let path = folder.path().join("keys");
    let limits = Limits {
        tokens: Some(4096),
        tokens_per_minute: Some(60),
        ..Limits::default()
    };
    Keys::add(&path, "first", limits).expect("a new file");
    Keys::add(&path, "second", Limits::default()).expect("another key");
    Keys::revoke(&path, "second").expect("it is there");
    vec![std::fs::read(&path).expect("it was written")]
}

/// A file of the small network: kernels, and norms where torchvision has them.
pub(crate) fn networks() -> Vec<Vec<u8>> {
    let mut tensors = Vec::new();
    let mut norm = |name: &str, channels: usize| {
        for part in ["weight", "bias", "running_mean", "running_var"] {
            tensors.push((format!("{name}.{part}"), vec![channels]));
        }
    };
    let mut kernels = Vec::new();
    for layer in NETWORK.layers() {
        match &layer.op {
            Op::Convolution(kernel) => {
                let channels = NETWORK.layers()[layer.inputs[0]].shape[0];
                let mut shape = vec![kernel.outputs, channels, kernel.side, kernel.side];
                if kernel.bias {
                    shape.truncate(2);
                    kernels.push((format!("{}.bias", layer.name), vec![kernel.outputs]));
                }
                kernels.push((format!("{}.weight", layer.name), shape));
                if let Some(name) = &kernel.norm {
                    norm(name, kernel.outputs);
                }
            }
            Op::SidedRelu { norm: name } => norm(name, layer.shape[0]),
            _ => {}
        }
    }
    tensors.extend(kernels);
    let bytes = |shape: &[usize]| 0.5f32.to_le_bytes().repeat(shape.iter().product());
    let data: Vec<_> = tensors.iter().map(|(_, shape)| bytes(shape)).collect();
    let views = tensors.into_iter().zip(&data).map(|((name, shape), data)| {
        let view = TensorView::new(Dtype::F32, shape, data);
        (name, view.expect("as long as its shape"))
    });
    let file = serialize(views, None).expect("memory");
    assert!(from_safetensors(&NETWORK, &file).is_ok(), "all are named");
    vec![file]
}
