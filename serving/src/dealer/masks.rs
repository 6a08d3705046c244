//! One adapter mask per client and adapter, kept so that a client downloads its masked adapter once.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use marill_mpc::{DecoderSpec, MatrixMasks, Seed};

use crate::ServingError;
use crate::secret_files::random;
use crate::wire::{hex, unhex};

/// Lines of `client private-digest seed`, readable by the dealer's user only.
pub(crate) struct Masks {
    path: PathBuf,
    state: Mutex<(File, HashMap<(String, String), [u8; 32]>)>,
    /// Masks of whole matrices by the name of their seed: one set, hundreds of megabytes.
    expanded: Mutex<Option<([u8; 32], MatrixMasks)>>,
}

impl Masks {
    pub(crate) fn open(path: &Path) -> Result<Self, ServingError> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(ServingError::io(path))?;
        let mut seeds = HashMap::new();
        for line in BufReader::new(&file).lines() {
            let line = line.map_err(ServingError::io(path))?;
            let words: Vec<&str> = line.split(' ').collect();
            if let [client, private, seed] = words[..]
                && let Some(seed) = unhex::<32>(seed)
            {
                seeds.insert((client.to_string(), private.to_string()), seed);
            }
        }
        Ok(Self { path: path.into(), state: Mutex::new((file, seeds)), expanded: Mutex::default() })
    }

    /// What a seed expands to, shared by the sessions of one partition.
    pub(crate) fn expanded(&self, spec: &DecoderSpec, seed: &Seed) -> MatrixMasks {
        if !spec.is_full() {
            return MatrixMasks::expand(spec, seed);
        }
        let name = seed.derive("name").to_bytes();
        let mut kept = self.expanded.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, masks)) = kept.as_ref()
            && *of == name
        {
            return masks.clone();
        }
        let masks = MatrixMasks::expand(spec, seed);
        *kept = Some((name, masks.clone()));
        masks
    }

    /// The seed for this client and adapter; a new one is on disk before it is returned.
    pub(crate) fn seed(&self, client: &str, private_sha256: &str) -> Result<Seed, ServingError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (client.to_string(), private_sha256.to_string());
        if let Some(seed) = state.1.get(&key) {
            return Ok(Seed::from_bytes(*seed));
        }
        let seed = *random::<32>()?;
        let line = format!("{client} {private_sha256} {}\n", hex(&seed));
        let written = state.0.write_all(line.as_bytes()).and_then(|()| state.0.sync_data());
        written.map_err(ServingError::io(&self.path))?;
        state.1.insert(key, seed);
        Ok(Seed::from_bytes(seed))
    }
}
