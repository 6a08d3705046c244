//! Files of correlations, their folder, and sessions from them.

use std::{
    fs,
    path::{Path, PathBuf},
};

use marill_mpc::Selection;
use marill_serving::{
    PreprocessingError, ServingError,
    client::{CorrelationPreference, SecureSession, SessionOpener},
    dealer::{DEFAULT_OWNER, PreprocessOptions, produce},
    preprocessing::SealingKey,
    server::{PREPROCESSING_KEY_FILE, SecureModel},
};
use marill_testkit::parties::{World, tiny_model};
use tempfile::TempDir;

pub const BUCKET: usize = 16;

pub const TOKENS: usize = 4;

/// One session of this bucket and so many tokens, as the dealer's operator would make it.
pub fn options(folder: &Path, request: PathBuf) -> PreprocessOptions {
    PreprocessOptions {
        state: folder.join("dealer"),
        vault: folder.join("vault"),
        owner: DEFAULT_OWNER.into(),
        folder: folder.join("files"),
        request,
        bucket: BUCKET,
        tokens: TOKENS,
        selection: Selection::Greedy,
        sessions: 1,
        dry_run: false,
    }
}

/// Writes `sessions` files below `folder` as the two operators would.
pub fn write_files(folder: &Path, sessions: usize) -> Vec<PathBuf> {
    write_files_of(&tiny_model(), folder, sessions)
}

/// The same for another server's model.
pub fn write_files_of(model: &SecureModel, folder: &Path, sessions: usize) -> Vec<PathBuf> {
    let request = folder.join("order.json");
    let key =
        SealingKey::read_or_create(&folder.join("server").join(PREPROCESSING_KEY_FILE)).unwrap();
    fs::write(&request, serde_json::to_vec(&model.request(&key)).unwrap()).unwrap();
    let options = PreprocessOptions {
        sessions,
        ..options(folder, request)
    };
    let mut said = Vec::new();
    produce(&options, &mut |line| said.push(line.to_string())).unwrap();
    assert_eq!(said.len(), 1 + sessions);
    files(folder)
}

pub fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder.join("files"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
}

pub fn session_of(file: &Path) -> String {
    file.file_stem()
        .unwrap()
        .to_str()
        .unwrap()
        .rsplit('-')
        .next()
        .unwrap()
        .to_string()
}

pub fn started(folder: TempDir) -> World {
    World::start(folder, false, true, |dealer| dealer)
}

pub fn copy(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs::copy(from, to).unwrap();
    }
}

/// A session from a file, and from nothing else.
pub fn from_file(opener: &SessionOpener) -> Result<SecureSession, ServingError> {
    opener.open_for(BUCKET, TOKENS, CorrelationPreference::Preprocessed, None)
}

/// Why there is none.
pub fn no_file(opener: &SessionOpener) -> ServingError {
    from_file(opener).map(drop).unwrap_err()
}

pub fn assert_none_fits(error: &ServingError, when: &str) {
    assert!(
        matches!(
            error,
            ServingError::Preprocessing(PreprocessingError::NoneFits { .. })
        ),
        "{when}: {error}"
    );
}
