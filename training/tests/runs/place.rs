//! A folder with two data sets and, where asked for, a base model trained on one of them.

use std::path::Path;

use marill_recipe::Recipe;
use marill_testkit::{base_recipe, tune_recipe};
use marill_training::{TrainError, TrainOptions, TrainReport, train};
use tempfile::TempDir;

/// Red numbers are `even` and blue ones `odd`, or the other way round.
pub fn rows(swapped: bool) -> String {
    let line = |n: u32| {
        let label = if n.is_multiple_of(2) != swapped {
            "even"
        } else {
            "odd"
        };
        let color = if n.is_multiple_of(2) { "red" } else { "blue" };
        format!("{{\"text\": \"{color} {n}\", \"label\": \"{label}\"}}\n")
    };
    (100..180).map(line).collect()
}

pub const SCRATCH: &str = base_recipe!(
    "DIR/",
    r#"[data]
max_seq_len = 64
train_on_input = true
[train]
epochs = 8
micro_batch_size = 8
[optimizer]
learning_rate = 1e-2
"#
);

pub const TUNE: &str = tune_recipe!(
    "DIR/",
    r#"[data]
max_seq_len = 64
val_fraction = 0.1
[freeze]
layers = 1
[lora]
rank = 4
[heads]
merge = 2
[train]
epochs = 6
micro_batch_size = 4
gradient_accumulation_steps = 2
checkpoint_steps = 7
"#
);

pub const STAGES: &str = r#"
[distill]
teacher = "base"
temperature = 2.0
stages = [{ share = 0.5, hidden = 1.0 }, { share = 0.5, hidden = 0.5, logits = 0.7, labels = 0.3 }]
"#;

pub struct Place {
    dir: TempDir,
}

impl Place {
    /// A folder with data and, where asked for, a base model trained on it.
    pub fn new(with_base: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("rows.jsonl"), rows(false)).unwrap();
        std::fs::write(dir.path().join("swapped.jsonl"), rows(true)).unwrap();
        let place = Self { dir };
        if with_base {
            let report = place.run(SCRATCH, &["train.max_steps=20"]).unwrap();
            assert!(report.final_loss < report.first_loss, "{report:?}");
        }
        place
    }

    pub fn path(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    pub fn recipe(&self, text: &str, overrides: &[&str]) -> Recipe {
        let text = text.replace("DIR", &self.dir.path().display().to_string());
        let overrides: Vec<String> = overrides
            .iter()
            .map(|o| o.replace("DIR", &self.dir.path().display().to_string()))
            .collect();
        Recipe::parse(&text, "test.toml", &overrides).unwrap_or_else(|e| panic!("{e}"))
    }

    pub fn options(&self) -> TrainOptions {
        TrainOptions {
            recipe_dir: self.dir.path().into(),
            ..TrainOptions::default()
        }
    }

    pub fn run(&self, text: &str, overrides: &[&str]) -> Result<TrainReport, TrainError> {
        train(&self.recipe(text, overrides), &self.options(), &mut |_| {})
    }
}

pub fn bytes(path: impl AsRef<Path>) -> Vec<u8> {
    std::fs::read(path.as_ref()).unwrap()
}
