//! One adapter mask per client and adapter, kept so that a client downloads its masked adapter once.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use marill_mpc::{DecoderSpec, MatrixMasks, Seed};
use zeroize::Zeroizing;

use crate::ServingError;
use crate::secret_files::random;
use crate::wire::{hex, unhex};

/// Lines of `client private-digest seed`, readable by the dealer's user only. Whoever writes correlations ahead may append
/// meanwhile, so nothing is ever cut off here: what a failed write left of a line is ended before the next one.
pub(crate) struct Masks {
    path: PathBuf,
    state: Mutex<State>,
    /// Masks of whole matrices by the name of their seed: one set, hundreds of megabytes.
    expanded: Mutex<Option<([u8; 32], MatrixMasks)>>,
}

struct State {
    file: File,
    /// Whether the last line may be without its end.
    torn: bool,
    seeds: HashMap<(String, String), [u8; 32]>,
}

impl Masks {
    pub(crate) fn open(path: &Path) -> Result<Self, ServingError> {
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let file = file.map_err(ServingError::io(path))?;
        let mut seeds = HashMap::new();
        let (mut reader, mut line, mut torn) = (BufReader::new(&file), String::new(), false);
        while reader.read_line(&mut line).map_err(ServingError::io(path))? > 0 {
            torn = !line.ends_with('\n');
            let words: Vec<&str> = line.trim_end().split(' ').collect();
            if let [client, private, seed] = words[..]
                && let Some(seed) = unhex::<32>(seed)
            {
                seeds.insert((client.to_string(), private.to_string()), seed);
            }
            line.clear();
        }
        Ok(Self { path: path.into(), state: Mutex::new(State { file, torn, seeds }), expanded: Mutex::default() })
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
        if let Some(seed) = state.seeds.get(&key) {
            return Ok(Seed::from_bytes(*seed));
        }
        let seed = *random::<32>()?;
        let end = if state.torn { "\n" } else { "" };
        let line = Zeroizing::new(format!("{end}{client} {private_sha256} {}\n", hex(&seed)));
        let written = state.file.write_all(line.as_bytes()).and_then(|()| state.file.sync_data());
        state.torn = written.is_err();
        written.map_err(ServingError::io(&self.path))?;
        state.seeds.insert(key, seed);
        Ok(Seed::from_bytes(seed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_keeps_its_mask_over_restarts_and_torn_lines() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("masks");
        let (alice, private) = ("a1".repeat(32), "0f".repeat(32));
        let masks = Masks::open(&path).unwrap();
        let first = masks.seed(&alice, &private).unwrap().to_bytes();
        assert_ne!(masks.seed("b", &private).unwrap().to_bytes(), first);
        drop(masks);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"c 0f0f 12").unwrap();
        let masks = Masks::open(&path).unwrap();
        assert_eq!(masks.seed(&alice, &private).unwrap().to_bytes(), first);
        let dora = masks.seed("d", &private).unwrap().to_bytes();
        assert_eq!(
            Masks::open(&path).unwrap().seed("d", &private).unwrap().to_bytes(),
            dora,
            "not glued to the torn one"
        );
    }
}
