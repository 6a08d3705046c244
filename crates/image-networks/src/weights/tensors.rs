//! Tensors of a safetensors file, each taken once and all of them accounted for.

use std::collections::BTreeMap;

use safetensors::{Dtype, SafeTensors};

use crate::error::NetworkError;

const WHERE: &str = "names and shapes are those of torchvision's `state_dict`";

pub(super) fn refused(what: String, hint: &'static str) -> NetworkError {
    NetworkError::Weights { what, hint }
}

/// A file's tensors that are still to be taken.
pub(super) struct Tensors<'a> {
    file: SafeTensors<'a>,
    /// By name, whether taken.
    taken: BTreeMap<String, bool>,
}

impl<'a> Tensors<'a> {
    pub(super) fn read(bytes: &'a [u8]) -> Result<Self, NetworkError> {
        let file = SafeTensors::deserialize(bytes).map_err(|error| {
            let what = format!("the file is no safetensors file: {error}");
            refused(
                what,
                "convert it, for example with `safetensors.torch.save_file`",
            )
        })?;
        let names = file.names().into_iter();
        let taken = names.map(|name| (name.to_string(), false)).collect();
        Ok(Self { file, taken })
    }

    /// Takes the numbers of a tensor of this shape.
    pub(super) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f64>, NetworkError> {
        let missing = || refused(format!("`{name}` is not in the file"), WHERE);
        let taken = self.taken.get_mut(name).ok_or_else(missing)?;
        *taken = true;
        let tensor = self.file.tensor(name).map_err(|_| missing())?;
        if tensor.dtype() != Dtype::F32 {
            let what = format!("`{name}` has numbers of type {:?}", tensor.dtype());
            return Err(refused(what, "convert the file to F32"));
        }
        if tensor.shape() != shape {
            let what = format!(
                "`{name}` has shape {:?} where {shape:?} belongs",
                tensor.shape()
            );
            return Err(refused(what, WHERE));
        }
        let numbers = tensor.data().chunks_exact(4);
        let numbers = numbers.map(|b| f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
        let numbers: Vec<f64> = numbers.collect();
        match numbers.iter().find(|number| !number.is_finite()) {
            Some(number) => {
                let what = format!("`{name}` holds {number}");
                Err(refused(what, "a trained network has finite weights"))
            }
            None => Ok(numbers),
        }
    }

    /// Marks what changes nothing once training is over.
    pub(super) fn skip(&mut self, name: &str) {
        if let Some(taken) = self.taken.get_mut(name) {
            *taken = true;
        }
    }

    /// # Errors
    /// A tensor that nothing took.
    pub(super) fn finish(self) -> Result<(), NetworkError> {
        match self.taken.iter().find(|(_, taken)| !**taken) {
            Some((name, _)) => {
                let what = format!("`{name}` belongs to no layer of this network");
                Err(refused(what, WHERE))
            }
            None => Ok(()),
        }
    }
}
