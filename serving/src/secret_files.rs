//! Small secret files of a service, readable by their owner only.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use crate::ServingError;
use crate::wire::hex;

/// `N` bytes from the operating system's generator.
///
/// # Errors
/// [`ServingError::Random`].
pub fn random<const N: usize>() -> Result<Zeroizing<[u8; N]>, ServingError> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice()).map_err(|error| ServingError::Random(error.to_string()))?;
    Ok(bytes)
}

/// Reads a file of one line.
///
/// # Errors
/// [`ServingError::Io`].
pub fn read_line(path: &Path) -> Result<String, ServingError> {
    Ok(std::fs::read_to_string(path).map_err(ServingError::io(path))?.trim().to_string())
}

/// Reads the random name or key in `path`, and makes one on first use (64 hexadecimal digits).
///
/// # Errors
/// [`ServingError::Io`]; [`ServingError::Random`].
pub fn read_or_create_key(path: &Path) -> Result<String, ServingError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(ServingError::io(folder))?;
    }
    let key = Zeroizing::new(hex(random::<32>()?.as_slice()));
    match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
        Ok(mut file) => {
            let write = file.write_all(format!("{}\n", *key).as_bytes()).and_then(|()| file.sync_all());
            write.map_err(ServingError::io(path))?;
            Ok(key.to_string())
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => read_line(path),
        Err(source) => Err(ServingError::Io { path: path.into(), source }),
    }
}

/// Writes a new file that only its owner can read.
///
/// # Errors
/// [`ServingError::Io`], also where it exists.
pub fn write_secret(path: &Path, bytes: &[u8]) -> Result<(), ServingError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(ServingError::io(folder))?;
    }
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let written = file.and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()));
    written.map_err(ServingError::io(path))
}

/// Replaces a file in one step, so that a reader never sees half of it; only its owner can read it.
///
/// # Errors
/// [`ServingError::Io`].
pub fn replace_file(path: &Path, bytes: &[u8]) -> Result<(), ServingError> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(ServingError::io(folder))?;
    }
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&part)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().and_then(|()| std::fs::rename(&part, path)).map_err(|error| {
        // What is left of it helps nobody; the failure itself is what is reported.
        let _ = std::fs::remove_file(&part);
        ServingError::io(path)(error)
    })
}
