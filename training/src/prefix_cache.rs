//! Boundary activations on disk, so that another run on the same model and rows need not compute
//! them again.
//!
//! One file a model and number of frozen layers: records of `sha256 of the tokens (32 bytes), rows
//! (u32), rows * hidden f16 values, crc-like sum (u64)`, appended only. A record that a killed run
//! left half written ends the reading, and the file is cut there.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{BufReader, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
};

use half::f16;
use sha2::{Digest, Sha256};

/// Written first in every file, with a version of the float prefix: other kernels may give other
/// last bits.
const MAGIC: &[u8; 16] = b"marill prefix 1\n";

/// What a row of tokens is found by.
pub(crate) type Key = [u8; 32];

/// The key of a row.
pub(crate) fn key(tokens: &[u32]) -> Key {
    let mut hash = Sha256::new();
    tokens
        .iter()
        .for_each(|token| hash.update(token.to_le_bytes()));
    hash.finalize().into()
}

/// An open cache file. The lock that it holds keeps other runs from appending in between.
pub(crate) struct PrefixCache {
    path: PathBuf,
    file: File,
    hidden: usize,
    bytes: u64,
    limit_bytes: u64,
}

impl PrefixCache {
    /// Opens the file of a model, or makes it, and reads what is wanted of it. Older files of the
    /// folder go when all together are larger than `limit_bytes`.
    ///
    /// `None` when another run holds it: two runs at a time need not share.
    pub fn open(
        dir: &Path,
        model: &str,
        frozen: usize,
        hidden: usize,
        limit_bytes: u64,
        wanted: &[Key],
    ) -> std::io::Result<Option<(Self, HashMap<Key, Vec<f16>>)>> {
        std::fs::create_dir_all(dir)?;
        let path = dir.join(format!(
            "{}-{frozen}.activations",
            &model[..32.min(model.len())]
        ));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)?;
        if file.try_lock().is_err() {
            return Ok(None);
        }
        let mut cache = Self {
            path,
            file,
            hidden,
            bytes: 0,
            limit_bytes,
        };
        let found = cache.read(wanted)?;
        cache.drop_older_files(dir)?;
        Ok(Some((cache, found)))
    }

    fn read(&mut self, wanted: &[Key]) -> std::io::Result<HashMap<Key, Vec<f16>>> {
        let wanted: std::collections::HashSet<&Key> = wanted.iter().collect();
        let mut found = HashMap::new();
        let length = self.file.metadata()?.len();
        let mut reader = BufReader::with_capacity(1 << 20, &self.file);
        let mut magic = [0u8; 16];
        let mut good = 0;
        if reader.read_exact(&mut magic).is_ok() && &magic == MAGIC {
            good = MAGIC.len() as u64;
            while let Some((key, values, size)) = record(&mut reader, self.hidden, length - good) {
                good += size;
                if wanted.contains(&key) {
                    found.insert(key, values);
                }
            }
        }
        drop(reader);
        if good == 0 {
            self.file.set_len(0)?;
            self.file.seek(SeekFrom::Start(0))?;
            self.file.write_all(MAGIC)?;
            good = MAGIC.len() as u64;
        }
        self.file.set_len(good)?;
        self.file.seek(SeekFrom::Start(good))?;
        self.bytes = good;
        Ok(found)
    }

    /// Removes the least recently written files of other models until all fit.
    fn drop_older_files(&self, dir: &Path) -> std::io::Result<()> {
        let entries = std::fs::read_dir(dir)?
            .filter_map(Result::ok)
            .map(|entry| entry.path());
        let ours = entries.filter(|path| {
            path.extension().is_some_and(|e| e == "activations") && *path != self.path
        });
        let mut others: Vec<(std::time::SystemTime, u64, PathBuf)> = ours
            .filter_map(|path| {
                let found = std::fs::metadata(&path).ok()?;
                Some((found.modified().ok()?, found.len(), path))
            })
            .collect();
        others.sort();
        let mut total = self.bytes + others.iter().map(|(_, bytes, _)| bytes).sum::<u64>();
        for (_, bytes, path) in others {
            if total <= self.limit_bytes {
                break;
            }
            std::fs::remove_file(&path)?;
            total -= bytes;
        }
        Ok(())
    }

    /// Appends a row; says whether there was room.
    pub fn append(&mut self, key: &Key, values: &[f16]) -> std::io::Result<bool> {
        let payload: Vec<u8> = values
            .iter()
            .flat_map(|v| v.to_bits().to_le_bytes())
            .collect();
        let size = 32 + 4 + payload.len() as u64 + 8;
        if self.bytes + size > self.limit_bytes {
            return Ok(false);
        }
        let rows = (values.len() / self.hidden) as u32;
        let mut out = Vec::with_capacity(size as usize);
        out.extend_from_slice(key);
        out.extend_from_slice(&rows.to_le_bytes());
        out.extend_from_slice(&payload);
        out.extend_from_slice(&sum(key, &payload).to_le_bytes());
        self.file.write_all(&out)?;
        self.bytes += size;
        Ok(true)
    }
}

/// The next record and its size; `None` at the end and at the first one that is not whole.
fn record(reader: &mut impl Read, hidden: usize, left: u64) -> Option<(Key, Vec<f16>, u64)> {
    let mut key = [0u8; 32];
    let mut rows = [0u8; 4];
    let mut check = [0u8; 8];
    reader.read_exact(&mut key).ok()?;
    reader.read_exact(&mut rows).ok()?;
    let bytes = u64::from(u32::from_le_bytes(rows)) * hidden as u64 * 2;
    let size = 32 + 4 + bytes + 8;
    // Garbage in place of a length must not ask for memory.
    if size > left {
        return None;
    }
    let mut payload = vec![0u8; bytes as usize];
    reader.read_exact(&mut payload).ok()?;
    reader.read_exact(&mut check).ok()?;
    if sum(&key, &payload) != u64::from_le_bytes(check) {
        return None;
    }
    let values = payload
        .as_chunks::<2>()
        .0
        .iter()
        .map(|b| f16::from_bits(u16::from_le_bytes(*b)))
        .collect();
    Some((key, values, size))
}

/// FNV-1a over words: finds torn and flipped records, keeps nobody out.
fn sum(key: &Key, payload: &[u8]) -> u64 {
    let mut state = 0xCBF2_9CE4_8422_2325u64;
    for part in [&key[..], payload] {
        let (words, tail) = part.as_chunks::<8>();
        let words = words
            .iter()
            .map(|w| u64::from_le_bytes(*w))
            .chain(tail.iter().map(|&b| u64::from(b)));
        words.for_each(|word| {
            state = (state ^ word)
                .wrapping_mul(0x0000_0100_0000_01B3)
                .rotate_left(23)
        });
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(seed: usize, rows: usize) -> Vec<f16> {
        (0..rows * 4)
            .map(|i| f16::from_f32((seed * 31 + i) as f32))
            .collect()
    }

    fn open(
        dir: &Path,
        model: &str,
        limit: u64,
        wanted: &[Key],
    ) -> (PrefixCache, HashMap<Key, Vec<f16>>) {
        PrefixCache::open(dir, model, 2, 4, limit, wanted)
            .unwrap()
            .unwrap()
    }

    #[test]
    fn rows_are_found_again_and_a_torn_record_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let keys = [key(&[1, 2]), key(&[3]), key(&[4])];
        let (mut cache, found) = open(dir.path(), "model", 1 << 20, &keys);
        assert!(found.is_empty());
        assert!(
            cache.append(&keys[0], &row(1, 2)).unwrap()
                && cache.append(&keys[1], &row(2, 1)).unwrap()
        );
        assert!(
            PrefixCache::open(dir.path(), "model", 2, 4, 1 << 20, &keys)
                .unwrap()
                .is_none(),
            "it is in use"
        );
        let path = cache.path.clone();
        drop(cache);
        let length = std::fs::metadata(&path).unwrap().len();
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length - 3)
            .unwrap();

        let (mut cache, found) = open(dir.path(), "model", 1 << 20, &keys);
        assert_eq!(found, HashMap::from([(keys[0], row(1, 2))]));
        assert!(cache.append(&keys[2], &row(3, 5)).unwrap());
        drop(cache);
        let (_, found) = open(dir.path(), "model", 1 << 20, &keys);
        assert_eq!(
            found,
            HashMap::from([(keys[0], row(1, 2)), (keys[2], row(3, 5))])
        );
    }

    #[test]
    fn a_flipped_bit_and_a_foreign_file_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let keys = [key(&[1])];
        let (mut cache, _) = open(dir.path(), "model", 1 << 20, &keys);
        cache.append(&keys[0], &row(1, 2)).unwrap();
        let path = cache.path.clone();
        drop(cache);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[60] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(open(dir.path(), "model", 1 << 20, &keys).1.is_empty());
        std::fs::write(&path, "something else altogether").unwrap();
        assert!(open(dir.path(), "model", 1 << 20, &keys).1.is_empty());
    }

    #[test]
    fn the_limit_holds_within_a_file_and_between_models() {
        let dir = tempfile::tempdir().unwrap();
        let (mut first, _) = open(dir.path(), "first", 200, &[]);
        assert!(first.append(&key(&[1]), &row(1, 8)).unwrap());
        assert!(!first.append(&key(&[2]), &row(2, 8)).unwrap(), "no room");
        drop(first);
        let (_second, _) = open(dir.path(), "second", 100, &[]);
        assert!(!dir.path().join("first-2.activations").exists());
    }
}
