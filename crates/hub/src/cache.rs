//! The layout of the hub's cache: `models--org--name/{blobs, refs, snapshots, .no_exist}`.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use crate::{HubError, RepoName};

/// Files that a checkpoint folder may do without.
pub(crate) const OPTIONAL: [&str; 4] = [
    "tokenizer_config.json",
    "chat_template.jinja",
    "generation_config.json",
    "special_tokens_map.json",
];
/// Files that it may not do without, besides weights.
pub(crate) const REQUIRED: [&str; 2] = ["config.json", "tokenizer.json"];
pub(crate) const WEIGHTS: &str = "model.safetensors";
/// Names the parts of weights that are split.
pub(crate) const INDEX: &str = "model.safetensors.index.json";

/// One repository's part of the cache.
pub(crate) struct Cache {
    root: PathBuf,
}

impl Cache {
    pub fn new(cache_dir: &Path, repo: &RepoName) -> Self {
        Self {
            root: cache_dir.join(format!("models--{}--{}", repo.owner, repo.name)),
        }
    }

    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// What a branch or tag stood for when it was last asked.
    pub fn read_ref(&self, revision: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|commit| crate::name::is_commit(commit))
    }

    /// The model's place when everything it needs is here; `strict` also wants to know that missing
    /// optional files are missing in the repository.
    pub fn complete(
        &self,
        repo: &RepoName,
        commit: &str,
        strict: bool,
    ) -> Result<Option<PathBuf>, HubError> {
        let folder = self.snapshot(commit);
        let has = |name: &str| folder.join(name).is_file();
        if let Some(file) = &repo.file {
            return Ok(has(file).then(|| folder.join(file)));
        }
        let settled = |name: &&str| {
            has(name)
                || self
                    .root
                    .join(".no_exist")
                    .join(commit)
                    .join(name)
                    .is_file()
        };
        if !REQUIRED.iter().all(|name| has(name)) || strict && !OPTIONAL.iter().all(settled) {
            return Ok(None);
        }
        let weights = if has(INDEX) {
            parts(&folder.join(INDEX))?
        } else {
            BTreeSet::from([WEIGHTS.to_owned()])
        };
        Ok(weights.iter().all(|name| has(name)).then_some(folder))
    }
}

#[cfg(feature = "hub")]
impl Cache {
    pub fn write_ref(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        write(&self.root.join("refs").join(revision), commit)
    }

    /// Notes that a commit has no such file, as Python's tools do.
    pub fn write_absent(&self, commit: &str, name: &str) -> Result<(), HubError> {
        write(&self.root.join(".no_exist").join(commit).join(name), "")
    }

    /// Lets `path` of a snapshot stand for a blob of this cache, relatively, so that the cache can
    /// be moved.
    pub fn link(&self, path: &Path, blob: &Path) -> Result<(), HubError> {
        let fail = |e: std::io::Error| HubError::Cache {
            path: path.into(),
            reason: e.to_string(),
        };
        let folder = path.parent().expect("a file of a snapshot has a folder");
        std::fs::create_dir_all(folder).map_err(fail)?;
        let up = folder
            .strip_prefix(&self.root)
            .expect("snapshots lie in the cache")
            .components()
            .map(|_| "..");
        let below = blob
            .strip_prefix(&self.root)
            .expect("blobs lie in the cache");
        let to = up.collect::<PathBuf>().join(below);
        // A link whose blob was removed is in the way.
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(fail(error)),
            _ => std::os::unix::fs::symlink(to, path).map_err(fail),
        }
    }
}

#[cfg(feature = "hub")]
fn write(path: &Path, text: &str) -> Result<(), HubError> {
    let fail = |e: std::io::Error| HubError::Cache {
        path: path.into(),
        reason: e.to_string(),
    };
    std::fs::create_dir_all(path.parent().expect("a file of the cache has a folder"))
        .map_err(fail)?;
    std::fs::write(path, text).map_err(fail)
}

/// The files that an index of split weights names.
///
/// # Errors
/// [`HubError::Cache`] when it is no index, or names a file outside its folder.
pub(crate) fn parts(index: &Path) -> Result<BTreeSet<String>, HubError> {
    let fail = |reason: String| HubError::Cache {
        path: index.into(),
        reason,
    };
    let text = std::fs::read_to_string(index).map_err(|e| fail(e.to_string()))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|e| fail(e.to_string()))?;
    let map = json["weight_map"]
        .as_object()
        .ok_or_else(|| fail("has no `weight_map`".into()))?;
    let names: BTreeSet<String> = map
        .values()
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    if let Some(name) = names
        .iter()
        .find(|name| name.contains(['/', '\\']) || !name.ends_with(".safetensors"))
    {
        return Err(fail(format!(
            "names `{name}`, which is no safetensors file beside it"
        )));
    }
    if names.is_empty() {
        Err(fail("names no file".into()))
    } else {
        Ok(names)
    }
}
