//! A folder of data files, and what is read from them.

use std::{
    io::Write,
    path::{Path, PathBuf},
};

use flate2::{Compression, write::GzEncoder};
use marill_recipe::{Dataset, RecipeError, Rows};

pub fn dataset(format: &str) -> Dataset {
    toml::from_str(&format!("path = \"x\"\nformat = \"{format}\"")).unwrap()
}

pub struct Folder(tempfile::TempDir);

impl Folder {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn rows(
        &self,
        set: &Dataset,
        name: &str,
        content: impl AsRef<[u8]>,
    ) -> Result<Rows, RecipeError> {
        Rows::read_files(set, &self.file(name, content), None)
    }

    pub fn refusal(&self, set: &Dataset, name: &str, content: impl AsRef<[u8]>) -> String {
        self.rows(set, name, content).unwrap_err().to_string()
    }
}

pub fn packed(text: &str) -> Vec<u8> {
    let mut member = GzEncoder::new(Vec::new(), Compression::fast());
    member.write_all(text.as_bytes()).unwrap();
    member.finish().unwrap()
}

pub const BLUE: &str =
    "{\"instruction\": \"Name a color\", \"input\": \"\", \"output\": \"Blue.\"}\n";

pub const PLUM: &str =
    "{\"instruction\": \"Name a fruit\", \"input\": \"\", \"output\": \"Plum.\"}\n";
