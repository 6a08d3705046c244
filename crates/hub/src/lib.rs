//! Models by the name they have on the Hugging Face hub: `org/name`, or `org/name/file.gguf`.
//!
//! [`resolve`] answers with a folder of the standard cache (`HF_HOME`, `HF_HUB_CACHE`), shared with
//! Python's tools, and with the commit that the revision stands for. Only what a model needs is
//! fetched: configuration, tokenizer, chat template and safetensors (or the one GGUF file), and
//! every fetched file is checked against the digest the hub names.
//!
//! Downloads are the cargo feature `hub`, which the binary has by default. Without it, and offline,
//! the cache alone answers: a pinned commit, or what a branch stood for when it was last fetched.

mod cache;
#[cfg(feature = "hub")]
mod client;
mod error;
mod name;
#[cfg(feature = "hub")]
mod transfer;

use std::path::PathBuf;

pub use error::HubError;
pub use name::RepoName;

/// The revision where none is named.
pub const DEFAULT_REVISION: &str = "main";

/// Where to look. [`Options::from_env`] is what programs use; tests give their own places.
#[derive(Clone)]
pub struct Options {
    /// The hub's cache folder, with one `models--org--name` a repository.
    pub cache_dir: PathBuf,
    /// The hub's address; the library's own default when `None`.
    pub endpoint: Option<String>,
    /// Sent to the hub's own host as bearer token.
    pub token: Option<String>,
    /// Never ask the network.
    pub offline: bool,
    /// Further tries of a request that failed in passing.
    pub retries: usize,
}

impl Options {
    /// Cache, address and token as `HF_HUB_CACHE`, `HF_HOME`, `HF_ENDPOINT`, `HF_TOKEN` and
    /// `HF_TOKEN_PATH` say; the token that `hf auth login` left behind unless
    /// `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set; offline when asked for or when `HF_HUB_OFFLINE` is
    /// set to anything but `0`, `false`, `no` or `off`.
    pub fn from_env(offline: bool) -> Self {
        let set = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = || {
            set("HF_HOME").map(PathBuf::from).unwrap_or_else(|| {
                let cache = user_folder("XDG_CACHE_HOME", ".cache");
                cache.unwrap_or_else(|| ".cache".into()).join("huggingface")
            })
        };
        let cache = set("HF_HUB_CACHE")
            .or_else(|| set("HUGGINGFACE_HUB_CACHE"))
            .map(PathBuf::from);
        let yes = |name: &str| {
            set(name).is_some_and(|v| {
                !matches!(
                    v.to_ascii_lowercase().as_str(),
                    "0" | "false" | "no" | "off"
                )
            })
        };
        let token = || {
            let from_file = |path: PathBuf| {
                std::fs::read_to_string(path)
                    .ok()
                    .map(|text| text.trim().to_owned())
            };
            let named = || set("HF_TOKEN_PATH").map(PathBuf::from).and_then(from_file);
            let found = set("HF_TOKEN")
                .or_else(named)
                .or_else(|| from_file(home().join("token")));
            found.filter(|token| !token.is_empty())
        };
        Self {
            cache_dir: cache.unwrap_or_else(|| home().join("hub")),
            endpoint: set("HF_ENDPOINT"),
            token: if yes("HF_HUB_DISABLE_IMPLICIT_TOKEN") {
                None
            } else {
                token()
            },
            offline: offline || yes("HF_HUB_OFFLINE"),
            retries: 4,
        }
    }
}

/// A folder of this user: what the variable of the XDG base directories names, or `in_home` below
/// the home folder. None without a home folder.
pub fn user_folder(variable: &str, in_home: &str) -> Option<PathBuf> {
    let named = std::env::var_os(variable).filter(|value| !value.is_empty());
    let below_home = || std::env::home_dir().map(|home| home.join(in_home));
    named.map(PathBuf::from).or_else(below_home)
}

/// A model on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// A checkpoint folder, or the GGUF file that was named.
    pub path: PathBuf,
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
}

/// Finds a model in the cache or fetches it. `fetching` hears of a file, the bytes so far and all
/// its bytes.
///
/// A commit hash that the cache holds completely costs no request; a branch costs one, to ask what
/// it stands for.
///
/// # Errors
/// [`HubError`], naming repository and revision.
pub fn resolve(
    repo: &RepoName,
    revision: Option<&str>,
    options: &Options,
    fetching: Fetching,
) -> Result<Snapshot, HubError> {
    let revision = revision.unwrap_or(DEFAULT_REVISION);
    name::check_revision(revision)?;
    let cache = cache::Cache::new(&options.cache_dir, repo);
    let pinned = name::is_commit(revision);
    let known = if pinned {
        Some(revision.to_owned())
    } else if options.offline {
        cache.read_ref(revision)
    } else {
        None
    };
    if let Some(commit) = known {
        // Offline, and in a build without the hub, what optional files the repository has cannot be
        // asked.
        let can_ask = cfg!(feature = "hub") && !options.offline;
        if let Some(path) = cache.complete(repo, &commit, can_ask)? {
            return Ok(Snapshot { path, commit });
        }
    }
    if options.offline {
        let repo = repo.to_string();
        let cache_dir = options.cache_dir.clone();
        return Err(HubError::NotCached {
            repo,
            revision: revision.into(),
            cache_dir,
        });
    }
    fetch(repo, revision, options, &cache, fetching)
}

/// Called while files arrive: name, bytes so far, bytes in all (0 where unknown).
pub type Fetching = std::sync::Arc<dyn Fn(&str, u64, u64) + Send + Sync>;

#[cfg(feature = "hub")]
use client::fetch;

#[cfg(not(feature = "hub"))]
fn fetch(
    repo: &RepoName,
    revision: &str,
    _: &Options,
    _: &cache::Cache,
    _: Fetching,
) -> Result<Snapshot, HubError> {
    Err(HubError::NotBuilt {
        repo: repo.to_string(),
        revision: revision.into(),
    })
}
