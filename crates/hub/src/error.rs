//! Errors of the hub client, each with what the user can do about it.

use std::path::PathBuf;

/// What can go wrong on the way from a model's name to its files.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    #[error(
        "`{repo}` (revision `{revision}`) is not in the cache, and this program was built without \
         downloads\n\n\
         hint: build it without `--no-default-features`, or set `--offline` to use what the cache \
         holds"
    )]
    NotBuilt { repo: String, revision: String },
    #[error(
        "`{repo}` (revision `{revision}`) is not completely in `{}`, and the network may not be \
         asked\n\n\
         hint: run once without `--offline` and `HF_HUB_OFFLINE`", cache_dir.display()
    )]
    NotCached {
        repo: String,
        revision: String,
        cache_dir: PathBuf,
    },
    #[error("`model.revision`: `{revision}` is no name of a commit, a branch or a tag")]
    BadRevision { revision: String },
    #[error(
        "the hub has no repository `{repo}`, or does not show it to you\n\n\
         hint: check the spelling; a private repository needs a token in `HF_TOKEN`"
    )]
    NoRepository { repo: String },
    #[error(
        "`{repo}` has no revision `{revision}`\n\nhint: name a branch, a tag or a full commit hash"
    )]
    NoRevision { repo: String, revision: String },
    #[error(
        "access to `{repo}` is refused: {reason}\n\n\
         hint: accept its terms on the model's page, then set `HF_TOKEN`"
    )]
    Refused { repo: String, reason: String },
    #[error("`{repo}` has no `{file}`{}", files_hint(.listed))]
    NoFile {
        repo: String,
        file: String,
        listed: Vec<String>,
    },
    #[error(
        "`{file}` of `{repo}` arrived damaged: {reason}\n\n\
         hint: it was not kept; run again, and look at proxies in between if it stays so"
    )]
    Damaged {
        repo: String,
        file: String,
        reason: String,
    },
    #[error("`{}`: {reason}", path.display())]
    Cache { path: PathBuf, reason: String },
    #[error(
        "cannot fetch `{file}` of `{repo}`: {reason}\n\n\
         hint: run again; what arrived completely is kept"
    )]
    Transfer {
        repo: String,
        file: String,
        reason: String,
    },
}

fn files_hint(listed: &[String]) -> String {
    if listed.is_empty() {
        return String::new();
    }
    let names: Vec<String> = listed.iter().map(|name| format!("`{name}`")).collect();
    format!(
        "\n\nhint: name one of its files, as in `org/name/file.gguf`: {}",
        names.join(", ")
    )
}
