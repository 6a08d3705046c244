//! A fine-tuned model as one checkpoint: the low-rank updates added to the weights.

use std::collections::BTreeMap;

use crate::{Adapter, Checkpoint, LoraConfig, ModelConfig, ModelError, module_path};

impl Checkpoint {
    /// This base with `W + scale · B A` in place of `W` for every map that `adapter` has factors
    /// of; sums are f32. The result holds what the adapter holds.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`], [`ModelError::Shape`], and [`ModelError::Corrupt`] for a
    /// merged weight that is not finite.
    pub fn merged(&self, lora: &LoraConfig, adapter: &Adapter) -> Result<Self, ModelError> {
        let mut changed = BTreeMap::new();
        for layer in 0..self.config.num_hidden_layers() {
            for module in &lora.target_modules {
                let Some((a, b)) = adapter.factors(layer, module) else {
                    continue;
                };
                let name = format!("{}.weight", module_path(layer, module));
                let weight = self.tensor(&name)?;
                let update = (b.matmul(a)? * lora.scale_of(module))?;
                if update.dims() != weight.dims() {
                    return Err(ModelError::Shape {
                        name: Adapter::name(layer, module, 'B'),
                        found: update.dims().to_vec(),
                        expected: weight.dims().to_vec(),
                    });
                }
                let merged = (weight + update)?;
                let values: Vec<f32> = merged.flatten_all()?.to_vec1()?;
                if let Some(at) = values.iter().position(|value| !value.is_finite()) {
                    let place = self.files.first().cloned().unwrap_or_default();
                    let reason = format!("merged tensor `{name}`: value {at} is no finite number");
                    return Err(ModelError::corrupt(place, reason));
                }
                changed.insert(name, merged);
            }
        }
        let mut merged = self.clone();
        merged.tensors.extend(changed);
        Ok(merged)
    }
}
