//! Factors that begin with what the data say.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use candle_core::Tensor;
use marill_model::{Adapter, Checkpoint, Llama, Rows, Transforms};
use marill_training::{TrainOptions, dry_run, some_rows, train};

use crate::place::{Place, TUNE, bytes};

const DATA: &str = "lora.init=data";

/// Squares of a row's products with all unit rows, and the sum of these rows in proportion.
fn seen(rows: &[Vec<f64>], direction: &[f64]) -> (f64, Vec<f64>) {
    let mut image = vec![0.0; direction.len()];
    let mut share = 0.0;
    for row in rows {
        let along: f64 = row.iter().zip(direction).map(|(r, d)| r * d).sum();
        share += along * along;
        image.iter_mut().zip(row).for_each(|(i, r)| *i += along * r);
    }
    (share, image)
}

fn unit(row: Vec<f64>) -> Vec<f64> {
    let length = row.iter().map(|v| v * v).sum::<f64>().sqrt();
    row.into_iter().map(|v| v / length).collect()
}

fn f64_rows(x: &Tensor) -> Vec<Vec<f64>> {
    let rows = x.to_vec2::<f32>().unwrap().into_iter();
    rows.map(|row| unit(row.into_iter().map(f64::from).collect()))
        .collect()
}

/// Every row of `A` is an eigenvector of its map's inputs on the training rows, and no direction
/// beside them holds more.
#[test]
fn factors_begin_with_the_leading_directions_of_the_inputs() {
    let place = Place::new(true);
    let settings = [
        DATA,
        "lora.init_rows=1000",
        "data.val_fraction=0.0",
        "train.max_steps=1",
        // So small a step that the factors are still what they began with.
        "optimizer.learning_rate=1e-12",
    ];
    place.run(TUNE, &settings).unwrap();
    let recipe = place.recipe(TUNE, &settings);
    let base = Checkpoint::open(&place.path("base/model")).unwrap();
    let transforms = Transforms::load(&place.path("tuned/transforms.json")).unwrap();
    let adapter = Adapter::load(&place.path("tuned/adapter.safetensors")).unwrap();
    let tokens = some_rows(&recipe, &place.path("."), &base, 80).unwrap();
    let lengths: Vec<usize> = tokens.iter().map(Vec::len).collect();
    let rows = Rows::packed(&lengths);
    let nothing = std::iter::empty::<(String, Tensor)>();
    let config = base.config.llama().unwrap();
    let model = Llama::new(config, &transforms, base.var_builder_with(nothing)).unwrap();
    let x = model.embed(&tokens.concat()).unwrap();
    let x = model.run(x, 0..1, &rows, None).unwrap();
    let (_, inputs) = model.run_with_inputs(x, 1, &rows).unwrap();
    for (module, nth) in [
        ("k_proj", 0),
        ("o_proj", 1),
        ("up_proj", 2),
        ("down_proj", 3),
    ] {
        let rows = f64_rows(&inputs[nth]);
        let (a, b) = adapter.factors(1, module).unwrap();
        let b = b.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(b.iter().all(|v| v.abs() < 1e-9), "B is zero");
        let directions = f64_rows(a);
        let mut least = f64::INFINITY;
        for direction in &directions {
            let (share, image) = seen(&rows, direction);
            least = least.min(share);
            let far = image
                .iter()
                .zip(direction)
                .map(|(i, d)| (i - share * d).powi(2));
            // The frozen layers' output is kept in 16 bits, which turns a direction by 1e-3.
            assert!(far.sum::<f64>().sqrt() < 0.02 * share, "{module}: {share}");
        }
        // Power iteration beside them.
        let mut other = unit(
            (0..directions[0].len())
                .map(|i| 1.0 + (i % 7) as f64)
                .collect(),
        );
        for _ in 0..200 {
            for direction in &directions {
                let along: f64 = other.iter().zip(direction).map(|(o, d)| o * d).sum();
                other
                    .iter_mut()
                    .zip(direction)
                    .for_each(|(o, d)| *o -= along * d);
            }
            other = unit(seen(&rows, &unit(other)).1);
        }
        let beside = seen(&rows, &other).0;
        assert!(beside < 1.02 * least, "{module}: {beside} beside {least}");
    }
}

#[test]
fn factors_from_data_leave_the_first_loss_as_it_is() {
    let place = Place::new(true);
    let one = ["train.max_steps=1"];
    let random = place.run(TUNE, &one).unwrap();
    let data = place.run(TUNE, &[DATA, one[0]]).unwrap();
    assert_eq!(random.first_loss, data.first_loss, "B is zero in both");
}

#[test]
fn factors_from_data_are_the_same_on_any_threads() {
    let place = Place::new(true);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
        let dir = format!("output.dir=DIR/{threads}");
        pool.build()
            .unwrap()
            .install(|| place.run(TUNE, &[DATA, "train.max_steps=3", &dir]))
            .unwrap();
        bytes(place.path(&format!("{threads}/adapter.safetensors")))
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn a_run_from_data_goes_on_with_its_own_factors() {
    let place = Place::new(true);
    place.run(TUNE, &[DATA]).unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let recipe = place.recipe(TUNE, &[DATA, "output.dir=DIR/again"]);
    let options = TrainOptions {
        stop: Some(stop.clone()),
        ..place.options()
    };
    train(&recipe, &options, &mut |p| {
        stop.store(p.step == 5, Ordering::Relaxed)
    })
    .unwrap_err();
    let options = TrainOptions {
        resume: true,
        ..place.options()
    };
    train(&recipe, &options, &mut |_| {}).unwrap();
    let whole = bytes(place.path("tuned/adapter.safetensors"));
    assert_eq!(bytes(place.path("again/adapter.safetensors")), whole);
    // Rows that decide the factors decide the run.
    let fewer = place.recipe(TUNE, &[DATA, "lora.init_rows=8", "output.dir=DIR/again"]);
    let error = train(&fewer, &options, &mut |_| {})
        .unwrap_err()
        .to_string();
    assert!(error.contains("another recipe"), "{error}");
}

#[test]
fn a_dry_run_counts_what_the_factors_take() {
    let place = Place::new(true);
    let plan = |set: &[&str]| dry_run(&place.recipe(TUNE, set), &place.options()).unwrap();
    let random = plan(&[]);
    let data = plan(&[DATA]);
    assert_eq!(random.estimate.init_bytes, 0);
    assert!(data.estimate.init_bytes > 0);
    assert_eq!(
        data.estimate.trained_parameters,
        random.estimate.trained_parameters
    );
}
