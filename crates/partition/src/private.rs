//! The two forms of a private part: low-rank factors, or the private layers of a full fine-tune.

use std::{collections::BTreeMap, ops::Range, path::Path};

use candle_core::Tensor;
use marill_model::{Adapter, Checkpoint, ModelConfig, ModelError, Transforms};

use crate::{PartitionError, layers::floats};

/// The low-rank factors; PEFT's own file name, so that PEFT finds it.
pub const ADAPTER_FILE: &str = "private/adapter_model.safetensors";
/// The private layers as a whole, under the names of the checkpoint.
pub const LAYERS_FILE: &str = "private/layers.safetensors";

/// What only the owner holds.
#[derive(Debug, Clone)]
pub enum PrivatePart {
    LowRank(Adapter),
    /// Linear maps and norms of the private layers, as the checkpoint names them.
    Full(BTreeMap<String, Tensor>),
}

impl PrivatePart {
    /// The private layers of a fully fine-tuned checkpoint.
    pub(crate) fn layers_of(
        model: &Checkpoint,
        frozen_layers: usize,
    ) -> Result<Self, PartitionError> {
        let names = layer_names(
            &model.config,
            frozen_layers..model.config.num_hidden_layers(),
        );
        let tensors = names.map(|name| Ok((name.clone(), model.tensor(&name)?.clone())));
        Ok(Self::Full(tensors.collect::<Result<_, ModelError>>()?))
    }

    /// Where it stands in a partition.
    pub fn file(&self) -> &'static str {
        match self {
            Self::LowRank(_) => ADAPTER_FILE,
            Self::Full(_) => LAYERS_FILE,
        }
    }

    pub(crate) fn load(dir: &Path, full: bool) -> Result<Self, PartitionError> {
        if !full {
            return Ok(Self::LowRank(Adapter::load(&dir.join(ADAPTER_FILE))?));
        }
        // The same container; only the names differ.
        Ok(Self::Full(Adapter::load(&dir.join(LAYERS_FILE))?.tensors))
    }

    pub(crate) fn save(&self, dir: &Path) -> Result<(), PartitionError> {
        let adapter = match self {
            Self::LowRank(adapter) => adapter.clone(),
            Self::Full(tensors) => Adapter {
                tensors: tensors.clone(),
            },
        };
        Ok(adapter.save(&dir.join(self.file()))?)
    }

    /// Every private tensor by its name.
    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        match self {
            Self::LowRank(adapter) => &adapter.tensors,
            Self::Full(tensors) => tensors,
        }
    }

    /// It holds what the transforms list, with their shapes and finite values, and nothing else.
    pub(crate) fn check(
        &self,
        base: &Checkpoint,
        transforms: &Transforms,
    ) -> Result<(), PartitionError> {
        let layers = transforms.frozen_layers..base.config.num_hidden_layers();
        let mut allowed = std::collections::BTreeSet::new();
        match (self, &transforms.lora) {
            (Self::LowRank(_), None) => {}
            (Self::LowRank(adapter), Some(lora)) => {
                adapter.check(&base.config, lora, transforms.frozen_layers)?;
                let modules = layers.flat_map(|layer| {
                    lora.target_modules
                        .iter()
                        .map(move |module| (layer, module))
                });
                allowed.extend(
                    modules.flat_map(|(l, m)| ['A', 'B'].map(|factor| Adapter::name(l, m, factor))),
                );
            }
            (Self::Full(tensors), _) => {
                for name in layer_names(&base.config, layers) {
                    let expected = base.tensor(&name)?.dims().to_vec();
                    let found = tensors
                        .get(&name)
                        .ok_or_else(|| ModelError::MissingTensor { name: name.clone() })?;
                    if found.dims() != expected {
                        let found = found.dims().to_vec();
                        return Err(ModelError::Shape {
                            name,
                            found,
                            expected,
                        }
                        .into());
                    }
                    allowed.insert(name);
                }
            }
        }
        for (name, tensor) in self.tensors() {
            let fail = |reason: &str| PartitionError::PrivateTensor {
                tensor: name.clone(),
                reason: reason.into(),
            };
            if !allowed.contains(name) {
                return Err(fail(
                    "the transforms list no such tensor of a private layer",
                ));
            }
            if floats(tensor)?.iter().any(|value| !value.is_finite()) {
                return Err(fail("it holds a value that is not finite"));
            }
        }
        Ok(())
    }
}

/// The tensors of some layers.
fn layer_names(
    config: &dyn ModelConfig,
    layers: Range<usize>,
) -> impl Iterator<Item = String> + use<'_> {
    let names = config.tensors().into_iter().map(|(name, _)| name);
    names.filter(move |name| {
        config
            .layer_of(name)
            .is_some_and(|layer| layers.contains(&layer))
    })
}
