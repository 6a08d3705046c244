//! What the cells of a plan say: scores, recoveries and their intervals, and what is missing.

use anyhow::Context;
use marill_evals::recovery::{Figures, Interval, Recoveries, SeedRuns, TaskRuns};
use marill_report::Table;

use super::{
    cell::{Cell, Scored},
    plan::{Plan, TaskPlan},
    run::{BASE, Step, Study},
};

/// The report's tables, as Markdown.
///
/// # Errors
/// A damaged cell; data that are not there; cells of one task that were asked other questions.
pub fn markdown(study: &Study) -> anyhow::Result<String> {
    let runs = Runs::read(study)?;
    let recoveries = Recoveries::new(&runs.tasks);
    let mut text = String::new();
    text += &format!("{}\n", rates(study)?);
    text += &format!("\n{}\n", scores(study, &runs, &recoveries)?);
    text += &format!("\n{}\n", pooled(study, &runs, &recoveries));
    for arm in &study.plan.arms {
        text += &format!("\n- `{}`: {}", arm.name, arm.about);
    }
    text += "\n";
    let programs = programs(study)?;
    if programs.len() > 1 {
        let programs = programs.join(", ");
        text += &format!("\nThe cells are of several programs: SHA-256 {programs}.\n");
    }
    let missing = missing(study)?;
    if !missing.is_empty() {
        text += &format!("\nNot run: {}.\n", missing.join("; "));
    }
    Ok(text)
}

/// What the runs of one task scored.
pub struct TaskScores {
    pub metric: &'static str,
    pub rows: usize,
    /// Of the base model and of the full fine-tune.
    pub ends: [f64; 2],
    /// Whether the full fine-tune beats the base beyond doubt: without a gain there is nothing to
    /// recover.
    pub has_gain: bool,
    /// Score and recovery of each arm but the first; none where it was not run.
    pub arms: Vec<Option<(f64, Interval)>>,
}

/// The scores of a task; none until its base model and a full fine-tune were run.
///
/// # Errors
/// As [`markdown`].
pub fn scores_of(study: &Study, task: &TaskPlan) -> anyhow::Result<Option<TaskScores>> {
    let Some(runs) = Runs::task(study, task)? else {
        return Ok(None);
    };
    let runs = [runs];
    let recoveries = Recoveries::new(&runs);
    let of = |model| Some((recoveries.score(0, model)?, recoveries.recovery(0, model)?));
    Ok(Some(TaskScores {
        metric: runs[0].measure.name(),
        rows: runs[0].base.len(),
        ends: recoveries.ends(0),
        has_gain: recoveries.gain(0).excludes_zero(),
        arms: (0..study.plan.arms.len() - 1).map(of).collect(),
    }))
}

/// What to expect before anything is run, a line a task.
pub fn expectations(plan: &Plan) -> String {
    let line = |task: &TaskPlan| {
        let seeds = task.seeds.len();
        let width = Plan::expected_width(task, seeds);
        format!(
            "{}: the interval of a recovery will be about {width:.2} wide ({seeds} seed{}, {} \
             rows)\n",
            task.name,
            if seeds == 1 { "" } else { "s" },
            task.rows
        )
    };
    plan.tasks.iter().map(line).collect()
}

/// The runs that can be compared: tasks whose base model and at least one full fine-tune are there.
struct Runs<'a> {
    plans: Vec<&'a TaskPlan>,
    tasks: Vec<TaskRuns>,
}

impl<'a> Runs<'a> {
    fn read(study: &'a Study) -> anyhow::Result<Self> {
        let mut runs = Self {
            plans: Vec::new(),
            tasks: Vec::new(),
        };
        for task in &study.plan.tasks {
            if let Some(found) = Self::task(study, task)? {
                runs.plans.push(task);
                runs.tasks.push(found);
            }
        }
        Ok(runs)
    }

    fn task(study: &Study, task: &TaskPlan) -> anyhow::Result<Option<TaskRuns>> {
        let Some(base) = best_base(study, task)? else {
            return Ok(None);
        };
        let mut asked = None;
        let mut seeds = Vec::new();
        for &seed in &task.seeds {
            let mut of = |arm| -> anyhow::Result<Option<Figures>> {
                let Some(cell) = study.cell(&Step::Score { task, arm, seed })? else {
                    return Ok(None);
                };
                let score = score_of(&cell)?;
                let first = asked.get_or_insert_with(|| score.samples_sha256.clone());
                anyhow::ensure!(
                    *first == score.samples_sha256 && score.figures.len() == base.figures.len(),
                    "cell `{}` was asked other questions than the others of its task",
                    cell.key.name()
                );
                Ok(Some(score.figures.clone()))
            };
            let (full, others) = study.plan.arms.split_first().context("no arm")?;
            let Some(full) = of(full)? else { continue };
            let models = others
                .iter()
                .map(|arm| if arm.is_on(task) { of(arm) } else { Ok(None) });
            seeds.push(SeedRuns {
                full,
                models: models.collect::<anyhow::Result<_>>()?,
            });
        }
        Ok((!seeds.is_empty()).then_some(TaskRuns {
            task: task.name.clone(),
            measure: base.measure()?,
            base: base.figures,
            seeds,
        }))
    }
}

fn score_of(cell: &Cell) -> anyhow::Result<&Scored> {
    let score = cell.score.as_ref();
    score.with_context(|| format!("cell `{}` has no score", cell.key.name()))
}

/// The base model with the number of few-shot examples that suits it best; `None` until all were
/// tried.
fn best_base(study: &Study, task: &TaskPlan) -> anyhow::Result<Option<Scored>> {
    let mut best: Option<Scored> = None;
    for &shots in &task.shots {
        let Some(cell) = study.cell(&Step::Base { task, shots })? else {
            return Ok(None);
        };
        let score = score_of(&cell)?.clone();
        let up = score.measure()?.higher_is_better();
        let better = |best: &Scored| (score.value > best.value) == up;
        if best.as_ref().is_none_or(better) {
            best = Some(score);
        }
    }
    Ok(best)
}

/// The losses of the short runs, the chosen rates in bold.
///
/// # Errors
/// A damaged cell.
pub fn rates(study: &Study) -> anyhow::Result<String> {
    let plan = &study.plan;
    let mut table = Table::new(["task", "arm", "rate", "loss on rows kept out"]).right(&[2, 3]);
    for task in plan.tasks.iter().filter(|task| task.rates_of.is_none()) {
        for rates in &plan.rates {
            let arm = plan.arm(task, &rates.arm)?;
            let chosen = study.rate(task, arm)?;
            for &rate in &rates.values {
                let cell = study.cell(&Step::Rate { task, arm, rate })?;
                let loss = cell.and_then(|cell| cell.train?.val_loss);
                let loss = loss.map_or("not run".into(), |loss| format!("{loss:.3}"));
                let bold = |text: String| match chosen == Some(rate) {
                    true => format!("**{text}**"),
                    false => text,
                };
                let rate = bold(format!("{rate:e}"));
                table.row([task.name.clone(), arm.name.clone(), rate, bold(loss)]);
            }
        }
    }
    Ok(table.markdown())
}

/// A row for each model of each task.
fn scores(study: &Study, runs: &Runs<'_>, recoveries: &Recoveries) -> anyhow::Result<String> {
    let header = [
        "task",
        "model",
        "seeds",
        "score",
        "recovery",
        "95% interval",
    ];
    let mut table = Table::new(header).right(&[2, 3, 4]);
    for (nth, (task, run)) in runs.plans.iter().zip(&runs.tasks).enumerate() {
        let [base, full] = recoveries.ends(nth);
        let name = || task.name.clone();
        let metric = run.measure.name();
        let end = |score: f64| format!("{score:.3} {metric}");
        let blank = String::new;
        table.row([name(), BASE.into(), blank(), end(base), "0".into(), blank()]);
        let seeds = run.seeds.len().to_string();
        let full_arm = study.plan.arms[0].name.clone();
        table.row([name(), full_arm, seeds, end(full), "1".into(), blank()]);
        for (model, arm) in study.plan.arms[1..].iter().enumerate() {
            if !arm.is_on(task) {
                continue;
            }
            let of = run.seeds.iter().filter(|seed| seed.models[model].is_some());
            let seeds = of.count().to_string();
            let score = recoveries.score(nth, model);
            let recovery = recoveries.recovery(nth, model);
            table.row([
                name(),
                arm.name.clone(),
                seeds,
                score.map_or("not run".into(), end),
                recovery.map_or_else(blank, |recovery| format!("{:.2}", recovery.value)),
                recovery.map_or_else(blank, interval),
            ]);
        }
    }
    Ok(table.markdown())
}

fn interval(of: Interval) -> String {
    format!("{:.2} to {:.2}", of.low, of.high)
}

/// Means over the tasks on which the full fine-tune gains beyond doubt, and each arm against the
/// next ones.
fn pooled(study: &Study, runs: &Runs<'_>, recoveries: &Recoveries) -> String {
    let arms = &study.plan.arms[1..];
    let over = |models: &[usize]| {
        let tasks = recoveries.pooled_over(models);
        let names: Vec<&str> = tasks.iter().map(|&n| runs.plans[n].name.as_str()).collect();
        names.join(", ")
    };
    let header = ["pooled", "value", "95% interval", "over"];
    let mut table = Table::new(header).right(&[1]);
    let mut row = |name: String, of: Option<Interval>, over: String| {
        let Some(of) = of else { return };
        table.row([name, format!("{:.2}", of.value), interval(of), over]);
    };
    for (model, arm) in arms.iter().enumerate() {
        let name = format!("recovery of `{}`", arm.name);
        row(name, recoveries.pooled(model), over(&[model]));
    }
    for (model, arm) in arms.iter().enumerate() {
        for (other, than) in arms.iter().enumerate().skip(model + 1) {
            let name = format!("`{}` ahead of `{}`", arm.name, than.name);
            let ahead = recoveries.pooled_ahead(model, other);
            row(name, ahead, over(&[model, other]));
        }
    }
    table.markdown()
}

/// Which programs have run the cells, each by the beginning of its digest.
fn programs(study: &Study) -> anyhow::Result<Vec<String>> {
    let mut programs = std::collections::BTreeSet::new();
    for step in study.steps()? {
        if let Some(cell) = study.cell(&step)? {
            programs.insert(cell.program_sha256.chars().take(12).collect::<String>());
        }
    }
    Ok(programs.into_iter().collect())
}

/// The steps without a cell.
///
/// # Errors
/// A damaged cell.
pub fn missing(study: &Study) -> anyhow::Result<Vec<String>> {
    let mut missing = Vec::new();
    for step in study.steps()? {
        if study.cell(&step)?.is_none() {
            missing.push(step.to_string());
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::bench::study::plan;

    #[test]
    fn expectations_name_every_task() {
        let plan = plan::open(None).unwrap();
        let text = expectations(&plan);
        assert_eq!(text.lines().count(), plan.tasks.len());
        // 3.92 standard errors of 0.012 over a gain of 0.28, two models of two seeds each.
        assert!(
            text.contains("agnews: the interval of a recovery will be about 0.17 wide"),
            "{text}"
        );
    }
}
