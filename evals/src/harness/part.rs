//! A part of a task's rows, and what it takes to put parts together again.

use marill_recipe::Example;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::task::Task;

/// What the report over a part of the rows says besides.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// The first row, and the one behind the last.
    pub rows: [usize; 2],
    /// Rows of the whole task (windows, for perplexity).
    pub of: usize,
    /// Digest of how the rows are asked: the format, the few-shot examples, the longest answer and
    /// whether rows are left out.
    pub asked_sha256: String,
    /// Prompt, right answer and answer of each example, which the digests of the whole are made
    /// from.
    pub texts: Vec<[String; 3]>,
}

impl Part {
    pub(super) fn new(
        task: &Task,
        shots: &[Example],
        rows: [usize; 2],
        of: usize,
        excludes: bool,
        texts: Vec<[String; 3]>,
    ) -> Self {
        let shots: Vec<_> = shots
            .iter()
            .map(|shot| (shot.prompt.question(), &shot.completion))
            .collect();
        let format = (&task.dataset.template, &task.dataset.labels);
        let asked = (format, shots, task.max_new_tokens, task.window, excludes);
        let asked = serde_json::to_vec(&asked).expect("texts and numbers serialize");
        Self {
            rows,
            of,
            asked_sha256: marill_numeric::hex(&Sha256::digest(asked)),
            texts,
        }
    }
}
