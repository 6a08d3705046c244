//! Asking the hub. The only place that knows its client library.

use std::{io::Read, path::Path};

use hf_hub::{
    HFClient, HFClientSync, HFError,
    progress::{DownloadEvent, Progress, ProgressEvent, ProgressHandler},
};
use sha1::{Digest, Sha1};
use sha2::Sha256;

use crate::{
    Fetching, HubError, Options, RepoName, Snapshot,
    cache::{Cache, INDEX, OPTIONAL, REQUIRED, WEIGHTS, parts},
};

struct Remote<'a> {
    repo: &'a RepoName,
    commit: String,
    files: Vec<String>,
    cache: &'a Cache,
    client: HFClientSync,
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
    let client = client(options).map_err(|e| failure(e, repo, revision, "its description"))?;
    let model = client.model(&repo.owner, &repo.name);
    let info = model.info().revision(revision).send();
    let info = info.map_err(|e| failure(e, repo, revision, "its description"))?;
    let commit = info
        .sha
        .filter(|sha| crate::name::is_commit(sha))
        .ok_or_else(|| HubError::Transfer {
            repo: repo.to_string(),
            file: "its description".into(),
            reason: "the hub names no commit".into(),
        })?;
    let files = info
        .siblings
        .unwrap_or_default()
        .into_iter()
        .map(|file| file.rfilename)
        .collect();
    let remote = Remote {
        repo,
        commit,
        files,
        cache,
        client,
        fetching,
    };
    let path = match cache.complete(repo, &remote.commit, true)? {
        Some(path) => path,
        None => remote.download(revision)?,
    };
    if revision != remote.commit {
        cache.write_ref(revision, &remote.commit)?;
    }
    Ok(Snapshot {
        path,
        commit: remote.commit,
    })
}

fn client(options: &Options) -> Result<HFClientSync, HFError> {
    let mut builder = HFClient::builder()
        .cache_dir(&options.cache_dir)
        .retry_max_attempts(options.retries);
    if let Some(endpoint) = &options.endpoint {
        builder = builder.endpoint(endpoint);
    }
    if let Some(token) = &options.token {
        builder = builder.token(token);
    }
    HFClientSync::from_inner(builder.build()?)
}

impl Remote<'_> {
    fn has(&self, name: &str) -> bool {
        self.files.iter().any(|file| file == name)
    }

    /// Small files first: when the weights are there, everything is.
    fn download(&self, revision: &str) -> Result<std::path::PathBuf, HubError> {
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

    /// One file, checked against the digest that names its blob.
    fn file(&self, name: &str, revision: &str) -> Result<std::path::PathBuf, HubError> {
        let path = self.cache.snapshot(&self.commit).join(name);
        if path.is_file() {
            return Ok(path);
        }
        let model = self.client.model(&self.repo.owner, &self.repo.name);
        let progress = Progress::new(Report {
            name: name.to_owned(),
            fetching: self.fetching.clone(),
        });
        let sent = model
            .download_file()
            .filename(name)
            .revision(&self.commit)
            .progress(progress)
            .send();
        let path = sent.map_err(|e| failure(e, self.repo, revision, name))?;
        if let Err(reason) = verify(&path) {
            self.cache.forget(&path);
            return Err(HubError::Damaged {
                repo: self.repo.to_string(),
                file: name.into(),
                reason,
            });
        }
        Ok(path)
    }
}

struct Report {
    name: String,
    fetching: Fetching,
}

impl ProgressHandler for Report {
    fn on_progress(&self, event: &ProgressEvent) {
        match event {
            ProgressEvent::Download(DownloadEvent::Progress { files }) => {
                files.iter().for_each(|file| {
                    (self.fetching)(&self.name, file.bytes_completed, file.total_bytes)
                });
            }
            ProgressEvent::Download(DownloadEvent::AggregateProgress {
                bytes_completed,
                total_bytes,
                ..
            }) => {
                (self.fetching)(&self.name, *bytes_completed, *total_bytes);
            }
            _ => {}
        }
    }
}

/// A blob is named by its entity tag: the sha256 of a large file, git's sha1 of a small one.
fn verify(path: &Path) -> Result<(), String> {
    let text = |e: std::io::Error| e.to_string();
    let blob = path.canonicalize().map_err(text)?;
    let tag = blob
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_ascii_lowercase();
    if !tag.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(());
    }
    let mut file = std::fs::File::open(&blob).map_err(text)?;
    let found = match tag.len() {
        64 => digest(Sha256::new(), &mut file).map_err(text)?,
        40 => {
            let bytes = file.metadata().map_err(text)?.len();
            digest(Sha1::new_with_prefix(format!("blob {bytes}\0")), &mut file).map_err(text)?
        }
        _ => return Ok(()),
    };
    if found == tag {
        Ok(())
    } else {
        Err(format!("its digest is {found}, the hub names {tag}"))
    }
}

fn digest<D: Digest>(mut hash: D, file: &mut impl Read) -> std::io::Result<String> {
    let mut buffer = vec![0u8; 1 << 20];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hash.finalize().iter().map(|b| format!("{b:02x}")).collect());
        }
        hash.update(&buffer[..count]);
    }
}

fn failure(error: HFError, repo: &RepoName, revision: &str, file: &str) -> HubError {
    let repo = repo.to_string();
    let (code, said) = answer(&error);
    match &error {
        // To visitors without a token, the hub answers 401 for what does not exist.
        _ if code == "RepoNotFound" => HubError::NoRepository { repo },
        _ if code == "GatedRepo" => HubError::Refused {
            repo,
            reason: said.unwrap_or_else(|| "it is gated".into()),
        },
        HFError::RepoNotFound { .. } => HubError::NoRepository { repo },
        HFError::RevisionNotFound { .. } => HubError::NoRevision {
            repo,
            revision: revision.into(),
        },
        HFError::EntryNotFound { .. } => HubError::NoFile {
            repo,
            file: file.into(),
            listed: Vec::new(),
        },
        HFError::AuthRequired { .. } => HubError::Refused {
            repo,
            reason: said.unwrap_or_else(|| "the hub asks for a token".into()),
        },
        HFError::Forbidden { .. } => HubError::Refused {
            repo,
            reason: said.unwrap_or_else(|| "this token is not enough".into()),
        },
        other => HubError::Transfer {
            repo,
            file: file.into(),
            reason: chain(other),
        },
    }
}

/// The hub's own code and words for a refusal.
fn answer(error: &HFError) -> (String, Option<String>) {
    let context = match error {
        HFError::Http { context }
        | HFError::AuthRequired { context }
        | HFError::Forbidden { context } => Some(context),
        HFError::RepoNotFound { context, .. }
        | HFError::RevisionNotFound { context, .. }
        | HFError::EntryNotFound { context, .. } => context.as_ref(),
        _ => None,
    };
    let code = context
        .and_then(|context| context.error_code.clone())
        .unwrap_or_default();
    (
        code,
        context.and_then(|context| context.server_message.clone()),
    )
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
