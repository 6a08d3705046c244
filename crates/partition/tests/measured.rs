//! How near values come to the edges of their wires on given rows.

use std::path::Path;

use marill_model::{Checkpoint, TensorDtype};
use marill_partition::{ExportOptions, Partition, export, measure_range};
use marill_testkit::models::{tiny_adapter, tiny_base, tiny_transforms};

fn partition(dir: &Path, base: &Checkpoint, strength: f64) -> Partition {
    let transforms = tiny_transforms(&base.config, false);
    let mut adapter = tiny_adapter(&base.config, &transforms, 7).unwrap();
    adapter
        .tensors
        .values_mut()
        .for_each(|factor| *factor = (&*factor * strength).unwrap());
    let out = dir.join("export");
    export(base, &transforms, &adapter, &out, &ExportOptions::default()).unwrap();
    Partition::open(&out).unwrap()
}

#[test]
fn rows_that_fit_say_how_much_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let base = tiny_base(&dir.path().join("base"), 1).unwrap();
    let partition = partition(dir.path(), &base, 1.0);
    let rows = [vec![5, 6, 7, 8], Vec::new(), vec![9; 40]];
    let measured = measure_range(&partition, &rows).unwrap();
    assert_eq!(
        (measured.rows, measured.tokens, &measured.overflow),
        (2, 36, &None)
    );
    let least = measured.least.unwrap();
    assert!(
        measured.is_easy() && least.bits() > 1.0 && least.reaches_bits > 0.0,
        "{measured}"
    );
    assert!(
        measured
            .to_string()
            .contains(&format!("{:.1} bits left", least.bits())),
        "{measured}"
    );
    // More rows leave no more headroom.
    let fewer = measure_range(&partition, &rows[..1]).unwrap();
    assert!(fewer.least.unwrap().bits() >= least.bits());
    // A row longer than a session is measured as far as it goes.
    let long = measure_range(&partition, &[vec![3; 1000]]).unwrap();
    assert_eq!(long.tokens, partition.program_spec().max_positions);
    let nothing = measure_range(&partition, &[]).unwrap();
    assert!(!nothing.is_easy() && nothing.to_string().contains("no row"));
}

#[test]
fn a_row_that_does_not_fit_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut base = tiny_base(&dir.path().join("small"), 1).unwrap();
    let rows = [vec![5, 6, 7, 8], vec![9; 12]];
    let headroom = measure_range(&partition(&dir.path().join("small"), &base, 1.0), &rows)
        .unwrap()
        .least
        .unwrap();
    // Token 9 alone is far from zero.
    let embedding = &base.tensors["model.embed_tokens.weight"];
    let mut values: Vec<f32> = embedding.flatten_all().unwrap().to_vec1().unwrap();
    values[9 * 32..10 * 32].fill(13_000.0);
    // The head stays what it was.
    base.tensors
        .insert("lm_head.weight".into(), embedding.clone());
    let mut config = base.config.llama().unwrap().clone();
    config.tie_word_embeddings = false;
    base.config = config.into();
    let embedding = &base.tensors["lm_head.weight"];
    let embedding =
        candle_core::Tensor::from_vec(values, embedding.dims(), embedding.device()).unwrap();
    base.tensors
        .insert("model.embed_tokens.weight".into(), embedding);
    base.save(&dir.path().join("large"), TensorDtype::F32)
        .unwrap();
    let base = Checkpoint::open(&dir.path().join("large")).unwrap();
    let measured = measure_range(&partition(&dir.path().join("large"), &base, 1.0), &rows).unwrap();
    let overflow = measured.overflow.clone().expect("it leaves the range");
    assert!(overflow.starts_with("row 2: "), "{overflow}");
    assert!(
        !measured.is_easy() && measured.to_string().contains("does not fit"),
        "{measured}"
    );
    assert!(headroom.bits() > 0.0);
}
