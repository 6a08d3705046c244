//! Names of repositories and revisions as the user writes them, checked before they become part of
//! paths and addresses.

use std::fmt;

use crate::HubError;

/// `org/name`, with the path of one GGUF file behind it where that is what is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepoName {
    pub owner: String,
    pub name: String,
    /// Path inside the repository.
    pub file: Option<String>,
}

impl RepoName {
    /// Reads a name as people write it; `None` for what can only be a path.
    ///
    /// Two parts are a repository, unless the second looks like a file; more parts are a repository
    /// and a `.gguf` file.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('/').collect();
        let [owner, name, file @ ..] = &parts[..] else {
            return None;
        };
        let is_file = |part: &str| part.ends_with(".gguf") || part.ends_with(".safetensors");
        if !parts.iter().all(|part| plain(part)) || is_file(name) {
            return None;
        }
        let file = match file.last() {
            None => None,
            Some(last) if last.ends_with(".gguf") => Some(file.join("/")),
            Some(_) => return None,
        };
        Some(Self {
            owner: (*owner).into(),
            name: (*name).into(),
            file,
        })
    }
}

impl fmt::Display for RepoName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.owner, self.name)
    }
}

fn plain(part: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !part.is_empty() && !part.starts_with('.') && !part.contains("..") && part.chars().all(allowed)
}

/// A full commit hash, as opposed to a branch or a tag.
pub(crate) fn is_commit(revision: &str) -> bool {
    revision.len() == 40 && revision.bytes().all(|b| b.is_ascii_hexdigit())
}

/// A revision becomes part of paths and addresses.
pub(crate) fn check_revision(revision: &str) -> Result<(), HubError> {
    if revision.split('/').all(plain) {
        return Ok(());
    }
    Err(HubError::BadRevision {
        revision: revision.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_from_paths() {
        let parse = |text: &str| RepoName::parse(text).map(|r| (r.to_string(), r.file));
        let repo = "HuggingFaceTB/SmolLM2-135M-Instruct";
        assert_eq!(parse(repo), Some((repo.into(), None)));
        assert_eq!(
            parse("org/name/q/model.gguf"),
            Some(("org/name".into(), Some("q/model.gguf".into())))
        );
        for path in [
            "models",
            "models/a.gguf",
            "./org/name",
            "../org/name",
            "/org/name",
            "org/name/",
            "a/b/c",
            "a/../b",
        ] {
            assert_eq!(parse(path), None, "{path}");
        }
    }

    #[test]
    fn revisions_stay_inside_the_cache() {
        assert!(
            check_revision("main").is_ok()
                && check_revision("refs/pr/1").is_ok()
                && check_revision("v1.0").is_ok()
        );
        for bad in ["", "../x", "/etc", "a b", "a/../../b"] {
            assert!(check_revision(bad).is_err(), "{bad}");
        }
        assert!(is_commit(&"a1".repeat(20)) && !is_commit("main") && !is_commit(&"g".repeat(40)));
    }
}
