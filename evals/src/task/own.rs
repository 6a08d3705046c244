//! A recipe's own test rows as a task, and tasks in the format that a recipe trained.

use marill_recipe::{Dataset, Format, Recipe};

use crate::task::{Kind, Shots, Task, window};

/// How a recipe's own test rows are called.
const OWN_NAME: &str = "recipe";

/// Longest answer to one of them, in tokens.
const OWN_NEW_TOKENS: usize = 64;

impl Task {
    /// The test rows that a recipe's `[eval] path` names, in the format of its first data set,
    /// where it names some.
    pub fn of_recipe(recipe: &Recipe) -> Option<Self> {
        let eval = recipe.eval.as_ref()?;
        let trained = recipe.dataset.first()?;
        let dataset = Dataset {
            path: eval.path.clone()?,
            target_path: eval.target_path.clone(),
            ..trained.clone()
        };
        let kind = match dataset.format {
            Format::Classify => Kind::Classify,
            Format::Translate => Kind::Generate,
            Format::Instruct | Format::Chat => Kind::Likelihood,
            Format::Text => Kind::Perplexity,
        };
        let shots = Some(Shots {
            path: trained.path.clone(),
            target_path: trained.target_path.clone(),
        });
        let max_new_tokens = OWN_NEW_TOKENS;
        let window = window();
        Some(Self {
            name: OWN_NAME.into(),
            version: 1,
            kind,
            max_new_tokens,
            window,
            dataset,
            shots,
            held_out: None,
            file: None,
        })
    }

    /// Whether it is [`Task::of_recipe`].
    pub fn is_of_recipe(&self) -> bool {
        self.name == OWN_NAME
    }

    /// Renders rows as `recipe` does, when it has a data set of this task's format: a model is
    /// asked in the format that it was trained on. The task keeps its own rows; what is written in
    /// them as a label means what the recipe says.
    pub fn format_as(&mut self, recipe: &[Dataset]) -> bool {
        let fits = |dataset: &&Dataset| {
            let ours = self.dataset.labels.len();
            let theirs = dataset.labels.len();
            dataset.format == self.dataset.format && (self.kind != Kind::Classify || ours == theirs)
        };
        let Some(trained) = recipe.iter().find(fits) else {
            return false;
        };
        self.dataset.style = trained.style;
        self.dataset.system.clone_from(&trained.system);
        self.dataset.template.clone_from(&trained.template);
        self.dataset.completion.clone_from(&trained.completion);
        if !trained.labels.is_empty() {
            self.dataset.label_codes = self.codes_for(trained);
            self.dataset.labels.clone_from(&trained.labels);
        }
        true
    }

    /// How rows write the labels of `trained`, in their order: its own codes, or else the task's by
    /// the labels' names.
    fn codes_for(&self, trained: &Dataset) -> Vec<String> {
        if !trained.label_codes.is_empty() || self.dataset.label_codes.is_empty() {
            return trained.label_codes.clone();
        }
        let name = |label: &String| label.trim().to_lowercase();
        let place = |label: &String| {
            self.dataset
                .labels
                .iter()
                .position(|ours| name(ours) == name(label))
        };
        let by_name: Option<Vec<String>> = trained
            .labels
            .iter()
            .map(|label| self.dataset.label_codes.get(place(label)?).cloned())
            .collect();
        // Labels of other names stand for the task's in its own order.
        by_name.unwrap_or_else(|| self.dataset.label_codes.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRAINED: &str = r#"
        [model]
        base_model = "base"
        [[dataset]]
        path = "rows.tsv"
        format = "classify"
        label = "1"
        template = "Kind of: {0}"
        labels = ["a", "b", "c"]
        [[dataset]]
        path = "rows.tsv"
        format = "classify"
        label = "1"
        template = "Kind of: {0}"
        labels = ["positive", "negative"]
        label_codes = ["1", "0"]
        [eval]
        path = "test.tsv"
        min = 0.9
        [output]
        dir = "out"
    "#;

    #[test]
    fn the_recipes_codes_say_which_label_is_which() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("mine.tsv");
        std::fs::write(&path, "fine film\t1\ndull\t0\n").unwrap();
        let trained = |change: &dyn Fn(String) -> String| {
            let recipe = Recipe::parse(&change(TRAINED.into()), "r.toml", &[]).unwrap();
            let mut task = Task::find("sst2").unwrap();
            assert!(task.format_as(&recipe.dataset));
            let rows = task.examples(Some(&path), None).unwrap();
            rows.iter()
                .map(|row| (row.completion.clone(), row.label))
                .collect::<Vec<_>>()
        };
        let row = |name: &str, label| (name.to_owned(), Some(label));
        assert_eq!(
            trained(&|text| text),
            [row("positive", 0), row("negative", 1)]
        );
        let other = |text: String| text.replace("[\"1\", \"0\"]", "[\"0\", \"1\"]");
        assert_eq!(trained(&other), [row("negative", 1), row("positive", 0)]);
        // Without codes a number is the place in the recipe's own list, as in training.
        let none = |text: String| text.replace("label_codes", "#");
        assert_eq!(trained(&none), [row("negative", 1), row("positive", 0)]);
    }

    #[test]
    fn the_tasks_codes_follow_the_names_of_the_recipes_labels() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trec.tsv");
        std::fs::write(&path, "How far is it ?\tNUM:dist\nWho was he ?\tHUM:desc\n").unwrap();
        for labels in [
            "[\"number\", \"place\", \"person\", \"description\", \"thing\", \"abbreviation\"]",
            "[\" Abbreviation\", \" thing\", \" description\", \" person\", \" place\", \" \
             number\"]",
        ] {
            let text = TRAINED
                .replace("[\"a\", \"b\", \"c\"]", labels)
                .replace("min", "#");
            let mut task = Task::find("trec").unwrap();
            assert!(task.format_as(&Recipe::parse(&text, "r.toml", &[]).unwrap().dataset));
            let rows = task.examples(Some(&path), None).unwrap();
            let said: Vec<_> = rows.iter().map(|row| row.completion.trim()).collect();
            assert_eq!(said, ["number", "person"], "{labels}");
        }
    }

    #[test]
    fn a_recipes_test_rows_are_a_task_of_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("test.tsv");
        std::fs::write(&path, "x\tb\n\ny\tc\n").unwrap();
        let text = TRAINED.replace("\"test.tsv\"", &format!("{:?}", path.display().to_string()));
        let recipe = Recipe::parse(&text, "r.toml", &[]).unwrap();
        let task = Task::of_recipe(&recipe).unwrap();
        assert_eq!(
            (task.kind, task.name.as_str(), task.higher_is_better()),
            (Kind::Classify, "recipe", true)
        );
        let rows = task.examples(None, None).unwrap();
        assert_eq!(
            rows.iter().map(|row| row.label).collect::<Vec<_>>(),
            [Some(1), Some(2)]
        );
        assert!(
            Task::of_recipe(
                &Recipe::parse(&text.replace("path = \"/", "#\"/"), "r.toml", &[]).unwrap()
            )
            .is_none()
        );
    }
}
