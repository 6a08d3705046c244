//! Asking the hub what a revision stands for and fetching its files. The only place that knows its
//! client library.

use std::{
    fs::File,
    io::Read,
    path::{Path, PathBuf},
};

use hf_hub::{
    Repo, RepoType,
    api::{
        RepoInfo,
        sync::{ApiBuilder, ApiRepo},
    },
};
use sha1::{Digest, Sha1};
use sha2::Sha256;
use ureq::http::StatusCode;

use crate::{
    Fetching, HubError, Options, RepoName, Snapshot,
    cache::{Cache, INDEX, OPTIONAL, REQUIRED, WEIGHTS, parts},
    transfer::{Failed, Transfer, accept, patiently},
};

/// What a request is about when it is about no single file.
const DESCRIPTION: &str = "its description";

struct Remote<'a> {
    repo: &'a RepoName,
    commit: String,
    files: Vec<String>,
    cache: &'a Cache,
    /// Addresses and places of the commit's files.
    at: ApiRepo,
    layout: hf_hub::CacheRepo,
    transfer: Transfer,
    retries: usize,
    fetching: Fetching,
}

/// Asks what a revision stands for and fetches what of it is missing.
pub(crate) fn fetch(
    repo: &RepoName,
    revision: &str,
    options: &Options,
    cache: &Cache,
    fetching: Fetching,
) -> Result<Snapshot, HubError> {
    let info =
        info(repo, revision, options).map_err(|e| failure(e, repo, revision, DESCRIPTION))?;
    let commit = Some(info.sha)
        .filter(|sha| crate::name::is_commit(sha))
        .ok_or_else(|| HubError::Transfer {
            repo: repo.to_string(),
            file: DESCRIPTION.into(),
            reason: "the hub names no commit".into(),
        })?;
    let path = match cache.complete(repo, &commit, true)? {
        Some(path) => path,
        None => {
            let at =
                api(repo, &commit, options).map_err(|e| failure(e, repo, revision, DESCRIPTION))?;
            let layout = hf_hub::Cache::new(options.cache_dir.clone()).repo(named(repo, &commit));
            let transfer = Transfer::new(options.token.as_deref());
            let files = info
                .siblings
                .into_iter()
                .map(|file| file.rfilename)
                .collect();
            let commit = commit.clone();
            let retries = options.retries;
            Remote {
                repo,
                commit,
                files,
                cache,
                at,
                layout,
                transfer,
                retries,
                fetching,
            }
            .download(revision)?
        }
    };
    if revision != commit {
        cache.write_ref(revision, &commit)?;
    }
    Ok(Snapshot { path, commit })
}

fn named(repo: &RepoName, revision: &str) -> Repo {
    Repo::with_revision(repo.to_string(), RepoType::Model, revision.to_owned())
}

fn api(repo: &RepoName, revision: &str, options: &Options) -> Result<ApiRepo, Failed> {
    let mut builder = ApiBuilder::from_cache(hf_hub::Cache::new(options.cache_dir.clone()));
    builder = builder
        .with_progress(false)
        .with_token(options.token.clone());
    if let Some(endpoint) = &options.endpoint {
        builder = builder.with_endpoint(endpoint.trim_end_matches('/').to_owned());
    }
    let api = builder.build().map_err(|e| Failed::Line(chain(&e)))?;
    Ok(api.repo(named(repo, revision)))
}

/// The commit that a revision stands for, and the names of its files.
fn info(repo: &RepoName, revision: &str, options: &Options) -> Result<RepoInfo, Failed> {
    let at = api(repo, revision, options)?;
    patiently(options.retries, || {
        let request = at.info_request().config().http_status_as_error(false);
        let request = request
            .timeout_global(Some(crate::transfer::SILENCE))
            .build();
        Ok(accept(request.call()?)?.body_mut().read_json()?)
    })
}

impl Remote<'_> {
    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file == name)
    }

    /// Small files first: when the weights are there, everything is.
    fn download(&self, revision: &str) -> Result<PathBuf, HubError> {
        if let Some(file) = &self.repo.file {
            if !self.has(file) {
                return Err(self.no_file(file));
            }
            return self.file(file, revision);
        }
        for name in OPTIONAL {
            if self.has(name) {
                self.file(name, revision)?;
            } else {
                self.cache.write_absent(&self.commit, name)?;
            }
        }
        let weights = if self.has(INDEX) { INDEX } else { WEIGHTS };
        if let Some(missing) = [weights]
            .iter()
            .chain(&REQUIRED)
            .find(|name| !self.has(name))
        {
            return Err(self.no_file(missing));
        }
        for name in REQUIRED {
            self.file(name, revision)?;
        }
        let first = self.file(weights, revision)?;
        if weights == INDEX {
            for name in parts(&first)? {
                self.file(&name, revision)?;
            }
        }
        Ok(self.cache.snapshot(&self.commit))
    }

    fn no_file(&self, name: &str) -> HubError {
        let listed = self
            .files
            .iter()
            .filter(|file| file.ends_with(".gguf"))
            .cloned()
            .collect();
        HubError::NoFile {
            repo: self.repo.to_string(),
            file: name.into(),
            listed,
        }
    }

    /// One file, checked against the digest that names its blob before it gets that name.
    fn file(&self, name: &str, revision: &str) -> Result<PathBuf, HubError> {
        let path = self.cache.snapshot(&self.commit).join(name);
        if path.is_file() {
            return Ok(path);
        }
        let fail = |error| failure(error, self.repo, revision, name);
        let url = self.at.url(name);
        let described = patiently(self.retries, || self.transfer.describe(&url)).map_err(fail)?;
        let blob = self.layout.blob_path(&described.tag);
        let disk = |at: &Path, e: std::io::Error| HubError::Cache {
            path: at.into(),
            reason: e.to_string(),
        };
        let folder = blob.parent().expect("a blob has a folder");
        std::fs::create_dir_all(folder).map_err(|e| disk(folder, e))?;
        // Another process may be fetching the same bytes: wait for it, then find them.
        let lock = blob.with_extension("lock");
        let held = File::create(&lock).map_err(|e| disk(&lock, e))?;
        held.lock().map_err(|e| disk(&lock, e))?;
        if !blob.is_file() {
            let part = blob.with_extension("part");
            let heard = |done| (self.fetching)(name, done, described.bytes.unwrap_or(0));
            patiently(self.retries, || {
                self.transfer.append(&url, &part, described.bytes, &heard)
            })
            .map_err(fail)?;
            if let Err(reason) = verify(&part, &described.tag).map_err(|e| disk(&part, e))? {
                std::fs::remove_file(&part).map_err(|e| disk(&part, e))?;
                return Err(HubError::Damaged {
                    repo: self.repo.to_string(),
                    file: name.into(),
                    reason,
                });
            }
            std::fs::rename(&part, &blob).map_err(|e| disk(&part, e))?;
        }
        self.cache.link(&path, &blob)?;
        Ok(path)
    }
}

/// Holds a file against its entity tag: the sha256 of a large file, git's sha1 of a small one. What
/// else names a blob is no digest and says nothing.
fn verify(path: &Path, tag: &str) -> std::io::Result<Result<(), String>> {
    let mut file = File::open(path)?;
    let tag = tag.to_ascii_lowercase();
    let is_hex = tag.bytes().all(|b| b.is_ascii_hexdigit());
    let found = match tag.len() {
        64 if is_hex => digest(Sha256::new(), &mut file)?,
        40 if is_hex => {
            let bytes = file.metadata()?.len();
            digest(Sha1::new_with_prefix(format!("blob {bytes}\0")), &mut file)?
        }
        _ => return Ok(Ok(())),
    };
    Ok(if found == tag {
        Ok(())
    } else {
        Err(format!("its digest is {found}, the hub names {tag}"))
    })
}

fn digest<D: Digest>(mut hash: D, file: &mut impl Read) -> std::io::Result<String> {
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(marill_numeric::hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

fn failure(error: Failed, repo: &RepoName, revision: &str, file: &str) -> HubError {
    let repo = repo.to_string();
    let (status, code, said) = match error {
        Failed::Refused { status, code, said } => (status, code, said),
        Failed::Line(reason) => {
            return HubError::Transfer {
                repo,
                file: file.into(),
                reason,
            };
        }
        Failed::Disk(error) => {
            return HubError::Transfer {
                repo,
                file: file.into(),
                reason: error.to_string(),
            };
        }
    };
    let refused = |otherwise: &str| HubError::Refused {
        repo: repo.clone(),
        reason: said.clone().unwrap_or_else(|| otherwise.into()),
    };
    match (code.as_str(), status) {
        // To visitors without a token, the hub answers 401 for what does not exist.
        ("RepoNotFound", _) => HubError::NoRepository { repo },
        ("GatedRepo", _) => refused("it is gated"),
        ("RevisionNotFound", _) => HubError::NoRevision {
            repo,
            revision: revision.into(),
        },
        ("EntryNotFound", _) => HubError::NoFile {
            repo,
            file: file.into(),
            listed: Vec::new(),
        },
        (_, StatusCode::UNAUTHORIZED) => refused("the hub asks for a token"),
        (_, StatusCode::FORBIDDEN) => refused("this token is not enough"),
        (_, StatusCode::NOT_FOUND) if file == DESCRIPTION => HubError::NoRepository { repo },
        (_, StatusCode::NOT_FOUND) => HubError::NoFile {
            repo,
            file: file.into(),
            listed: Vec::new(),
        },
        _ => {
            let said = said.map(|said| format!(": {said}")).unwrap_or_default();
            HubError::Transfer {
                repo,
                file: file.into(),
                reason: format!("the hub answers {status}{said}"),
            }
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}
