//! What an ablation says: a table, a plot, a curve.

use anyhow::Context;
use marill_evals::recovery::Interval;
use marill_plan::curve::{Curve, Point, Recovery};
use marill_report::{LinePlot, Series, Table, bytes};
use serde_json::{Value, json};

use super::costs::{ArmCost, NETWORKS};
use crate::commands::{
    bench::study::{
        plan::Arm,
        report::{TaskScores, missing, rates},
        run::{Step, Study},
    },
    plan::candidates::tables_of,
};

/// What was run and counted of one recipe.
pub struct Ablation<'a> {
    pub study: &'a Study,
    /// None until base model and full fine-tune were run.
    pub scores: Option<TaskScores>,
    /// Of each arm.
    pub costs: Vec<ArmCost>,
    pub layers: usize,
    /// Whether seconds have what this machine computes, beside the waiting.
    pub has_compute: bool,
}

const NOT_RUN: &str = "not run";

impl Ablation<'_> {
    /// Score and recovery of an arm.
    fn result(&self, arm: usize) -> Option<(f64, Recovery)> {
        let scores = self.scores.as_ref()?;
        let Some(other) = arm.checked_sub(1) else {
            // What recovery is measured against.
            let value = 1.0;
            let low = 1.0;
            let high = 1.0;
            return Some((scores.ends[1], Recovery { value, low, high }));
        };
        let (score, Interval { value, low, high }) = scores.arms[other]?;
        Some((score, Recovery { value, low, high }))
    }

    /// The page's tables.
    ///
    /// # Errors
    /// A damaged cell.
    pub fn markdown(&self) -> anyhow::Result<String> {
        let mut text = format!("{}\n", self.table().markdown());
        if let Some(scores) = &self.scores {
            let [base, full] = scores.ends;
            let TaskScores { metric, rows, .. } = scores;
            text += &format!(
                "\nScores are {metric} on {rows} test rows: {base:.3} of the base model, {full:.3} \
                 of the full fine-tune.\n"
            );
            if !scores.has_gain {
                text += "\nThe full fine-tune does not beat the base beyond doubt: recoveries mean \
                         nothing.\n";
            }
        }
        text += "\nSeconds are those of a token at 128 keys over a LAN (0.2 ms, 10 Gbps) / a WAN \
                 (40 ms, 200 Mbps): ";
        text += match self.has_compute {
            true => "waiting as counted, and what this machine computes.\n",
            false => "the waiting alone, as counted.\n",
        };
        text += "`dealer one-hot` assumes preprocessed correlations; with DCF the dealer streams \
                 its keys in both settings.\n";
        for arm in &self.study.plan.arms {
            text += &format!("\n- `{}`: {}", arm.name, arm.about);
        }
        text += &format!("\n\n{}\n", rates(self.study)?);
        let missing = missing(self.study)?;
        if !missing.is_empty() {
            text += &format!("\nNot run: {}.\n", missing.join("; "));
        }
        Ok(text)
    }

    /// A row for each arm.
    fn table(&self) -> Table {
        let mut header: Vec<String> = ["arm", "frozen", "rank", "softmaxes", "score", "recovery"]
            .map(String::from)
            .to_vec();
        header.extend(["95% interval", "rounds, one-hot / dcf"].map(String::from));
        header.push("client, one-hot / dcf".into());
        let sides = self.costs.first().into_iter().flat_map(|cost| &cost.sides);
        header.extend(sides.map(|cost| format!("s, {}", cost.side)));
        let numbers: Vec<usize> = (1..header.len()).collect();
        let mut table = Table::new(header).right(&numbers);
        for (nth, (arm, cost)) in self.study.plan.arms.iter().zip(&self.costs).enumerate() {
            table.row(self.row(nth, arm, cost));
        }
        table
    }

    fn row(&self, nth: usize, arm: &Arm, cost: &ArmCost) -> Vec<String> {
        let result = self.result(nth);
        let rank = match cost.spec.is_full_rank() {
            true => "full".into(),
            false => cost.spec.lora_rank.to_string(),
        };
        let softmaxes: usize = cost.spec.head_groups.iter().map(Vec::len).sum();
        let mut row = vec![
            arm.name.clone(),
            cost.frozen.to_string(),
            rank,
            softmaxes.to_string(),
        ];
        row.push(result.map_or(NOT_RUN.into(), |(score, _)| format!("{score:.3}")));
        let defined = result.filter(|(_, r)| r.value.is_finite());
        row.push(defined.map_or_else(String::new, |(_, r)| format!("{:.2}", r.value)));
        row.push(match defined {
            Some((_, r)) if nth > 0 => format!("{:.2} to {:.2}", r.low, r.high),
            _ => String::new(),
        });
        // Settings differ in when correlations are made, not in what the evaluators send.
        let [one_hot, dcf] = [&cost.sides[0], &cost.sides[1]];
        row.push(format!("{} / {}", one_hot.cost.rounds, dcf.cost.rounds));
        let sizes = [one_hot.client_bytes(), dcf.client_bytes()].map(bytes);
        row.push(sizes.join(" / "));
        for side in &cost.sides {
            let [lan, wan] = side.seconds;
            row.push(format!("{lan:.3} / {wan:.2}"));
        }
        row
    }

    /// Recovery against cost, each as a share of the full fine-tune's: a line per setting and
    /// network with its quicker comparisons, over the arms that differ from the recipe in the
    /// number of frozen layers alone; the others are points.
    ///
    /// # Errors
    /// No arm was run.
    pub fn plot(&self) -> anyhow::Result<LinePlot> {
        let full = self
            .costs
            .first()
            .context("the first arm is the full fine-tune")?;
        let arms = &self.study.plan.arms;
        let (line, others) = self.on_one_line()?;
        let mut series = Vec::new();
        for sides in [[0, 1], [2, 3]] {
            for (network, name) in NETWORKS.iter().enumerate() {
                let seconds = |of: &ArmCost| {
                    let of = sides.map(|side| of.sides[side].seconds[network]);
                    of[0].min(of[1])
                };
                let point = |&arm: &usize| {
                    let (_, recovery) = self.result(arm)?;
                    Some((seconds(&self.costs[arm]) / seconds(full), recovery.value))
                };
                let mut points: Vec<_> = line.iter().filter_map(point).collect();
                let mut dots: Vec<_> = others.iter().filter_map(point).collect();
                if points.len() < 2 {
                    dots.append(&mut points);
                }
                series.push(Series {
                    name: format!("{}, {name}", full.sides[sides[0]].side.setting.name()),
                    points,
                    dots,
                    ..Series::default()
                });
            }
        }
        let ran = (0..arms.len())
            .filter(|&arm| self.result(arm).is_some())
            .count();
        let task = &self.study.plan.tasks[0];
        Ok(LinePlot {
            title: format!("{}: recovery against secure cost", task.name),
            caption: format!(
                "marill ablate {}: {ran} of {} arms run; lines: frozen layers alone differ",
                task.recipe,
                arms.len()
            ),
            x_label: "seconds of a token, as a share of the full fine-tune's".into(),
            y_label: "recovery".into(),
            series,
            ..LinePlot::default()
        })
    }

    /// Arms with the recipe's own tables, the most frozen first, and the rest.
    fn on_one_line(&self) -> anyhow::Result<(Vec<usize>, Vec<usize>)> {
        let plan = &self.study.plan;
        let task = &plan.tasks[0];
        let tables = |arm| tables_of(&plan.recipe(task, arm, plan.tokens, None, task.seeds[0])?);
        let own = tables(plan.arms.get(1).context("the second arm is the recipe")?)?;
        let (mut line, mut others) = (Vec::new(), Vec::new());
        for (nth, arm) in plan.arms.iter().enumerate() {
            match tables(arm)? == own {
                true => line.push(nth),
                false => others.push(nth),
            }
        }
        line.sort_by_key(|&arm| std::cmp::Reverse(self.costs[arm].frozen));
        Ok((line, others))
    }

    /// The points that were run, for `marill plan`.
    ///
    /// # Errors
    /// Nothing was run, or a damaged cell.
    pub fn curve(&self) -> anyhow::Result<Curve> {
        let plan = &self.study.plan;
        let task = &plan.tasks[0];
        let scores = self.scores.as_ref();
        let scores = scores.context("no curve: base model and full fine-tune were not run")?;
        anyhow::ensure!(
            scores.has_gain,
            "no curve: the full fine-tune does not beat the base beyond doubt, so there is no gain \
             to keep"
        );
        let recipe = plan.recipe(task, &plan.arms[0], plan.tokens, None, task.seeds[0])?;
        let base = recipe
            .model
            .base_model
            .context("the recipe names no base model")?;
        let metric = scores.metric.to_owned();
        let mut curve = Curve::new(task.name.clone(), &base, self.layers, metric);
        curve.rows = scores.rows;
        curve.seeds = task.seeds.len();
        for (nth, arm) in plan.arms.iter().enumerate() {
            let Some((_, recovery)) = self.result(nth) else {
                continue;
            };
            let recipe = plan.recipe(task, arm, plan.tokens, None, task.seeds[0])?;
            let mut cells = Vec::new();
            let mut tokens = usize::MAX;
            for &seed in &task.seeds {
                let Some(cell) = self.study.cell(&Step::Score { task, arm, seed })? else {
                    continue;
                };
                cells.push(cell.key.name());
                tokens = tokens.min(cell.train.map_or(0, |trained| trained.tokens));
            }
            let rate = self.study.rate(task, arm)?;
            curve.points.push(Point {
                arm: arm.name.clone(),
                frozen: recipe.freeze.layers,
                tables: tables_of(&recipe)?,
                learning_rate: rate.context("a run has a rate")?,
                tokens,
                recovery,
                cells,
            });
        }
        Ok(curve)
    }

    /// Everything for a program.
    ///
    /// # Errors
    /// A damaged cell.
    pub fn json(&self) -> anyhow::Result<Value> {
        let arms = self.study.plan.arms.iter().zip(&self.costs).enumerate();
        let arms = arms.map(|(nth, (arm, cost))| {
            let sides = cost.sides.iter().map(|side| {
                json!({
                    "setting": side.side.setting.name(),
                    "comparison": side.side.dealt_comparison().map(|c| c.to_string()),
                    "rounds": side.cost.rounds,
                    "client_bytes": side.client_bytes(),
                    "dealer_to_server_bytes": side.cost.dealer_to_e1_bytes,
                    "seconds": { "lan": side.seconds[0], "wan": side.seconds[1] },
                })
            });
            json!({
                "arm": arm.name, "about": arm.about, "frozen": cost.frozen,
                "rank": (!cost.spec.is_full_rank()).then_some(cost.spec.lora_rank),
                "softmaxes": cost.spec.head_groups.iter().map(Vec::len).collect::<Vec<_>>(),
                "score": self.result(nth).map(|(score, _)| score),
                "recovery": self.result(nth).map(|(_, recovery)| recovery),
                "settings": sides.collect::<Vec<_>>(),
            })
        });
        let scores = self.scores.as_ref();
        Ok(json!({
            "task": self.study.plan.tasks[0].name,
            "metric": scores.map(|scores| scores.metric),
            "base": scores.map(|scores| scores.ends[0]),
            "arms": arms.collect::<Vec<_>>(),
            "compute_in_seconds": self.has_compute,
            "not_run": missing(self.study)?,
        }))
    }
}
