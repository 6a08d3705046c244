//! The server's side: the files that are there, and taking one.

use std::path::{Path, PathBuf};

use marill_mpc::Selection;
use marill_numeric::unhex;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::{
    error::{PreprocessingError, StateError},
    preprocessing::seal::{Head, SealedCorrelations, SealingKey, name_of},
    terms::SessionParameters,
};

const EXTENSION: &str = "ahead";
/// More are not listed to a client at once.
const MAX_AVAILABLE: usize = 64;

/// A session that a server has correlations for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AvailableSession {
    pub session: String,
    pub bucket: usize,
    pub tokens: usize,
    pub selection: Selection,
}

pub(crate) fn file_name(
    bucket: usize,
    tokens: usize,
    selection: Selection,
    session: &str,
) -> String {
    format!(
        "{bucket}-{tokens}-{}-{session}.{EXTENSION}",
        selection.as_str()
    )
}

fn parse_name(path: &Path) -> Option<AvailableSession> {
    let stem = path
        .file_name()?
        .to_str()?
        .strip_suffix(EXTENSION)?
        .strip_suffix('.')?;
    let mut words = stem.splitn(4, '-');
    let bucket = words.next()?.parse().ok()?;
    let tokens = words.next()?.parse().ok()?;
    let selection = Selection::parse(words.next()?)?;
    let session = words
        .next()
        .filter(|session| unhex::<16>(session).is_some())?;
    Some(AvailableSession {
        session: session.into(),
        bucket,
        tokens,
        selection,
    })
}

/// A folder of files.
pub struct CorrelationStore {
    folder: PathBuf,
    key: SealingKey,
    dealer_key: Zeroizing<String>,
}

impl CorrelationStore {
    #[must_use]
    pub fn new(folder: &Path, key: SealingKey, dealer_key: &str) -> Self {
        Self {
            folder: folder.into(),
            key,
            dealer_key: Zeroizing::new(dealer_key.into()),
        }
    }

    fn files(&self) -> Result<Vec<(AvailableSession, PathBuf)>, PreprocessingError> {
        let entries = std::fs::read_dir(&self.folder).map_err(StateError::io(&self.folder))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        Ok(paths
            .filter_map(|path| Some((parse_name(&path)?, path)))
            .collect())
    }

    /// Sessions whose file is there, as their names say, for prompts of `bucket` and at least
    /// `tokens` chosen this way; the shortest first. `is_used` leaves out those that were taken and
    /// could not be removed.
    ///
    /// # Errors
    /// [`StateError::Io`].
    pub fn available(
        &self,
        bucket: usize,
        tokens: usize,
        selection: Selection,
        is_used: impl Fn(&str) -> Result<bool, StateError>,
    ) -> Result<Vec<AvailableSession>, PreprocessingError> {
        let fits = |candidate: &AvailableSession| {
            (candidate.bucket, candidate.selection) == (bucket, selection)
                && candidate.tokens >= tokens
        };
        let mut available = Vec::new();
        for (candidate, _) in self
            .files()?
            .into_iter()
            .filter(|(candidate, _)| fits(candidate))
        {
            if !is_used(&candidate.session)? {
                available.push(candidate);
            }
        }
        available.sort_unstable_by(|a, b| (a.tokens, &a.session).cmp(&(b.tokens, &b.session)));
        available.truncate(MAX_AVAILABLE);
        Ok(available)
    }

    /// The file of a session, for this program and adapter; nothing is used up yet.
    ///
    /// # Errors
    /// [`PreprocessingError::NoFile`] where there is none; [`PreprocessingError::BadFile`] for
    /// a file that is not what its name and these parameters say.
    pub fn find(
        &self,
        session: &str,
        parameters: &SessionParameters,
        private_sha256: &str,
        selection: Selection,
    ) -> Result<Found, PreprocessingError> {
        let found = self
            .files()?
            .into_iter()
            .find(|(candidate, _)| candidate.session == session);
        let (candidate, path) = found.ok_or_else(|| PreprocessingError::NoFile {
            session: session.into(),
        })?;
        let head = Head::read(&path)?;
        let bad = |reason: String| PreprocessingError::BadFile {
            file: name_of(&path),
            reason,
        };
        let header = &head.header;
        let named = (candidate.bucket, candidate.tokens, candidate.selection);
        if header.session != session || (header.bucket, header.tokens, header.selection) != named {
            return Err(bad("its header says something else than its name".into()));
        }
        parameters
            .check(&header.parameters)
            .map_err(|error| bad(format!("it was made for another program: {error}")))?;
        if header.selection != selection {
            return Err(bad(format!(
                "it is for tokens chosen by `{}`",
                header.selection.as_str()
            )));
        }
        if header.private_sha256 != private_sha256 {
            return Err(bad("it was made for another adapter".into()));
        }
        Ok(Found(head))
    }

    /// Opens the file of a session that the caller has claimed, with what the dealer released, and
    /// removes it.
    ///
    /// # Errors
    /// [`PreprocessingError::BadFile`].
    pub fn take(
        &self,
        found: Found,
        release: &[u8; 32],
    ) -> Result<SealedCorrelations, PreprocessingError> {
        let path = found.0.path.clone();
        let source =
            SealedCorrelations::open(found.0, &self.key, [self.dealer_key.as_bytes(), release])?;
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::warn!(
                "a used file stays where it is, `{}`: {error}",
                path.display()
            );
        }
        Ok(source)
    }
}

/// A file that was found and fits.
pub struct Found(Head);

impl Found {
    /// Padded length of the prompt that it is for.
    #[must_use]
    pub fn bucket(&self) -> usize {
        self.0.header.bucket
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_say_what_is_in_them() {
        let session = "ab".repeat(16);
        let name = file_name(64, 32, Selection::TopK, &session);
        let candidate = AvailableSession {
            session,
            bucket: 64,
            tokens: 32,
            selection: Selection::TopK,
        };
        assert_eq!(parse_name(Path::new(&name)), Some(candidate));
        for other in [
            "64-32.ahead",
            "64-32-greedy-xyz.ahead",
            "64-32-abababababababababababababababab.ahead",
            "x",
        ] {
            assert_eq!(parse_name(Path::new(other)), None, "{other}");
        }
    }
}
