//! The private part under the masks of clients, for those who do not have theirs yet: made once for
//! each mask, kept in a file, sent from there. Of full-rank weights it is hundreds of megabytes, so
//! a key gets it a few times per minute only.

use std::{
    collections::HashMap,
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use marill_mpc::Seed;
use marill_net::Channel;
use marill_numeric::hex;
use sha2::{Digest, Sha256};

use crate::{
    error::{Refusal, ServingError, SessionError, StateError},
    secret_files::replace_file,
    server::SecureModel,
    state::{KeyDigest, Principal},
};

/// The files of all masks together, but for the one that was asked for last.
const MAX_KEPT_BYTES: u64 = 4 << 30;
/// Masks whose digests are remembered.
const MAX_KNOWN: usize = 10_000;
/// Times that a key is sent its part.
const SENT_A_MINUTE: u64 = 6;
const MINUTE: Duration = Duration::from_secs(60);
const PIECE_BYTES: usize = 1 << 20;

/// The private part under each mask that was asked for.
pub(super) struct MaskedParts {
    folder: PathBuf,
    known: Mutex<HashMap<[u8; 32], Arc<Mutex<Part>>>>,
    /// One is made at a time: each takes its size in memory.
    making: Mutex<()>,
    sent: Mutex<HashMap<KeyDigest, Vec<Instant>>>,
}

/// What is known of one mask.
#[derive(Default)]
struct Part {
    digest: Option<String>,
    used: Option<Instant>,
}

/// What a client has to be sent.
pub(super) struct Sending {
    file: File,
    pub(super) bytes: u64,
}

impl Sending {
    /// Sends the file in pieces.
    pub(super) fn send(mut self, connection: &mut dyn Channel) -> Result<(), ServingError> {
        loop {
            let mut piece = Vec::with_capacity(PIECE_BYTES);
            let read = (&mut self.file)
                .take(PIECE_BYTES as u64)
                .read_to_end(&mut piece);
            read.map_err(StateError::io("masked"))?;
            if piece.is_empty() {
                return Ok(());
            }
            connection
                .send(piece)
                .map_err(SessionError::net("client"))?;
        }
    }
}

impl MaskedParts {
    /// In a folder of its own; what an earlier run left there may be of another model.
    pub(super) fn open(folder: PathBuf) -> Result<Self, ServingError> {
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(StateError::io(&folder)(error).into());
            }
            _ => {}
        }
        let (known, making, sent) = Default::default();
        Ok(Self {
            folder,
            known,
            making,
            sent,
        })
    }

    /// The digest of the private part under a mask, and its file unless the client `has` it by this
    /// digest.
    pub(super) fn of(
        &self,
        model: &SecureModel,
        adapter_seed: &Seed,
        has: Option<&str>,
        principal: Option<&Principal>,
    ) -> Result<(String, Option<Sending>), ServingError> {
        let name = adapter_seed.derive("name").to_bytes();
        let part = self.part(name);
        // Who wants the same waits here for the one that makes it.
        let mut part = lock(&part);
        let path = self.path(&name);
        let file = match (&part.digest, has) {
            (Some(digest), Some(has)) if digest == has => return Ok((digest.clone(), None)),
            (Some(_), _) => File::open(&path).ok(),
            (None, _) => None,
        };
        // Before anything is made: a refusal costs neither time nor disk.
        self.count(principal)?;
        let file = match file {
            Some(file) => file,
            None => {
                let _making = lock(&self.making);
                let bytes = model.private.mask(&model.spec, adapter_seed).to_bytes();
                let digest = hex(&Sha256::digest(&bytes));
                part.digest = Some(digest.clone());
                if has == Some(digest.as_str()) {
                    self.uncount(principal);
                    return Ok((digest, None));
                }
                // From here on the file counts among those that make room.
                part.used = Some(Instant::now());
                replace_file(&path, &bytes)?;
                File::open(&path).map_err(StateError::io(&path))?
            }
        };
        let bytes = file.metadata().map_err(StateError::io(&path))?.len();
        part.used = Some(Instant::now());
        let digest = part.digest.clone().unwrap_or_default();
        drop(part);
        self.make_room(&name);
        Ok((digest, Some(Sending { file, bytes })))
    }

    fn part(&self, name: [u8; 32]) -> Arc<Mutex<Part>> {
        let mut known = lock(&self.known);
        if known.len() >= MAX_KNOWN && !known.contains_key(&name) {
            // Their digests are found again when they are asked for.
            known.retain(|name, part| Arc::strong_count(part) > 1 || self.path(name).exists());
        }
        known.entry(name).or_default().clone()
    }

    fn path(&self, name: &[u8; 32]) -> PathBuf {
        self.folder.join(hex(name))
    }

    /// # Errors
    /// [`SessionError::Quota`] for a key that was sent its part too often.
    fn count(&self, principal: Option<&Principal>) -> Result<(), ServingError> {
        let Some(principal) = principal else {
            return Ok(());
        };
        let mut sent = lock(&self.sent);
        sent.retain(|_, times| {
            times.retain(|at| at.elapsed() < MINUTE);
            !times.is_empty()
        });
        let times = sent.entry(principal.digest).or_default();
        if times.len() as u64 >= SENT_A_MINUTE {
            let retry_after = MINUTE.saturating_sub(times[0].elapsed()) + Duration::from_secs(1);
            let what = "downloads of the masked part";
            return Err(SessionError::Quota(Refusal::TooFast {
                what,
                limit: SENT_A_MINUTE,
                retry_after,
            })
            .into());
        }
        times.push(Instant::now());
        Ok(())
    }

    /// Takes the last count back: the part was not sent.
    fn uncount(&self, principal: Option<&Principal>) {
        let mut sent = lock(&self.sent);
        if let Some(times) = principal.and_then(|principal| sent.get_mut(&principal.digest)) {
            times.pop();
        }
    }

    /// Removes what was not asked for for longest.
    fn make_room(&self, kept: &[u8; 32]) {
        let others: Vec<_> = lock(&self.known)
            .iter()
            .filter(|(name, _)| *name != kept)
            .map(|(name, part)| (*name, part.clone()))
            .collect();
        // One that is being made or looked at now stays.
        let used = others
            .iter()
            .filter_map(|(name, part)| Some((part.try_lock().ok()?.used?, self.path(name))));
        let mut files: Vec<_> = used
            .filter_map(|(used, path)| Some((used, size(&path)?, path)))
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, bytes, path) in files {
            if total <= MAX_KEPT_BYTES {
                return;
            }
            // Whoever is being sent it has it open.
            if std::fs::remove_file(&path).is_ok() {
                total -= bytes;
            }
        }
    }
}

fn size(path: &Path) -> Option<u64> {
    std::fs::metadata(path).ok().map(|metadata| metadata.len())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use marill_mpc::random_model::{random_weights, tiny_spec};

    use super::*;
    use crate::terms::Setting;

    fn model() -> SecureModel {
        let spec = tiny_spec();
        let (public, private) = random_weights(&spec, 7);
        let (Ok(public), Ok(private)) = (Arc::try_unwrap(public), Arc::try_unwrap(private)) else {
            panic!("shared")
        };
        SecureModel::new("tiny", spec, public, private, Setting::Dealer)
    }

    fn read(sending: Option<Sending>) -> Vec<u8> {
        let mut sending = sending.unwrap();
        let mut bytes = Vec::new();
        sending.file.read_to_end(&mut bytes).unwrap();
        assert_eq!(bytes.len() as u64, sending.bytes);
        bytes
    }

    #[test]
    fn a_part_is_made_once_for_all_who_want_it() {
        let folder = tempfile::tempdir().unwrap();
        let model = model();
        let parts = MaskedParts::open(folder.path().join("masked")).unwrap();
        let seed = Seed::from_bytes([1; 32]);
        let expected = model.private.mask(&model.spec, &seed).to_bytes();
        let all: Vec<_> = std::thread::scope(|scope| {
            let ask = || parts.of(&model, &seed, None, None).unwrap();
            let threads: Vec<_> = (0..6).map(|_| scope.spawn(ask)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        for (digest, sending) in all {
            assert_eq!(digest, hex(&Sha256::digest(&expected)));
            assert!(read(sending) == expected);
        }
        let path = parts.path(&seed.derive("name").to_bytes());
        let made = std::fs::metadata(&path).unwrap().modified().unwrap();
        let (digest, sending) = parts.of(&model, &seed, Some("another"), None).unwrap();
        assert!(
            read(sending) == expected
                && std::fs::metadata(&path).unwrap().modified().unwrap() == made
        );
        assert!(
            parts
                .of(&model, &seed, Some(&digest), None)
                .unwrap()
                .1
                .is_none(),
            "who has it is sent nothing"
        );
        std::fs::remove_file(&path).unwrap();
        assert!(
            read(parts.of(&model, &seed, None, None).unwrap().1) == expected,
            "what was removed is made again"
        );
        let other = parts
            .of(&model, &Seed::from_bytes([2; 32]), None, None)
            .unwrap();
        assert_ne!(other.0, digest);
    }

    #[test]
    fn a_key_is_sent_it_a_few_times_a_minute() {
        let folder = tempfile::tempdir().unwrap();
        let model = model();
        let parts = MaskedParts::open(folder.path().join("masked")).unwrap();
        let seed = Seed::from_bytes([1; 32]);
        let principal = |byte| Principal {
            digest: [byte; 32],
            name: "a".into(),
        };
        let ask = |byte| parts.of(&model, &seed, None, Some(&principal(byte)));
        (0..SENT_A_MINUTE).for_each(|_| drop(ask(1).unwrap()));
        let refused = ask(1).map(|_| ()).unwrap_err();
        assert_eq!(refused.refusal_code("client"), "rate_limited");
        assert!((1..=61).contains(&refused.retry_after_seconds().unwrap()));
        assert!(ask(2).is_ok(), "another key has its own");
        let (digest, _) = ask(2).unwrap();
        assert!(
            parts
                .of(&model, &seed, Some(&digest), Some(&principal(1)))
                .is_ok(),
            "who has it needs none"
        );
    }
}
