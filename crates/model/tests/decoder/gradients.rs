//! Gradients of a small random model against finite differences.

use candle_core::{Device, Tensor, Var};
use marill_model::{
    Adapter, HeadMethod, Llama, Rows, Transforms,
    ops::{Dropout, FakeQuant, HeadLoss, Teacher, TeacherLogits, head_loss, row_distance},
};
use marill_numeric::{NumericSpec, approx};

use crate::{checkpoint, config, noise, tensor, tensors, trainable, transforms};

fn loss(decoder: &Llama, teacher: bool) -> Tensor {
    let rows = Rows::packed(&[5, 3]);
    let x = decoder.embed(&[3, 7, 1, 29, 4, 9, 9, 2]).unwrap();
    let x = decoder
        .finish(&decoder.run(x, 0..3, &rows, None).unwrap())
        .unwrap();
    let teacher = teacher.then(|| Teacher {
        logits: TeacherLogits::Whole {
            hidden: tensor(900, &[8, 32], 1.0),
            head: tensor(901, &[30, 32], 1.0),
        },
        temperature: 2.0,
        weight: 0.6,
    });
    let labels = vec![7, 1, 29, 4, 5, 9, 2, 0];
    head_loss(
        &x,
        &decoder.lm_head,
        HeadLoss {
            labels,
            scale: 0.125,
            teacher,
        },
    )
    .unwrap()
}

/// Dropout, and private layers that follow a teacher's.
fn hidden_loss(decoder: &Llama) -> Tensor {
    let dropout = Some(Dropout { rate: 0.25, key: 5 });
    let rows = Rows {
        dropout,
        ..Rows::packed(&[5, 3])
    };
    let mut x = decoder.embed(&[3, 7, 1, 29, 4, 9, 9, 2]).unwrap();
    let mut total = None;
    for layer in 0..3 {
        x = decoder.run(x, layer..layer + 1, &rows, None).unwrap();
        let part = row_distance(&x, &tensor(910 + layer as u64, &[8, 32], 1.5), 0.05).unwrap();
        total = Some(total.map_or(part.clone(), |sum: Tensor| (sum + part).unwrap()));
    }
    total.unwrap()
}

fn check_gradients(loss: &dyn Fn(&Llama) -> Tensor, unused: &[&str]) {
    check_gradients_of(loss, unused, &transforms(&config()));
}

fn check_gradients_of(loss: &dyn Fn(&Llama) -> Tensor, unused: &[&str], transforms: &Transforms) {
    let base = checkpoint();
    let (decoder, mut vars) = trainable(&base, transforms);
    vars.retain(|name, _| !unused.contains(&name.as_str()));
    let grads = loss(&decoder).backward().unwrap();
    for (nth, (name, var)) in vars.iter().enumerate() {
        let grad = grads
            .get(var.as_tensor())
            .unwrap_or_else(|| panic!("`{name}` has no gradient"));
        let grad: Vec<f32> = grad.flatten_all().unwrap().to_vec1().unwrap();
        let start: Vec<f32> = var.flatten_all().unwrap().to_vec1().unwrap();
        let direction = noise(7000 + nth as u64, start.len(), 1.0);
        let at = |step: f32| {
            let moved: Vec<f32> = start
                .iter()
                .zip(&direction)
                .map(|(s, d)| s + step * d)
                .collect();
            var.set(&Tensor::from_vec(moved, var.shape(), &Device::Cpu).unwrap())
                .unwrap();
            f64::from(loss(&decoder).to_scalar::<f32>().unwrap())
        };
        let step = 4e-3;
        let numeric = (at(step) - at(-step)) / f64::from(2.0 * step);
        at(0.0);
        let analytic: f64 = grad
            .iter()
            .zip(&direction)
            .map(|(g, d)| f64::from(g * d))
            .sum();
        let size: f64 = grad.iter().map(|g| f64::from(g * g)).sum::<f64>().sqrt();
        let bound = 0.02 * analytic.abs() + 0.02 * size + 2e-4;
        assert!(
            size > 0.0 && (numeric - analytic).abs() < bound,
            "`{name}`: {numeric} by differences, {analytic}"
        );
    }
}

#[test]
fn parameters_have_the_gradients_of_finite_differences() {
    check_gradients(&|d| loss(d, false), &[]);
}

#[test]
fn approximations_have_the_gradients_of_finite_differences() {
    for approx in approx::EACH {
        let transforms = Transforms {
            approx,
            ..transforms(&config())
        };
        check_gradients_of(&|d| loss(d, false), &[], &transforms);
    }
}

#[test]
fn distillation_gradients_agree_with_finite_differences() {
    check_gradients(&|d| loss(d, true), &[]);
}

#[test]
fn dropout_has_the_gradients_of_finite_differences() {
    check_gradients(&hidden_loss, &["model.norm.weight"]);
}

/// Heads on their way to their group, whose scores have factors of their own.
#[test]
fn heads_on_their_way_have_the_gradients_of_differences() {
    let mut transforms = transforms(&config());
    let heads = transforms.heads.as_mut().unwrap();
    heads.scale = None;
    heads.scales = vec![vec![0.3, 0.15, -0.1, 0.2], vec![0.1, 0.4, 0.25, 0.2]];
    for own_share in [1.0, 0.35, 0.0] {
        let moving = |decoder: &Llama| {
            let rows = Rows {
                own_share,
                ..Rows::packed(&[5, 3])
            };
            let x = decoder.embed(&[3, 7, 1, 29, 4, 9, 9, 2]).unwrap();
            let x = decoder.run(x, 0..3, &rows, None).unwrap();
            row_distance(&x, &tensor(910, &[8, 32], 1.5), 0.05).unwrap()
        };
        check_gradients_of(&moving, &["model.norm.weight"], &transforms);
    }
}

#[test]
fn pruned_heads_have_the_gradients_of_differences() {
    let mut transforms = transforms(&config());
    let heads = transforms.heads.as_mut().unwrap();
    heads.method = HeadMethod::Prune;
    heads.groups = vec![vec![vec![1], vec![2]], vec![vec![0], vec![3]]];
    check_gradients_of(&|d| loss(d, false), &[], &transforms);
}

#[test]
fn a_frozen_weight_under_lora_changes_no_gradient() {
    let base = checkpoint();
    let transforms = transforms(&base.config);
    let (whole, vars) = trainable(&base, &transforms);
    let mut factors = tensors(&vars);
    factors.retain(|name, _| name.contains("lora_"));
    let vb = base.var_builder_with(factors);
    let decoder = Llama::new(base.config.llama().unwrap(), &transforms, vb).unwrap();
    let all = hidden_loss(&whole).backward().unwrap();
    let few = hidden_loss(&decoder).backward().unwrap();
    for (name, var) in vars.iter().filter(|(name, _)| name.contains("lora_")) {
        let values = |grads: &candle_core::backprop::GradStore| -> Vec<f32> {
            grads
                .get(var.as_tensor())
                .unwrap_or_else(|| panic!("`{name}`"))
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let all = values(&all);
        let few = values(&few);
        let largest = all.iter().fold(0f32, |m, v| m.max(v.abs()));
        // Sums in another order differ in the last bits of a 24-bit mantissa, over many terms.
        assert!(
            largest > 0.0
                && all
                    .iter()
                    .zip(&few)
                    .all(|(a, f)| (a - f).abs() <= 1e-4 * largest),
            "{name}"
        );
    }
}

#[test]
fn fake_quantized_gradients_are_nearly_those_of_the_floats() {
    let base = checkpoint();
    let (decoder, vars) = trainable(&base, &transforms(&base.config));
    let format = FakeQuant::from(&NumericSpec::default());
    let run = |fake_quant: Option<FakeQuant>| {
        let rows = Rows {
            fake_quant,
            ..Rows::packed(&[5, 3])
        };
        let x = decoder.embed(&[3, 7, 1, 29, 4, 9, 9, 2]).unwrap();
        let x = decoder
            .finish(&decoder.run(x, 0..3, &rows, None).unwrap())
            .unwrap();
        let labels = vec![7, 1, 29, 4, 5, 9, 2, 0];
        head_loss(
            &x,
            &decoder.lm_head,
            HeadLoss {
                labels,
                scale: 0.125,
                teacher: None,
            },
        )
        .unwrap()
    };
    let plain = run(None);
    let rounded = run(Some(format));
    let a = plain.to_scalar::<f32>().unwrap();
    let b = rounded.to_scalar::<f32>().unwrap();
    // Rounding to the format moves a loss by far less than a percent, and must move it.
    assert!(
        a != b && (a - b).abs() < 1e-2 * a,
        "{a} in floats, {b} fake-quantized"
    );
    let plain = plain.backward().unwrap();
    let rounded = rounded.backward().unwrap();
    for (name, var) in &vars {
        let values = |grads: &candle_core::backprop::GradStore| -> Vec<f32> {
            grads
                .get(var.as_tensor())
                .unwrap_or_else(|| panic!("`{name}`"))
                .flatten_all()
                .unwrap()
                .to_vec1()
                .unwrap()
        };
        let a = values(&plain);
        let b = values(&rounded);
        let dot =
            |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        let cosine = dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt();
        // Gradients pass straight through the rounding; only the point they are taken at differs.
        assert!(cosine > 0.999, "`{name}`: {cosine}");
    }
}

#[test]
fn frozen_weights_get_no_gradient() {
    let base = checkpoint();
    let a = Var::from_tensor(&tensor(1, &[2, 32], 0.5)).unwrap();
    let b = Var::from_tensor(&tensor(2, &[32, 2], 0.5)).unwrap();
    let factors = [('A', &a), ('B', &b)].map(|(factor, var)| {
        let name = Adapter::name(2, "q_proj", factor);
        (name, var.as_tensor().clone())
    });
    let vb = base.var_builder_with(factors);
    let decoder = Llama::new(base.config.llama().unwrap(), &transforms(&base.config), vb).unwrap();
    let grads = loss(&decoder, false).backward().unwrap();
    assert!(grads.get(a.as_tensor()).is_some() && grads.get(b.as_tensor()).is_some());
    for (name, tensor) in &base.tensors {
        assert!(grads.get(tensor).is_none(), "`{name}` is frozen");
    }
}
