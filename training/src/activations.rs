//! Activations behind the frozen layers, computed once per row: frozen layers give the same numbers
//! in every epoch.

use std::path::Path;

use candle_core::{DType, Tensor};
use half::f16;
use marill_model::{Llama, Rows};

use crate::{
    Sample, TrainError,
    prefix_cache::{self, Key, PrefixCache},
};

/// Rows kept in memory at most, in bytes of f16.
const LIMIT_BYTES: usize = 4 << 30;

/// Boundary activations behind the frozen prefix, made once per sample and kept as f16.
pub(crate) struct Activations {
    rows: Vec<Option<Vec<f16>>>,
    bytes: usize,
    disk: Option<Disk>,
    /// Why the disk is not used any more, or was not from the beginning.
    pub note: Option<String>,
    /// Rows that an earlier run had left.
    pub found: usize,
}

struct Disk {
    cache: PrefixCache,
    keys: Vec<Key>,
}

impl Activations {
    pub fn new(samples: usize) -> Self {
        Self {
            rows: vec![None; samples],
            bytes: 0,
            disk: None,
            note: None,
            found: 0,
        }
    }

    /// With what earlier runs on the same model and rows left in `dir`.
    pub fn on_disk(
        samples: &[Sample],
        dir: &Path,
        model: &str,
        frozen: usize,
        hidden: usize,
    ) -> Self {
        let mut all = Self::new(samples.len());
        let keys: Vec<Key> = samples
            .iter()
            .map(|sample| prefix_cache::key(&sample.tokens))
            .collect();
        match PrefixCache::open(dir, model, frozen, hidden, LIMIT_BYTES as u64, &keys) {
            Ok(Some((cache, found))) => {
                for (row, key) in all.rows.iter_mut().zip(&keys) {
                    let Some(values) = found.get(key) else {
                        continue;
                    };
                    all.bytes += values.len() * 2;
                    all.found += 1;
                    *row = Some(values.clone());
                }
                all.disk = Some(Disk { cache, keys });
            }
            Ok(None) => all.note = Some("another run holds it".into()),
            Err(error) => all.note = Some(error.to_string()),
        }
        all
    }

    /// Keeps a row for later epochs and, where there is a place, for later runs.
    fn keep(&mut self, sample: usize, row: Vec<f16>) {
        if let Some(disk) = &mut self.disk {
            match disk.cache.append(&disk.keys[sample], &row) {
                Ok(true) => {}
                Ok(false) => self.disk = None,
                Err(error) => (self.disk, self.note) = (None, Some(error.to_string())),
            }
        }
        if self.bytes + row.len() * 2 <= LIMIT_BYTES {
            self.bytes += row.len() * 2;
            self.rows[sample] = Some(row);
        }
    }

    /// `[N, hidden]` behind the first `frozen` layers for a batch of samples, laid one after
    /// another.
    pub fn boundary(
        &mut self,
        decoder: &Llama,
        frozen: usize,
        samples: &[Sample],
        batch: &[usize],
    ) -> Result<Tensor, TrainError> {
        let tokens = |batch: &[usize]| {
            batch
                .iter()
                .flat_map(|&i| samples[i].tokens.clone())
                .collect::<Vec<u32>>()
        };
        if frozen == 0 {
            return Ok(decoder.embed(&tokens(batch))?);
        }
        let hidden = decoder.config.hidden_size;
        let missing: Vec<usize> = batch
            .iter()
            .copied()
            .filter(|&i| self.rows[i].is_none())
            .collect();
        let mut fresh: Vec<(usize, Vec<f16>)> = Vec::new();
        if !missing.is_empty() {
            let lengths: Vec<usize> = missing.iter().map(|&i| samples[i].tokens.len()).collect();
            let x = decoder.embed(&tokens(&missing))?.detach();
            let x = decoder.run(x, 0..frozen, &Rows::packed(&lengths), None)?;
            let flat: Vec<f16> = x.to_dtype(DType::F16)?.flatten_all()?.to_vec1()?;
            let mut rest = &flat[..];
            for (&sample, &length) in missing.iter().zip(&lengths) {
                let (own, tail) = rest.split_at(length * hidden);
                fresh.push((sample, own.to_vec()));
                rest = tail;
            }
        }
        let mut out = Vec::new();
        for &sample in batch {
            let stored = self.rows[sample].as_deref();
            let row = stored.or_else(|| {
                fresh
                    .iter()
                    .find(|(i, _)| *i == sample)
                    .map(|(_, row)| &row[..])
            });
            out.extend(row.expect("cached or just made").iter().map(|v| v.to_f32()));
        }
        for (sample, row) in fresh {
            self.keep(sample, row);
        }
        let count = out.len() / hidden;
        Ok(Tensor::from_vec(
            out,
            (count, hidden),
            decoder.embed_tokens.embeddings().device(),
        )?)
    }
}
