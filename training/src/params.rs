//! The trained tensors with their gradients and moments, in a fixed order.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor, Var, backprop::GradStore};
use candle_nn::VarMap;
use marill_model::{Adapter, Checkpoint, Llama, MODULES, ModelConfig, ModelError, Transforms};
use marill_recipe::{Freeze, Optimizer};

use crate::{
    Rng, TrainError,
    optimizer::{Moments, adamw},
};

/// A trained tensor with its gradient sum and moments.
pub(crate) struct Param {
    pub name: String,
    /// That of [`Params::vars`].
    pub var: Var,
    pub moments: Moments,
    grad: Vec<f32>,
    /// Whether the current micro-batch gave it a gradient.
    reached: bool,
}

/// All trained tensors, in order of their names.
pub(crate) struct Params {
    vars: VarMap,
    pub all: Vec<Param>,
}

/// Names of what full fine-tuning trains: what is private of the private layers; all of them,
/// embedding, norm and head too where nothing is frozen.
pub(crate) fn full_names<'a>(
    base: &'a Checkpoint,
    transforms: &Transforms,
    freeze: &Freeze,
) -> impl Iterator<Item = &'a String> {
    let frozen = transforms.frozen_layers;
    let all = transforms.frozen_layers == 0 && !freeze.embedding;
    base.tensors.keys().filter(move |name| {
        let layer = base.config.layer_of(name);
        layer.map_or(all, |l| {
            l >= frozen && (all || !base.config.is_public(name))
        })
    })
}

impl Params {
    /// LoRA factors of the private layers: `A` uniform in `±1/sqrt(in)` (as PEFT draws it), `B`
    /// zero.
    pub fn lora(base: &Checkpoint, transforms: &Transforms, seed: u64) -> Result<Self, TrainError> {
        let Some(lora) = &transforms.lora else {
            return Self::from_tensors(BTreeMap::new());
        };
        let mut tensors = BTreeMap::new();
        for layer in transforms.frozen_layers..base.config.num_hidden_layers() {
            for module in MODULES.iter().filter(|module| lora.targets(module)) {
                let [out, inner] = base
                    .config
                    .module_shape(module)
                    .expect("MODULES are the modules");
                let mut rng = Rng::new(seed, &format!("lora {layer} {module}"));
                let bound = 1.0 / (inner as f64).sqrt();
                let rank = lora.rank_of(module);
                let a: Vec<f32> = (0..rank * inner)
                    .map(|_| ((2.0 * rng.uniform() - 1.0) * bound) as f32)
                    .collect();
                tensors.insert(Adapter::name(layer, module, 'A'), (a, vec![rank, inner]));
                let b = vec![0f32; out * rank];
                tensors.insert(Adapter::name(layer, module, 'B'), (b, vec![out, rank]));
            }
        }
        let tensors = tensors.into_iter().map(|(name, (data, shape))| {
            let tensor = Tensor::from_vec(data, shape, &Device::Cpu)?;
            Ok((name, tensor))
        });
        Self::from_tensors(tensors.collect::<Result<_, TrainError>>()?)
    }

    /// The checkpoint's own weights that [`full_names`] lists.
    pub fn full(
        base: &Checkpoint,
        transforms: &Transforms,
        freeze: &Freeze,
    ) -> Result<Self, TrainError> {
        let mut chosen = BTreeMap::new();
        for name in full_names(base, transforms, freeze) {
            chosen.insert(name.clone(), base.tensors[name].copy()?);
        }
        Self::from_tensors(chosen)
    }

    fn from_tensors(tensors: BTreeMap<String, Tensor>) -> Result<Self, TrainError> {
        let vars = VarMap::new();
        let all = tensors.into_iter().map(|(name, tensor)| {
            let count = tensor.elem_count();
            let var = Var::from_tensor(&tensor)?;
            let mut map = vars.data().lock().expect("no panic holds the lock");
            map.insert(name.clone(), var.clone());
            Ok(Param {
                name,
                var,
                moments: Moments::zeros(count),
                grad: vec![0f32; count],
                reached: false,
            })
        });
        let all = all.collect::<Result<_, TrainError>>()?;
        Ok(Self { vars, all })
    }

    /// The model with these tensors in place; later updates show in it.
    pub fn decoder(&self, base: &Checkpoint, transforms: &Transforms) -> Result<Llama, ModelError> {
        let vars = self.vars.data().lock().expect("no panic holds the lock");
        let trained = vars
            .iter()
            .map(|(name, var)| (name.clone(), var.as_tensor().clone()));
        Llama::new(
            base.config.llama()?,
            transforms,
            base.var_builder_with(trained),
        )
    }

    /// Adds the gradients of a micro-batch, or of a part of its graph.
    pub fn accumulate(&mut self, grads: &GradStore) -> Result<(), TrainError> {
        for param in &mut self.all {
            let Some(grad) = grads.get(param.var.as_tensor()) else {
                continue;
            };
            let grad: Vec<f32> = grad.flatten_all()?.to_vec1()?;
            param
                .grad
                .iter_mut()
                .zip(&grad)
                .for_each(|(sum, g)| *sum += g);
            param.reached = true;
        }
        Ok(())
    }

    /// Ends a micro-batch.
    ///
    /// # Errors
    /// [`TrainError::Setting`] for a tensor without gradient: it would silently stay as it is.
    pub fn all_reached(&mut self) -> Result<(), TrainError> {
        for param in &mut self.all {
            if !std::mem::take(&mut param.reached) {
                let reason = format!("`{}` has no gradient", param.name);
                return Err(TrainError::Setting {
                    key: "lora.target_modules",
                    reason,
                });
            }
        }
        Ok(())
    }

    /// Forgets gradients that were summed but not applied.
    pub fn clear(&mut self) {
        self.all
            .iter_mut()
            .for_each(|param| (param.reached, param.grad) = (false, vec![0.0; param.grad.len()]));
    }

    /// L2 norm of all gradients together.
    pub fn grad_norm(&self) -> f64 {
        let squares = self.all.iter().map(|p| {
            p.grad
                .iter()
                .map(|&g| f64::from(g) * f64::from(g))
                .sum::<f64>()
        });
        squares.sum::<f64>().sqrt()
    }

    /// One optimizer step with gradients times `grad_scale`; gradients are cleared.
    pub fn update(
        &mut self,
        knobs: &Optimizer,
        rate: f64,
        grad_scale: f32,
        step: usize,
    ) -> Result<(), TrainError> {
        for param in &mut self.all {
            let shape = param.var.shape().clone();
            let mut values: Vec<f32> = param.var.flatten_all()?.to_vec1()?;
            // Norm gains are no directions to shrink.
            let decay = shape.rank() > 1;
            adamw(
                &mut values,
                &param.grad,
                &mut param.moments,
                knobs,
                rate,
                decay,
                grad_scale,
                step,
            );
            param
                .var
                .set(&Tensor::from_vec(values, shape, &Device::Cpu)?)?;
            param.grad.fill(0.0);
        }
        Ok(())
    }

    /// Gives one tensor another value of the same shape.
    pub fn set(&mut self, name: &str, value: &Tensor) -> Result<(), TrainError> {
        let param = self.all.iter().find(|param| param.name == name);
        let missing = || ModelError::MissingTensor { name: name.into() };
        Ok(param.ok_or_else(missing)?.var.set(value)?)
    }

    /// The trained tensors as they are now.
    pub fn tensors(&self) -> Result<BTreeMap<String, Tensor>, TrainError> {
        self.all
            .iter()
            .map(|p| Ok((p.name.clone(), p.var.as_tensor().copy()?)))
            .collect()
    }
}
