//! The tests that a program of the model's own must get through.

use std::path::Path;

use marill_recipe::{Numbered, RecipeError, Record, locate_data, read_records};

use crate::{
    EvalError,
    task::{Kind, Task},
};

/// What a program of the model's own must get through.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checks {
    setup: String,
    tests: Vec<String>,
}

impl Checks {
    /// A program with its tests behind it.
    pub fn behind(&self, program: &str) -> String {
        format!("{program}\n\n{}\n{}\n", self.setup, self.tests.join("\n"))
    }
}

impl Task {
    /// The tests of the same examples, for a task of programs: `test_list` and `test_setup_code` of
    /// each row.
    ///
    /// # Errors
    /// [`EvalError::Data`] naming file and row.
    pub fn checks(&self, data: Option<&Path>) -> Result<Vec<Checks>, EvalError> {
        if self.kind != Kind::Code {
            return Ok(Vec::new());
        }
        let fail = |source| EvalError::Data {
            task: self.name.clone(),
            source,
        };
        let path = data
            .map_or_else(
                || locate_data(&self.dataset.path, self.beside()),
                |path| Ok(path.into()),
            )
            .map_err(fail)?;
        let row = |Numbered { line, record }: &Numbered| {
            checks_of(record).ok_or_else(|| {
                let reason = "a program needs `test_list`, an array of Python statements".into();
                fail(RecipeError::Row {
                    path: path.clone(),
                    row: *line,
                    reason,
                })
            })
        };
        let records = read_records(&path).map_err(fail)?;
        let mut checks = records.iter().map(row).collect::<Result<Vec<_>, _>>()?;
        if data.is_none() {
            checks.drain(..self.first_held_out(checks.len()));
        }
        Ok(checks)
    }
}

fn checks_of(record: &Record) -> Option<Checks> {
    let texts = record
        .get("test_list")?
        .as_array()?
        .iter()
        .map(|test| test.as_str().map(unix_lines));
    let setup = record
        .get("test_setup_code")
        .and_then(|setup| setup.as_str())
        .map(unix_lines);
    Some(Checks {
        setup: setup.unwrap_or_default(),
        tests: texts.collect::<Option<_>>()?,
    })
}

fn unix_lines(text: &str) -> String {
    text.replace("\r\n", "\n")
}

#[cfg(test)]
mod tests {
    use marill_recipe::Prompt;

    use super::*;

    #[test]
    fn programs_come_with_their_tests() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let row = concat!(
            r#"{"text": "Add.", "code": "def add(a, b):\r\n  return a + b", "#,
            r#""test_setup_code": "import os", "#,
            r#""test_list": ["assert add(1, 2) == 3", "assert add(0, 0) == 0"]}"#
        );
        std::fs::write(&path, row).unwrap();
        let task = Task::find("mbpp").unwrap();
        let example = &task.examples(Some(&path), None).unwrap()[0];
        assert_eq!(example.completion, "def add(a, b):\n  return a + b");
        let Prompt::Chat(turns) = &example.prompt else {
            panic!()
        };
        assert!(
            turns[0]
                .content
                .ends_with("assert add(1, 2) == 3\nassert add(0, 0) == 0"),
            "{turns:?}"
        );
        let checks = task.checks(Some(&path)).unwrap();
        let whole = checks[0].behind("def add(a, b): return a + b");
        assert!(whole.starts_with("def add"), "{whole}");
        assert!(
            whole.contains("import os\nassert add(1, 2) == 3\nassert add(0, 0) == 0"),
            "{whole}"
        );
        std::fs::write(
            &path,
            "{\"text\": \"Add.\", \"code\": \"x\", \"test_list\": 3}",
        )
        .unwrap();
        assert!(
            task.checks(Some(&path))
                .unwrap_err()
                .to_string()
                .contains("row 1")
        );
    }
}
