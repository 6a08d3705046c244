//! The low-rank factors of a fine-tune, as PEFT names and stores them.

use std::{collections::BTreeMap, path::Path};

use candle_core::{Device, Tensor};

use crate::{LoraConfig, ModelConfig, ModelError, var_builder::PEFT_PREFIX};

/// PEFT-named low-rank factors: `A [rank, in]` and `B [out, rank]` for private layers;
/// `delta W = scale · B A` with [`LoraConfig::scale_of`].
#[derive(Debug, Clone, Default)]
pub struct Adapter {
    /// `base_model.model.model.layers.{l}.self_attn.q_proj.lora_A.weight` and so on, f32 on the
    /// CPU.
    pub tensors: BTreeMap<String, Tensor>,
}

impl Adapter {
    /// The name of a factor: `l` counts over the whole model, `module` as in [`crate::MODULES`],
    /// `factor` `A` or `B`.
    pub fn name(layer: usize, module: &str, factor: char) -> String {
        format!(
            "{}{}.lora_{factor}.weight",
            PEFT_PREFIX,
            crate::module_path(layer, module)
        )
    }

    /// `(A, B)` of a module, when it has a private part.
    pub fn factors(&self, layer: usize, module: &str) -> Option<(&Tensor, &Tensor)> {
        Some((
            self.tensors.get(&Self::name(layer, module, 'A'))?,
            self.tensors.get(&Self::name(layer, module, 'B'))?,
        ))
    }

    /// Reads `adapter.safetensors`.
    ///
    /// # Errors
    /// [`ModelError::Io`] or [`ModelError::Corrupt`], naming the file.
    pub fn load(path: &Path) -> Result<Self, ModelError> {
        std::fs::metadata(path).map_err(ModelError::io(path))?;
        crate::named_once::check(path)?;
        let tensors = candle_core::safetensors::load(path, &Device::Cpu)
            .map_err(|e| ModelError::corrupt(path, e))?;
        let to_f32 = |t: Tensor| t.to_dtype(candle_core::DType::F32);
        let tensors = tensors
            .into_iter()
            .map(|(k, v)| Ok((k, to_f32(v)?)))
            .collect::<Result<_, ModelError>>()?;
        Ok(Self { tensors })
    }

    /// Writes `adapter.safetensors` in f32, completely or not at all.
    ///
    /// # Errors
    /// [`ModelError::Write`], naming the file.
    pub fn save(&self, path: &Path) -> Result<(), ModelError> {
        crate::checkpoint::write_tensors(self.tensors.clone().into_iter().collect(), path)
    }

    /// Checks that every factor fits the architecture and that every module of `lora` has both
    /// factors.
    ///
    /// # Errors
    /// [`ModelError::MissingTensor`] or [`ModelError::Shape`].
    pub fn check(
        &self,
        config: &dyn ModelConfig,
        lora: &LoraConfig,
        frozen_layers: usize,
    ) -> Result<(), ModelError> {
        for layer in frozen_layers..config.num_hidden_layers() {
            for module in &lora.target_modules {
                let Some([out, inner]) = config.module_shape(module) else {
                    continue;
                };
                let rank = lora.rank_of(module);
                for (factor, expected) in [('A', [rank, inner]), ('B', [out, rank])] {
                    let name = Self::name(layer, module, factor);
                    let tensor = self
                        .tensors
                        .get(&name)
                        .ok_or_else(|| ModelError::MissingTensor { name: name.clone() })?;
                    if tensor.dims() != expected {
                        let found = tensor.dims().to_vec();
                        let expected = expected.to_vec();
                        return Err(ModelError::Shape {
                            name,
                            found,
                            expected,
                        });
                    }
                }
            }
        }
        Ok(())
    }
}
