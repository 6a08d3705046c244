//! The private part as clients hold it, under masks or under encryption, for those who do not have
//! theirs yet: made once for each, kept in a file, sent from there. Of full-rank weights it is
//! hundreds of megabytes, so a key gets it a few times per minute only.

use std::{
    collections::HashMap,
    fs::File,
    io::{ErrorKind, Read},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use marill_mpc::{AdapterKey, PrivateProducts, Seed};
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
/// Keys that are remembered, 0.2 MB each and more; who has one that is gone gets another part.
const MAX_KEYS: usize = 500;
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

/// What is known of one mask, or of one key.
#[derive(Default)]
struct Part {
    digest: Option<String>,
    used: Option<Instant>,
    /// Of a part under encryption. It is in memory alone: behind a restart clients get another
    /// part, under another key.
    key: Option<Arc<AdapterKey>>,
}

/// What a client has or is sent.
pub(super) struct ClientPart {
    pub(super) digest: String,
    /// None where it has it.
    pub(super) sending: Option<Sending>,
    /// Where it is under encryption.
    pub(super) key: Option<Arc<AdapterKey>>,
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

    /// The private part as this client holds it, and its file unless the client `has` it by its
    /// digest. `adapter_seed` is its mask; what is under encryption has a key for each seed and
    /// principal.
    pub(super) fn of(
        &self,
        model: &SecureModel,
        adapter_seed: &Seed,
        has: Option<&str>,
        principal: Option<&Principal>,
    ) -> Result<ClientPart, ServingError> {
        let name = name_of(model, adapter_seed, principal);
        let most = match model.parameters.private_products {
            PrivateProducts::Masks => MAX_KNOWN,
            PrivateProducts::Lattice => MAX_KEYS,
        };
        let part = self.part(name, most);
        // Who wants the same waits here for the one that makes it.
        let mut part = lock(&part);
        let path = self.path(&name);
        let file = match (&part.digest, has) {
            (Some(digest), Some(has)) if digest == has => {
                return Ok(ClientPart {
                    digest: digest.clone(),
                    sending: None,
                    key: part.key.clone(),
                });
            }
            (Some(_), _) => File::open(&path).ok(),
            (None, _) => None,
        };
        // Before anything is made: a refusal costs neither time nor disk.
        self.count(principal)?;
        let file = match file {
            Some(file) => file,
            None => {
                let _making = lock(&self.making);
                let (key, bytes) = make(model, adapter_seed)?;
                let digest = hex(&Sha256::digest(&bytes));
                part.digest = Some(digest.clone());
                part.key = key.clone();
                if has == Some(digest.as_str()) {
                    self.uncount(principal);
                    let sending = None;
                    return Ok(ClientPart {
                        digest,
                        sending,
                        key,
                    });
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
        let key = part.key.clone();
        drop(part);
        self.make_room(&name);
        Ok(ClientPart {
            digest,
            sending: Some(Sending { file, bytes }),
            key,
        })
    }

    fn part(&self, name: [u8; 32], most: usize) -> Arc<Mutex<Part>> {
        let mut known = lock(&self.known);
        if known.len() >= most && !known.contains_key(&name) {
            // Digests of masks are found again when they are asked for.
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

/// Whose part: that of a mask, or of a principal with it.
fn name_of(model: &SecureModel, adapter_seed: &Seed, principal: Option<&Principal>) -> [u8; 32] {
    let name = adapter_seed.derive("name").to_bytes();
    match (model.parameters.private_products, principal) {
        (PrivateProducts::Lattice, Some(principal)) => {
            let hash = Sha256::new_with_prefix(name).chain_update(principal.digest);
            hash.finalize().into()
        }
        _ => name,
    }
}

/// The private part in the form that leaves the server, and the key that stays here.
fn make(
    model: &SecureModel,
    adapter_seed: &Seed,
) -> Result<(Option<Arc<AdapterKey>>, Vec<u8>), ServingError> {
    match model.parameters.private_products {
        PrivateProducts::Masks => {
            let masked = model.private.mask(&model.spec, adapter_seed);
            Ok((None, masked.to_bytes()))
        }
        PrivateProducts::Lattice => {
            let made = AdapterKey::encrypt(&model.spec, &model.private);
            let (key, bytes) = made.map_err(SessionError::from)?;
            Ok((Some(key), bytes))
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
    use marill_mpc::{
        EncryptedAdapter,
        random_model::{random_weights, tiny_spec},
    };

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
        for part in all {
            assert_eq!(part.digest, hex(&Sha256::digest(&expected)));
            assert!(read(part.sending) == expected);
        }
        let path = parts.path(&seed.derive("name").to_bytes());
        let made = std::fs::metadata(&path).unwrap().modified().unwrap();
        let part = parts.of(&model, &seed, Some("another"), None).unwrap();
        assert!(
            read(part.sending) == expected
                && std::fs::metadata(&path).unwrap().modified().unwrap() == made
        );
        assert!(
            parts
                .of(&model, &seed, Some(&part.digest), None)
                .unwrap()
                .sending
                .is_none(),
            "who has it is sent nothing"
        );
        std::fs::remove_file(&path).unwrap();
        assert!(
            read(parts.of(&model, &seed, None, None).unwrap().sending) == expected,
            "what was removed is made again"
        );
        let other = parts
            .of(&model, &Seed::from_bytes([2; 32]), None, None)
            .unwrap();
        assert_ne!(other.digest, part.digest);
    }

    #[test]
    fn a_part_under_encryption_has_a_key_for_each_client() {
        let folder = tempfile::tempdir().unwrap();
        let mut model = model();
        model.parameters = model
            .parameters
            .with_private_products(PrivateProducts::Lattice);
        let parts = MaskedParts::open(folder.path().join("masked")).unwrap();
        let seed = Seed::from_bytes([1; 32]);
        let principal = |byte| Principal {
            digest: [byte; 32],
            name: "a".into(),
        };
        let ask = |byte, has| {
            parts
                .of(&model, &seed, has, Some(&principal(byte)))
                .unwrap()
        };
        let first = ask(1, None);
        let bytes = read(first.sending);
        assert_eq!(
            bytes.len(),
            EncryptedAdapter::bytes_of(&model.spec).unwrap()
        );
        let adapter = EncryptedAdapter::from_bytes(&model.spec, &bytes).unwrap();
        assert_eq!(adapter.digest(), first.digest);
        let again = ask(1, Some(&first.digest));
        assert!(again.sending.is_none());
        let same = |a: &Option<Arc<AdapterKey>>, b: &Option<Arc<AdapterKey>>| {
            Arc::ptr_eq(a.as_ref().unwrap(), b.as_ref().unwrap())
        };
        assert!(same(&first.key, &again.key));
        let other = ask(2, Some(&first.digest));
        assert!(!same(&first.key, &other.key) && other.digest != first.digest);
        assert!(read(other.sending) != bytes);
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
        let digest = ask(2).unwrap().digest;
        assert!(
            parts
                .of(&model, &seed, Some(&digest), Some(&principal(1)))
                .is_ok(),
            "who has it needs none"
        );
    }
}
