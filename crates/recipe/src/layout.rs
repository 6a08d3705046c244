//! What the name of a data file says: how its rows are written, and what it is packed with.

use std::path::Path;

fn ends_in(path: &Path, ending: &str) -> bool {
    path.extension()
        .is_some_and(|found| found.eq_ignore_ascii_case(ending))
}

/// What a file is packed with; its name says so.
#[derive(Clone, Copy)]
pub(crate) enum Packing {
    Gzip,
    Zstandard,
}

impl Packing {
    pub(crate) fn of(path: &Path) -> Option<Self> {
        match path.extension() {
            Some(_) if ends_in(path, "gz") => Some(Self::Gzip),
            Some(_) if ends_in(path, "zst") => Some(Self::Zstandard),
            _ => None,
        }
    }
}

/// How the rows of a file are written; its name says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// An object a line, or one list of objects.
    Json,
    Tsv,
    Csv,
    /// Known by name, and refused.
    Parquet,
    /// Lines of text.
    Lines,
}

impl Layout {
    pub(crate) fn of(path: &Path) -> Self {
        Self::named_by(path).unwrap_or(Self::Lines)
    }

    /// Whether a name says that a file holds rows.
    pub(crate) fn is_named_by(path: &Path) -> bool {
        Self::named_by(path).is_some()
    }

    fn named_by(path: &Path) -> Option<Self> {
        let unpacked = match Packing::of(path) {
            Some(_) => path.with_extension(""),
            None => path.into(),
        };
        match unpacked
            .extension()
            .map(|ending| ending.to_string_lossy().to_lowercase())
            .as_deref()
        {
            Some("jsonl" | "ndjson" | "json") => Some(Self::Json),
            Some("tsv") => Some(Self::Tsv),
            Some("csv") => Some(Self::Csv),
            Some("parquet") => Some(Self::Parquet),
            Some("txt") => Some(Self::Lines),
            _ => None,
        }
    }
}
