//! `lora.init_from`: a run whose factors begin where another adapter ended, a run of Marill's or an
//! adapter of PEFT.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use candle_core::{DType, Tensor};
use marill_model::{
    Adapter, Checkpoint, HeadTransform, LoraConfig, MODULES, ModelConfig, ModelError, PeftAdapter,
    Transforms,
};
use marill_numeric::hex;
use marill_recipe::{Recipe, locate};
use sha2::{Digest, Sha256};

use crate::{TrainError, params::Params};

/// The key that names the adapter.
const KEY: &str = "lora.init_from";

/// An adapter that a run goes on from, in the run's own shapes.
pub(crate) struct InitFrom {
    /// Factors by their names, at the run's ranks and scales; rows and columns above the other
    /// adapter's rank are missing.
    factors: BTreeMap<String, Tensor>,
}

/// What lies in the folder that a recipe names.
struct Found {
    path: PathBuf,
    lora: LoraConfig,
    adapter: Adapter,
    heads: Option<HeadTransform>,
}

impl InitFrom {
    /// Reads what `lora.init_from` names; `None` where it names nothing.
    ///
    /// # Errors
    /// [`TrainError::Setting`] where the run could not go on from it without losing a part of it.
    pub fn read(
        recipe: &Recipe,
        recipe_dir: &Path,
        base: &Checkpoint,
        transforms: &Transforms,
    ) -> Result<Option<Self>, TrainError> {
        let named = recipe.lora.as_ref().and_then(|l| l.init_from.as_ref());
        let (Some(named), Some(lora)) = (named, &transforms.lora) else {
            return Ok(None);
        };
        let found = open(&locate(named, recipe_dir)?, base)?;
        if found.heads.is_some() && found.heads != transforms.heads {
            return Err(found.refused("its heads are merged otherwise than this run's"));
        }
        let mut factors = BTreeMap::new();
        for layer in 0..base.config.num_hidden_layers() {
            for module in MODULES {
                let Some((a, b)) = found.adapter.factors(layer, module) else {
                    continue;
                };
                if changes_nothing(b)? {
                    continue;
                }
                let place = format!("`{module}` of layer {layer}");
                if layer < transforms.frozen_layers {
                    let frozen = transforms.frozen_layers;
                    return Err(found.refused(&format!(
                        "it changes {place}, and `freeze.layers` = {frozen} leaves that as it is"
                    )));
                }
                if !lora.targets(module) {
                    return Err(found.refused(&format!(
                        "it changes {place}, which is not among `lora.target_modules`"
                    )));
                }
                let [rank, most] = [found.lora.rank_of(module), lora.rank_of(module)];
                if rank > most {
                    return Err(found.refused(&format!(
                        "its rank for {place} is {rank}, and this run's is {most}"
                    )));
                }
                let factor = found.lora.scale_of(module) / lora.scale_of(module);
                let scaled = if factor == 1.0 {
                    b.clone()
                } else {
                    (b.to_dtype(DType::F64)? * factor)?.to_dtype(DType::F32)?
                };
                factors.insert(Adapter::name(layer, module, 'A'), a.clone());
                factors.insert(Adapter::name(layer, module, 'B'), scaled);
            }
        }
        if factors.is_empty() {
            return Err(found.refused("it changes nothing"));
        }
        Ok(Some(Self { factors }))
    }

    /// Digest of the factors: another beginning is another run.
    pub fn sha256(&self) -> Result<String, TrainError> {
        let mut hash = Sha256::new();
        for (name, tensor) in &self.factors {
            hash.update(format!("{name} {:?}\n", tensor.dims()));
            let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
            values.iter().for_each(|v| hash.update(v.to_le_bytes()));
        }
        Ok(hex(&hash.finalize()))
    }

    /// Puts the factors into a run's own. Where the run's rank is larger, the further rows of `A`
    /// stay as they were drawn and the further columns of `B` are zero: the update is the same.
    pub fn put_into(&self, params: &mut Params) -> Result<(), TrainError> {
        let own = params.tensors()?;
        for (name, tensor) in &self.factors {
            let drawn = own
                .get(name)
                .ok_or_else(|| ModelError::MissingTensor { name: name.clone() })?;
            let dim = usize::from(name.ends_with(".lora_B.weight"));
            let [had, has] = [tensor.dims()[dim], drawn.dims()[dim]];
            let rest = drawn.narrow(dim, had, has - had)?;
            let whole = Tensor::cat(&[tensor, &rest], dim)?.contiguous()?;
            params.set(name, &whole)?;
        }
        Ok(())
    }
}

/// An update whose `B` is zero.
fn changes_nothing(b: &Tensor) -> Result<bool, TrainError> {
    let values: Vec<f32> = b.flatten_all()?.to_vec1()?;
    Ok(values.iter().all(|value| *value == 0.0))
}

/// A run's folder, or an adapter of PEFT.
fn open(path: &Path, base: &Checkpoint) -> Result<Found, TrainError> {
    let transforms = path.join("transforms.json");
    let adapter = path.join("adapter.safetensors");
    if transforms.is_file() && adapter.is_file() {
        let transforms = Transforms::load(&transforms)?;
        let adapter = Adapter::load(&adapter)?;
        let lora = transforms.lora.ok_or_else(|| TrainError::Setting {
            key: KEY,
            reason: format!("`{}` has no low-rank factors", path.display()),
        })?;
        adapter.check(&base.config, &lora, transforms.frozen_layers)?;
        return Ok(Found {
            path: path.into(),
            lora,
            adapter,
            heads: transforms.heads,
        });
    }
    if PeftAdapter::is_in(path) {
        let config = base.config.llama()?;
        let found = PeftAdapter::open(path, config)?;
        let adapter = found.from_layer(found.first_layer, config)?;
        return Ok(Found {
            path: path.into(),
            lora: found.lora,
            adapter,
            heads: None,
        });
    }
    let reason = format!(
        "`{}` is neither a finished run (`adapter.safetensors`, `transforms.json`) nor an adapter \
         of PEFT (`adapter_config.json`, `adapter_model.safetensors`)",
        path.display()
    );
    Err(TrainError::Setting { key: KEY, reason })
}

impl Found {
    fn refused(&self, why: &str) -> TrainError {
        let reason = format!("`{}` cannot be gone on from: {why}", self.path.display());
        TrainError::Setting { key: KEY, reason }
    }
}
