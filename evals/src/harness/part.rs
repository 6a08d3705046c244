//! A part of a task's rows, and what it takes to put parts together again.

use marill_recipe::{Example, Prompt, Turn};
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
    /// Digest of what the whole task asks, and how: every row's number, prompt and right answer,
    /// the format, the few-shot examples and the longest answer.
    pub asked_sha256: String,
    /// Prompt, right answer and answer of each example, which the digests of the whole are made
    /// from.
    pub texts: Vec<[String; 3]>,
}

impl Part {
    /// `examples` are those of the whole task, each with its number in the task's rows.
    pub(super) fn new<'a>(
        task: &Task,
        shots: &[Example],
        examples: impl Iterator<Item = (usize, &'a Example)>,
        rows: [usize; 2],
        of: usize,
        texts: Vec<[String; 3]>,
    ) -> Self {
        let dataset = &task.dataset;
        let format = (
            &dataset.template,
            &dataset.labels,
            &dataset.system,
            dataset.style,
        );
        let examples: Vec<_> = examples.map(|(id, row)| (id, texts_of(row))).collect();
        let shots: Vec<_> = shots.iter().map(texts_of).collect();
        let asked = (format, shots, task.max_new_tokens, task.window, examples);
        let asked = serde_json::to_vec(&asked).expect("texts and numbers serialize");
        Self {
            rows,
            of,
            asked_sha256: marill_numeric::hex(&Sha256::digest(asked)),
            texts,
        }
    }
}

/// An example as it stands: the plain prompt or the turns of the chat one, and the right answer.
fn texts_of(example: &Example) -> (Option<&str>, &[Turn], &str) {
    let answer = &example.completion;
    match &example.prompt {
        Prompt::Plain(text) => (Some(text), &[], answer),
        Prompt::Chat(turns) => (None, turns, answer),
    }
}
