//! What an experiment compares: tasks, arms, rates and seeds, from a TOML file.

use std::path::Path;

use anyhow::Context;
use marill_recipe::Recipe;
use serde::Deserialize;

use crate::{commands::recipes::text_of, output::failure::BadInput};

/// The plan of `marill bench headline --quality`.
pub const HEADLINE: &str = include_str!("../../../../../../recipes/plans/headline.toml");

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Tokens of a scored run.
    pub tokens: usize,
    /// Tokens of a run that a rate is chosen by.
    pub rate_tokens: usize,
    #[serde(rename = "task")]
    pub tasks: Vec<TaskPlan>,
    pub rates: Vec<RatePlan>,
    /// The first one is the full fine-tune.
    #[serde(rename = "arm")]
    pub arms: Vec<Arm>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TaskPlan {
    /// Of `marill eval`.
    pub name: String,
    /// A recipe inside the program, or a file whose name ends in `.toml`.
    pub recipe: String,
    /// Rows of the training file, from the first on; a tenth of them is kept out of training for
    /// the loss that a rate is chosen by.
    pub train_rows: usize,
    /// First rows of the task's test file that are scored.
    pub rows: usize,
    /// Longest answer in tokens, in place of the task's; 0 scores code by its likelihood alone.
    #[serde(default)]
    pub max_new_tokens: Option<usize>,
    /// Few-shot examples that the base model is tried with.
    pub shots: Vec<usize>,
    pub seeds: Vec<u64>,
    /// The task whose rates are taken; its own where this is left out.
    #[serde(default)]
    pub rates_of: Option<String>,
    pub expect: Expected,
}

/// What is expected before anything is run.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// A full fine-tune's score minus the base model's.
    pub gain: f64,
    /// Standard error of one score.
    pub stderr: f64,
}

/// Learning rates to choose from, in runs of one arm.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RatePlan {
    pub name: String,
    pub arm: String,
    pub values: Vec<f64>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Arm {
    pub name: String,
    pub about: String,
    /// Which of [`Plan::rates`].
    pub rates: String,
    /// Tables of the recipe that are left out.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Keys of the recipe, as `--set` takes them.
    #[serde(default)]
    pub set: Vec<String>,
    /// The arm whose run of the same seed teaches.
    #[serde(default)]
    pub teacher: Option<String>,
    /// The tasks that have this arm; all of them where this is empty.
    #[serde(default)]
    pub tasks: Vec<String>,
}

impl Arm {
    pub fn is_on(&self, task: &TaskPlan) -> bool {
        self.tasks.is_empty() || self.tasks.contains(&task.name)
    }
}

impl Plan {
    /// # Errors
    /// [`BadInput`] with the place of a mistake, and for names that nothing in the plan has.
    pub fn parse(text: &str, name: &str) -> anyhow::Result<Self> {
        let plan: Self = toml::from_str(text)
            .with_context(|| format!("`{name}`"))
            .map_err(BadInput)?;
        plan.check()
            .with_context(|| format!("`{name}`"))
            .map_err(BadInput)?;
        Ok(plan)
    }

    /// # Errors
    /// Names that nothing in the plan has, and changes that no recipe allows.
    pub fn check(&self) -> anyhow::Result<()> {
        anyhow::ensure!(!self.arms.is_empty(), "it has no `[[arm]]`");
        let tasks = || self.tasks.iter().map(|task| task.name.as_str());
        unique("task", tasks())?;
        unique("rates", self.rates.iter().map(|rates| rates.name.as_str()))?;
        for task in &self.tasks {
            let of = task.rates_of.as_ref().unwrap_or(&task.name);
            anyhow::ensure!(tasks().any(|name| name == of), "there is no task `{of}`");
            anyhow::ensure!(!task.seeds.is_empty(), "task `{}` has no seed", task.name);
            anyhow::ensure!(
                !task.shots.is_empty(),
                "task `{}` has no `shots`",
                task.name
            );
            unique("arm", self.arms_of(task).map(|arm| arm.name.as_str()))?;
            for arm in self.arms_of(task) {
                self.rates_named(&arm.rates)?;
                if let Some(teacher) = &arm.teacher {
                    self.arm(task, teacher)?;
                }
                // A wrong key is said before anything is run.
                self.recipe(task, arm, self.tokens, None, task.seeds[0])?;
            }
            for rates in &self.rates {
                self.arm(task, &rates.arm)?;
                anyhow::ensure!(!rates.values.is_empty(), "`{}` has no values", rates.name);
            }
        }
        for arm in &self.arms {
            for task in &arm.tasks {
                anyhow::ensure!(
                    tasks().any(|name| name == task),
                    "there is no task `{task}`"
                );
            }
        }
        Ok(())
    }

    pub fn arms_of<'a>(&'a self, task: &'a TaskPlan) -> impl Iterator<Item = &'a Arm> {
        self.arms.iter().filter(|arm| arm.is_on(task))
    }

    /// # Errors
    /// No arm of the task has this name.
    pub fn arm<'a>(&'a self, task: &'a TaskPlan, name: &str) -> anyhow::Result<&'a Arm> {
        self.arms_of(task)
            .find(|arm| arm.name == name)
            .with_context(|| format!("task `{}` has no arm `{name}`", task.name))
    }

    /// # Errors
    /// No `[[rates]]` has this name.
    pub fn rates_named(&self, name: &str) -> anyhow::Result<&RatePlan> {
        self.rates
            .iter()
            .find(|rates| rates.name == name)
            .with_context(|| format!("there is no `[[rates]]` named `{name}`"))
    }

    /// The task whose short runs decide the rates of `task`.
    pub fn rate_task(&self, task: &TaskPlan) -> &TaskPlan {
        let of = task.rates_of.as_ref().unwrap_or(&task.name);
        self.tasks
            .iter()
            .find(|task| task.name == *of)
            .expect("`check` has found it")
    }

    /// The recipe of an arm; without a rate, the recipe's own stays.
    ///
    /// # Errors
    /// The recipe with the changes is no valid one.
    pub fn recipe(
        &self,
        task: &TaskPlan,
        arm: &Arm,
        tokens: usize,
        rate: Option<f64>,
        seed: u64,
    ) -> anyhow::Result<Recipe> {
        let mut table: toml::Table = toml::from_str(&recipe_text(&task.recipe)?)?;
        for removed in &arm.remove {
            table.remove(removed);
        }
        let dataset = table.get_mut("dataset").and_then(|d| d.get_mut(0));
        let dataset = dataset.and_then(toml::Value::as_table_mut);
        let rows = i64::try_from(task.train_rows)?;
        dataset
            .with_context(|| format!("recipe `{}` has no `[[dataset]]`", task.recipe))?
            .insert("limit".into(), rows.into());
        let mut sets = arm.set.clone();
        sets.push("data.val_fraction=0.1".into());
        sets.push(format!("train.max_tokens={tokens}"));
        sets.push(format!("train.seed={seed}"));
        sets.extend(rate.map(|rate| format!("optimizer.learning_rate={rate:?}")));
        let name = format!("{} as arm `{}`", task.recipe, arm.name);
        Ok(Recipe::parse(&toml::to_string(&table)?, &name, &sets)?)
    }

    /// Width of a 95% interval of one task's recovery that its expectations let hope for: the score
    /// of a model and of the full fine-tune, each over this many seeds, taken as independent.
    pub fn expected_width(task: &TaskPlan, seeds: usize) -> f64 {
        let Expected { gain, stderr } = task.expect;
        2.0 * 1.96 * stderr * (2.0 / seeds.max(1) as f64).sqrt() / gain.abs()
    }
}

/// The text of a recipe inside the program, or of a file.
fn recipe_text(name: &str) -> anyhow::Result<String> {
    if name.ends_with(".toml") {
        return std::fs::read_to_string(name).with_context(|| format!("cannot read `{name}`"));
    }
    Ok(text_of(name)?.to_owned())
}

/// # Errors
/// A name stands twice.
fn unique<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> anyhow::Result<()> {
    let mut seen = std::collections::BTreeSet::new();
    for name in names {
        anyhow::ensure!(seen.insert(name), "`[[{what}]]` `{name}` stands twice");
    }
    Ok(())
}

/// The plan in a file, or the headline's.
///
/// # Errors
/// [`BadInput`] for a file that is none.
pub fn open(file: Option<&Path>) -> anyhow::Result<Plan> {
    match file {
        None => Plan::parse(HEADLINE, "headline.toml"),
        Some(path) => {
            let text = std::fs::read_to_string(path)
                .with_context(|| format!("cannot read `{}`", path.display()))
                .map_err(BadInput)?;
            Plan::parse(&text, &path.display().to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headline_is_a_plan() {
        let plan = Plan::parse(HEADLINE, "headline.toml").unwrap();
        let [agnews, ..] = &plan.tasks[..] else {
            panic!("no task")
        };
        let full = plan.arm(agnews, "full").unwrap();
        let recipe = plan.recipe(agnews, full, 1000, Some(3e-4), 7).unwrap();
        assert!(recipe.lora.is_none() && recipe.heads.is_none());
        assert_eq!(recipe.freeze.layers, 0);
        assert_eq!(recipe.optimizer.learning_rate, 3e-4);
        assert_eq!(
            (recipe.train.max_tokens, recipe.train.seed),
            (Some(1000), 7)
        );
        let trec = plan.tasks.iter().find(|task| task.name == "trec").unwrap();
        assert_eq!(plan.rate_task(trec).name, "agnews");
    }

    #[test]
    fn names_that_nothing_has_are_said() {
        let wrong = |from: &str, to: &str| {
            let text = HEADLINE.replacen(from, to, 1);
            assert_ne!(text, HEADLINE);
            format!("{:#}", Plan::parse(&text, "p.toml").unwrap_err())
        };
        let text = wrong("rates_of = \"agnews\"", "rates_of = \"agnew\"");
        assert!(
            text.contains("`p.toml`: there is no task `agnew`"),
            "{text}"
        );
        let text = wrong("arm = \"plain\"", "arm = \"plan\"");
        assert!(text.contains("has no arm `plan`"), "{text}");
        let text = wrong("freeze.layers=0", "freeze.layer=0");
        assert!(text.contains("freeze.layer"), "{text}");
        let text = wrong("recipe = \"trec-smollm2\"", "recipe = \"trec\"");
        assert!(text.contains("there is no recipe `trec`"), "{text}");
    }

    #[test]
    fn two_seeds_narrow_what_is_to_be_expected() {
        let plan = Plan::parse(HEADLINE, "headline.toml").unwrap();
        let one = Plan::expected_width(&plan.tasks[0], 1);
        // 3.92 standard errors of a difference of two scores, as a share of the gain.
        assert!((one - 3.92 * 0.012 * 2f64.sqrt() / 0.28).abs() < 1e-9);
        let two = Plan::expected_width(&plan.tasks[0], 2);
        assert!((two - one / 2f64.sqrt()).abs() < 1e-9);
    }
}
