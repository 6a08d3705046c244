//! Small secret files of a service, readable by their owner only.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use marill_numeric::{hex, unhex};
use zeroize::Zeroizing;

use crate::error::StateError;

/// `N` bytes from the operating system's generator.
///
/// # Errors
/// [`StateError::Random`].
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, StateError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| StateError::Random(error.to_string()))?;
    Ok(bytes)
}

/// Reads a key or a random name: 64 hexadecimal digits. A disk that was full once leaves files that
/// are empty or cut, and a key of no length would open everything.
///
/// # Errors
/// [`StateError::BadSecret`] for anything else; [`StateError::Io`].
pub fn read_key(path: &Path) -> Result<Zeroizing<String>, StateError> {
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(StateError::io(path))?);
    let key = Zeroizing::new(text.trim().to_string());
    match unhex::<32>(&key).map(Zeroizing::new) {
        Some(_) => Ok(key),
        None => Err(StateError::BadSecret {
            path: path.into(),
            digits: key.len(),
        }),
    }
}

/// Reads the random name or key in `path`, and makes one on first use (64 hexadecimal digits). It
/// has its name only when it is whole and on disk.
///
/// # Errors
/// As [`read_key`]; [`StateError::Random`].
pub fn read_or_create_key(path: &Path) -> Result<Zeroizing<String>, StateError> {
    if path.symlink_metadata().is_err() {
        let text = Zeroizing::new(format!(
            "{}\n",
            *Zeroizing::new(hex(random::<32>()?.as_slice()))
        ));
        match write_secret(path, text.as_bytes()) {
            // Another process was faster: its key counts.
            Err(StateError::Io { source, .. }) if source.kind() == ErrorKind::AlreadyExists => {}
            written => written?,
        }
    }
    read_key(path)
}

/// Makes new names in a folder durable.
///
/// # Errors
/// [`StateError::Io`].
pub fn sync_folder(folder: &Path) -> Result<(), StateError> {
    let folder = if folder.as_os_str().is_empty() {
        Path::new(".")
    } else {
        folder
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(StateError::io(folder))
}

/// Writes a new file that only its owner can read; it is there whole, and durable, or not at all.
///
/// # Errors
/// [`StateError::Io`], also where it exists.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let folder = path.parent().unwrap_or(Path::new(""));
    if !folder.as_os_str().is_empty() {
        std::fs::create_dir_all(folder).map_err(StateError::io(folder))?;
    }
    let part = part_of(path)?;
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        // Unlike a rename this fails where the name is taken.
        std::fs::hard_link(&part, path)
    };
    let written = write();
    let _ = std::fs::remove_file(&part);
    written.map_err(StateError::io(path))?;
    sync_folder(folder)
}

/// A name beside `path` that nobody else uses, in this process or another.
fn part_of(path: &Path) -> Result<PathBuf, StateError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    Ok(path.with_file_name(format!(".{name}.{}.part", hex(random::<8>()?.as_slice()))))
}

/// Replaces a file in one step, so that a reader never sees half of it; only its owner can read it.
///
/// # Errors
/// [`StateError::Io`].
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(StateError::io(folder))?;
    }
    let part = part_of(path)?;
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    let renamed = write().and_then(|()| std::fs::rename(&part, path));
    if renamed.is_err() {
        // What is left of it helps nobody; the failure itself is what is reported.
        let _ = std::fs::remove_file(&part);
    }
    renamed.map_err(StateError::io(path))?;
    sync_folder(folder)
}

/// What is written for a trial: more than the end of a block that a file may have left.
const TRIAL_BYTES: usize = 16 << 10;

/// That the folder takes a new file, which is gone again on return.
///
/// # Errors
/// [`StateError::Io`], on a full disk for example.
pub fn check_remaining_context(folder: &Path) -> Result<(), StateError> {
    let trial = part_of(&folder.join("trial"))?;
    let write = || {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&trial)?;
        file.write_all(&[0; TRIAL_BYTES])?;
        file.sync_data()
    };
    let written = write();
    let _ = std::fs::remove_file(&trial);
    written.map_err(StateError::io(folder))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_threads_replace_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cache/a.masked");
        std::thread::scope(|scope| {
            for thread in 0..8u8 {
                let path = &path;
                scope.spawn(move || {
                    (0..25).for_each(|_| replace_file(path, &[thread; 4096]).unwrap())
                });
            }
        });
        let bytes = std::fs::read(&path).unwrap();
        assert!(
            bytes.len() == 4096 && bytes.iter().all(|byte| *byte == bytes[0]),
            "one content, whole"
        );
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1,
            "nothing is left beside it"
        );
    }

    #[test]
    fn all_who_make_a_key_at_once_have_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state/id");
        let make = || read_or_create_key(&path).unwrap().to_string();
        let keys: Vec<String> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0] && key.len() == 64));
        assert!(write_secret(&path, b"x").is_err(), "it is never replaced");
        assert_eq!(make(), keys[0]);
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn a_key_that_is_empty_short_or_no_number_is_refused_by_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("server.key");
        for wrong in [
            "",
            "\n",
            &"ab".repeat(27),
            &"ab".repeat(33),
            &"zz".repeat(32),
        ] {
            std::fs::write(&path, wrong).unwrap();
            for error in
                [read_key(&path), read_or_create_key(&path)].map(|key| key.unwrap_err().to_string())
            {
                assert!(error.contains("server.key"), "{error}");
            }
            assert_eq!(
                std::fs::read_to_string(&path).unwrap(),
                wrong,
                "it is left as it is"
            );
        }
    }
}
