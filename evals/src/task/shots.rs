//! Few-shot examples of a task.

use marill_recipe::{Dataset, Example};

use crate::{EvalError, metrics::split_mix, task::Task};

impl Task {
    /// `count` few-shot examples, drawn with `seed`; of a classification the classes take turns.
    /// None of them asks what one of `scored` asks: the files of some tasks overlap.
    ///
    /// # Errors
    /// [`EvalError::Task`] when the task has none or fewer, [`EvalError::Data`] naming the file.
    pub fn few_shot_examples(
        &self,
        count: usize,
        seed: u64,
        scored: &[Example],
    ) -> Result<Vec<Example>, EvalError> {
        if count == 0 {
            return Ok(Vec::new());
        }
        let Some(shots) = &self.shots else {
            return Err(EvalError::Task {
                task: self.name.clone(),
                reason: "it has no few-shot examples".into(),
            });
        };
        let own = shots.path == self.dataset.path;
        let dataset = Dataset {
            path: shots.path.clone(),
            target_path: shots.target_path.clone(),
            ..self.dataset.clone()
        };
        let mut examples = Self {
            dataset,
            ..self.clone()
        }
        .all_rows(None, None)?
        .examples;
        if own {
            examples.truncate(self.first_held_out(examples.len()));
        }
        let asked: std::collections::BTreeSet<String> =
            scored.iter().map(|row| row.prompt.question()).collect();
        shuffle(&mut examples, seed);
        examples.retain(|example| !asked.contains(&example.prompt.question()));
        if count > examples.len() {
            let reason = format!(
                "`--shots` {count} are more than its {} few-shot examples",
                examples.len()
            );
            return Err(EvalError::Task {
                task: self.name.clone(),
                reason,
            });
        }
        Ok(take_turns(
            examples,
            self.dataset.labels.len().max(1),
            count,
        ))
    }
}

/// Fisher and Yates.
fn shuffle(examples: &mut [Example], seed: u64) {
    let mut state = seed;
    for last in (1..examples.len()).rev() {
        examples.swap(last, (split_mix(&mut state) % (last as u64 + 1)) as usize);
    }
}

/// The first examples, one class after the other.
fn take_turns(examples: Vec<Example>, classes: usize, count: usize) -> Vec<Example> {
    let mut by_class: Vec<_> = (0..classes)
        .map(|_| std::collections::VecDeque::new())
        .collect();
    for example in examples {
        by_class[example.label.unwrap_or(0)].push_back(example);
    }
    let mut taken = Vec::with_capacity(count);
    while taken.len() < count && by_class.iter().any(|class| !class.is_empty()) {
        for class in &mut by_class {
            if taken.len() < count {
                taken.extend(class.pop_front());
            }
        }
    }
    taken
}

#[cfg(test)]
mod tests {
    use marill_recipe::Prompt;

    use super::*;
    use crate::task::Shots;

    #[test]
    fn few_shot_examples_take_turns_between_the_classes() {
        let example = |n: usize, label| Example {
            prompt: Prompt::Plain(n.to_string()),
            completion: String::new(),
            label: Some(label),
        };
        let rows = vec![
            example(0, 0),
            example(1, 0),
            example(2, 0),
            example(3, 1),
            example(4, 2),
        ];
        let taken = take_turns(rows, 3, 4);
        let order: Vec<_> = taken.iter().map(|e| e.prompt.clone()).collect();
        assert_eq!(order, ["0", "3", "4", "1"].map(|n| Prompt::Plain(n.into())));
    }

    #[test]
    fn held_out_rows_are_scored_the_others_are_few_shot() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rows.jsonl");
        let row =
            |n| format!("{{\"instruction\": \"{n}\", \"input\": \"\", \"output\": \"o{n}\"}}\n");
        std::fs::write(&path, (0..10).map(row).collect::<String>()).unwrap();
        let mut task = Task::find("dolly").unwrap();
        task.held_out = Some(3);
        task.dataset.path = path.display().to_string();
        task.shots = Some(Shots {
            path: task.dataset.path.clone(),
            target_path: None,
        });
        let answers = |rows: &[Example]| {
            rows.iter()
                .map(|e| e.completion.clone())
                .collect::<Vec<_>>()
        };
        assert_eq!(
            answers(&task.examples(None, None).unwrap()),
            ["o7", "o8", "o9"]
        );
        let shots = answers(&task.few_shot_examples(7, 3, &[]).unwrap());
        assert_eq!(shots.len(), 7);
        assert!(
            !shots
                .iter()
                .any(|shot| ["o7", "o8", "o9"].contains(&shot.as_str()))
        );
        // A question that is scored is no few-shot example, wherever it stands.
        let first = &task.all_rows(None, None).unwrap().examples[..2];
        let shots = answers(&task.few_shot_examples(5, 3, first).unwrap());
        let error = task.few_shot_examples(6, 3, first).unwrap_err().to_string();
        assert!(
            error.contains("`--shots` 6 are more than its 5 few-shot examples"),
            "{error}"
        );
        assert!(
            task.few_shot_examples(usize::MAX, 3, first)
                .unwrap_err()
                .to_string()
                .contains("`--shots`")
        );
        assert!(
            shots.len() == 5 && !shots.contains(&"o0".into()) && !shots.contains(&"o1".into()),
            "{shots:?}"
        );
        assert_eq!(
            task.examples(Some(&path), None).unwrap().len(),
            10,
            "other data is scored whole"
        );
    }
}
