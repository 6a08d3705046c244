//! Keys of preprocessed sessions, outside the dealer's state folder and of one use.
//!
//! A preprocessed session lies on two disks for days, and a disk can be set back: to last night's
//! backup, or to a snapshot. A record of what was used goes back with it. So what the dealer keeps
//! of such a session, E0's seed, and the file that the server keeps are both encrypted under a key
//! that lies here, one small file a session. The key is erased, and that is on disk, before
//! anything that it opens is handed out. Whatever is restored later, the state folder, the
//! server's, the files or all of them, opens no used session, for no client; sessions that were not
//! used still open.
//!
//! For that this folder must not be restored with the others. It lies below the cache folder unless
//! another is named, says so to backup programs (`CACHEDIR.TAG`), and its keys also depend on the
//! boot of this machine: on a disk that was set back and started again none of them opens anything.
//! A reboot therefore invalidates what was preprocessed and not used.

use std::{
    fs::{DirBuilder, File},
    io::{ErrorKind, Read},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use marill_numeric::hex;
use ring::{
    aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey},
    hkdf::{HKDF_SHA256, Salt},
};
use zeroize::Zeroizing;

use crate::{
    error::StateError,
    secret_files::{random, read_or_create_key, sync_folder, write_secret},
};

/// In the dealer's folder: which folder of the vault is this dealer's.
const NAME_FILE: &str = "vault.id";
const TAG_FILE: &str = "CACHEDIR.TAG";
/// The signature is fixed by the convention (bford.info/cachedir).
const TAG: &str = "Signature: 8a477f597d28d172789f06886806bc55\n# Keys of preprocessed \
                   correlations. Never restore this folder from a backup: used sessions would \
                   open again.\n";
#[cfg(target_os = "linux")]
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// The keys of one dealer.
pub(crate) struct Vault {
    folder: PathBuf,
}

/// The key of one session: taken out once, or just made.
pub(crate) struct SessionKey(Zeroizing<[u8; 32]>);

impl Vault {
    /// The folder below `base` that belongs to the dealer with this state folder.
    pub(crate) fn open(base: &Path, state: &Path) -> Result<Self, StateError> {
        let name = read_or_create_key(&state.join(NAME_FILE))?;
        Ok(Self {
            folder: base.join(&name[..32]),
        })
    }

    /// Erases what a kill between two steps left of keys that were being taken or made. For the
    /// dealer that runs, at its start.
    pub(crate) fn sweep(&self) -> Result<(), StateError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(source) => {
                return Err(StateError::Io {
                    path: self.folder.clone(),
                    source,
                });
            }
        };
        for path in entries.flatten().map(|entry| entry.path()) {
            if path
                .extension()
                .is_some_and(|extension| extension == "taken" || extension == "part")
            {
                std::fs::remove_file(&path).map_err(StateError::io(&path))?;
            }
        }
        sync_folder(&self.folder)
    }

    /// Makes the key of a new session; it is on disk when this returns.
    pub(crate) fn make(&self, session: &str) -> Result<SessionKey, StateError> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.folder);
        made.map_err(StateError::io(&self.folder))?;
        let tag = self.folder.with_file_name(TAG_FILE);
        if !tag.exists() {
            std::fs::write(&tag, TAG).map_err(StateError::io(&tag))?;
        }
        let key = random::<32>()?;
        write_secret(&self.folder.join(session), key.as_slice())?;
        sync_folder(&self.folder)?;
        Self::bound(&key)
    }

    /// Whether the key of a session is there still.
    pub(crate) fn has(&self, session: &str) -> bool {
        self.folder.join(session).is_file()
    }

    /// Takes the key of a session out: when this returns it is gone from the disk. `None`: it was
    /// taken before, or the folder is another one than when the session was written.
    pub(crate) fn take(&self, session: &str) -> Result<Option<SessionKey>, StateError> {
        let path = self.folder.join(session);
        let taken = self.folder.join(format!("{session}.taken"));
        // Of two who take it at once, one succeeds here.
        match std::fs::rename(&path, &taken) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError::Io { path, source }),
        }
        let mut key = Zeroizing::new([0; 32]);
        let read = File::open(&taken).and_then(|mut file| file.read_exact(key.as_mut_slice()));
        let removed = std::fs::remove_file(&taken).map_err(StateError::io(&taken));
        removed.and_then(|()| sync_folder(&self.folder))?;
        read.map_err(StateError::io(&path))?;
        Self::bound(&key).map(Some)
    }

    /// What opens anything is derived from the stored key and the machine's boot.
    fn bound(stored: &[u8; 32]) -> Result<SessionKey, StateError> {
        #[cfg(target_os = "linux")]
        let boot = std::fs::read(BOOT_ID).map_err(StateError::io(BOOT_ID))?;
        // Elsewhere the folder alone decides.
        #[cfg(not(target_os = "linux"))]
        let boot = Vec::new();
        let derived = Salt::new(HKDF_SHA256, &boot).extract(stored);
        let mut key = Zeroizing::new([0; 32]);
        derived
            .expand(&[b"marill vault 1"], HKDF_SHA256)
            .and_then(|okm| okm.fill(key.as_mut_slice()))
            .expect("32 bytes");
        Ok(SessionKey(key))
    }
}

impl SessionKey {
    fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let derived = Salt::new(HKDF_SHA256, b"marill session ahead 1").extract(self.0.as_slice());
        let mut key = Zeroizing::new([0; 32]);
        derived
            .expand(&[purpose.as_bytes()], HKDF_SHA256)
            .and_then(|okm| okm.fill(key.as_mut_slice()))
            .expect("32 bytes can be had");
        key
    }

    /// What the server needs to open its file.
    pub(crate) fn release(&self) -> Zeroizing<[u8; 32]> {
        self.derive("release")
    }

    fn cipher(&self) -> LessSafeKey {
        let key = self.derive("seed0");
        LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, key.as_slice()).expect("32 bytes"))
    }

    /// Encrypts E0's seed for the dealer's folder, hexadecimal. Once for each key.
    pub(crate) fn wrap(&self, session: &str, seed: &[u8; 32]) -> String {
        let mut sealed = seed.to_vec();
        let aad = Aad::from(session.as_bytes());
        let nonce = Nonce::assume_unique_for_key([0; 12]);
        self.cipher()
            .seal_in_place_append_tag(nonce, aad, &mut sealed)
            .expect("a seed is short");
        hex(&sealed)
    }

    /// E0's seed again; `None` where this is not its key.
    pub(crate) fn unwrap(&self, session: &str, sealed: &[u8; 48]) -> Option<Zeroizing<[u8; 32]>> {
        let mut bytes = Zeroizing::new(*sealed);
        let aad = Aad::from(session.as_bytes());
        let plain = self
            .cipher()
            .open_in_place(
                Nonce::assume_unique_for_key([0; 12]),
                aad,
                bytes.as_mut_slice(),
            )
            .ok()?;
        Some(Zeroizing::new((&*plain).try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use marill_numeric::unhex;

    use super::*;

    #[test]
    fn a_key_opens_what_it_wrapped_and_can_be_taken_once() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("vault");
        let state = folder.path().join("state");
        let vault = Vault::open(&base, &state).unwrap();
        let session = "ab".repeat(16);
        let other = "cd".repeat(16);
        let sealed = unhex::<48>(&vault.make(&session).unwrap().wrap(&session, &[5; 32])).unwrap();
        assert_ne!(sealed[..32], [5; 32]);
        vault.make(&other).unwrap();
        assert!(vault.has(&session));

        // Another process of the same dealer.
        let vault = Vault::open(&base, &state).unwrap();
        let key = vault.take(&session).unwrap().unwrap();
        assert_eq!(*key.unwrap(&session, &sealed).unwrap(), [5; 32]);
        assert!(
            key.unwrap(&other, &sealed).is_none(),
            "a seed is bound to its session"
        );
        assert!(vault.take(&session).unwrap().is_none() && !vault.has(&session));
        let wrong = vault.take(&other).unwrap().unwrap();
        assert!(wrong.unwrap(&session, &sealed).is_none());
        assert_ne!(wrong.release(), key.release());
        let left: Vec<_> = std::fs::read_dir(&vault.folder).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(base.join(TAG_FILE).is_file());
        std::fs::write(vault.folder.join("x.taken"), "left").unwrap();
        vault.sweep().unwrap();
        assert_eq!(std::fs::read_dir(&vault.folder).unwrap().count(), 0);

        // Another dealer beside it.
        let second = Vault::open(&base, &folder.path().join("another")).unwrap();
        assert_ne!(second.folder, vault.folder);
    }
}
