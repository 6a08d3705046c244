//! Which tasks are run on which rows: those of the command line, or else those of the recipe's
//! `[eval]`.

use std::path::{Path, PathBuf};

use anyhow::Context;
use marill_evals::{EvalError, Task};
use marill_recipe::{Eval, Recipe, locate, locate_data};

use super::{Args, bad};
use crate::{args::model_dir::recipe_beside, output::failure::BadInput};

/// What is asked.
pub struct Chosen {
    pub tasks: Vec<Task>,
    /// Rows in place of the tasks' own, and the other side of them.
    pub data: Option<PathBuf>,
    pub reference: Option<PathBuf>,
    /// The least score of the first task, and who asks for it.
    pub min: Option<(f64, &'static str)>,
}

impl Chosen {
    /// # Errors
    /// [`BadInput`] when no task is named, a name is unknown, a file is missing, or a least score
    /// makes no sense.
    pub fn new(args: &Args, model: &Path) -> anyhow::Result<Self> {
        let file = args.recipe.clone().or_else(|| recipe_beside(model));
        let recipe = file
            .as_ref()
            .map(|path| Recipe::read(path, &[]))
            .transpose()
            .map_err(|e| BadInput(e.into()))?;
        let beside = file
            .as_deref()
            .and_then(Path::parent)
            .unwrap_or(Path::new(""));
        let eval = recipe.as_ref().and_then(|recipe| recipe.eval.as_ref());

        let mut chosen = Self {
            tasks: Vec::new(),
            data: args.data.clone(),
            reference: args.reference.clone(),
            min: None,
        };
        if args.tasks.is_empty() {
            chosen.of_recipe(recipe.as_ref(), beside)?;
        } else {
            chosen.tasks = named(&args.tasks, Path::new(""))?;
        }
        if let Some(tokens) = args.max_new_tokens {
            chosen
                .tasks
                .iter_mut()
                .for_each(|task| task.max_new_tokens = tokens);
        }
        if let (Some(recipe), Some(file)) = (&recipe, &file) {
            for task in &mut chosen.tasks {
                if task.file().is_none() && task.format_as(&recipe.dataset) {
                    eprintln!(
                        "`{}` is asked with the prompt format of `{}`",
                        task.name,
                        file.display()
                    );
                }
            }
        }
        let of_recipe = eval
            .filter(|eval| chosen.is_first_of(eval))
            .and_then(|eval| eval.min);
        chosen.min = args
            .min
            .map(|min| (min, "--min"))
            .or(of_recipe.map(|min| (min, "eval.min")));
        if let (Some((_, key)), Some(first)) = (chosen.min, chosen.tasks.first()) {
            has_least(first, key)?;
        }
        Ok(chosen)
    }

    fn of_recipe(&mut self, recipe: Option<&Recipe>, beside: &Path) -> anyhow::Result<()> {
        let eval = recipe.and_then(|recipe| recipe.eval.as_ref());
        let own = recipe.and_then(Task::of_recipe);
        self.tasks = match eval {
            Some(eval) if !eval.tasks.is_empty() => named(&eval.tasks, beside)?,
            _ => own.into_iter().collect(),
        };
        let Some(eval) = eval.filter(|_| !self.tasks.is_empty()) else {
            let error = anyhow::anyhow!(
                "no task is named\n\
                 hint: `--tasks NAMES`, or `tasks` or `path` in the `[eval]` table of the recipe \
                 beside the model"
            );
            return Err(BadInput(error).into());
        };
        if self.data.is_none() {
            let found = |path: &Option<String>| {
                path.as_ref()
                    .map(|path| locate_data(path, beside))
                    .transpose()
            };
            let files = found(&eval.path).and_then(|data| Ok((data, found(&eval.target_path)?)));
            (self.data, self.reference) = files.map_err(|error| {
                BadInput(
                    anyhow::Error::new(error).context("`eval.path` of the recipe is not found"),
                )
            })?;
        }
        Ok(())
    }

    /// Whether the first task is the one that a recipe's least score is about.
    fn is_first_of(&self, eval: &Eval) -> bool {
        let Some(first) = self.tasks.first() else {
            return false;
        };
        match eval.tasks.first() {
            Some(name) => match first.file() {
                Some(file) => Path::new(name).file_name() == file.file_name(),
                None => *name == first.name,
            },
            // Its own rows, or whatever is named where it has none.
            None => eval.path.is_none() || first.is_of_recipe(),
        }
    }
}

/// The tasks of these names, embedded ones or files; those are searched beside a recipe too.
///
/// # Errors
/// [`BadInput`] for an unknown one, or one that is named twice: its results would stand under one
/// name.
fn named(names: &[String], beside: &Path) -> anyhow::Result<Vec<Task>> {
    let task = |name: &String| {
        if !Task::is_file_name(name) {
            return Task::find(name).map_err(bad);
        }
        let path = locate(name, beside).map_err(|error| BadInput(error.into()))?;
        Task::from_file(&path).map_err(bad)
    };
    let tasks = names.iter().map(task).collect::<anyhow::Result<Vec<_>>>()?;
    let mut found = tasks.iter().enumerate();
    if let Some((_, twice)) =
        found.find(|(nth, task)| tasks[..*nth].iter().any(|other| other.name == task.name))
    {
        let problem = anyhow::anyhow!("the task `{}` is named twice", twice.name);
        return Err(BadInput(problem).into());
    }
    Ok(tasks)
}

/// Refuses an `[eval]` that could not be run behind the training: a task that does not exist, a
/// least score of one that is the better the lower it is.
///
/// # Errors
/// [`BadInput`] naming the key.
pub fn check(recipe: &Recipe, recipe_dir: &Path) -> anyhow::Result<()> {
    let Some(eval) = &recipe.eval else {
        return Ok(());
    };
    let tasks = named(&eval.tasks, recipe_dir)
        .context("`eval.tasks`")
        .map_err(BadInput)?;
    let own = Task::of_recipe(recipe);
    match tasks.first().or(own.as_ref()) {
        Some(first) if eval.min.is_some() => has_least(first, "eval.min"),
        _ => Ok(()),
    }
}

fn has_least(task: &Task, key: &str) -> anyhow::Result<()> {
    if task.higher_is_better() {
        return Ok(());
    }
    let reason = format!("`{key}` is a least score, and its score is the better the lower it is");
    Err(bad(EvalError::Task {
        task: task.name.clone(),
        reason,
    }))
}
