//! What is known of a task's quality: points that were measured, and what lies between them.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// The version of the file.
const VERSION: u32 = 1;

/// Curves of this version, made by `marill ablate --curve` from committed cells.
const SHIPPED: [&str; 2] = [
    include_str!("../curves/agnews.json"),
    include_str!("../curves/multi30k-de-en.json"),
];

/// Measured points of one task on one base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Curve {
    version: u32,
    /// As `marill eval` names it.
    pub task: String,
    /// The last part of the base model's name.
    pub base_model: String,
    /// Layers of the base model.
    pub layers: usize,
    pub metric: String,
    /// Test rows of every score.
    pub rows: usize,
    pub seeds: usize,
    pub points: Vec<Point>,
}

/// A model that was trained and scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    pub arm: String,
    /// First layers that were frozen.
    pub frozen: usize,
    /// The recipe's tables `lora`, `heads` and `approx`, those that it has.
    pub tables: Tables,
    pub learning_rate: f64,
    /// Tokens that it was trained on.
    pub tokens: usize,
    pub recovery: Recovery,
    /// The cells that it was measured in.
    pub cells: Vec<String>,
}

/// Tables of a recipe, by name.
pub type Tables = Map<String, Value>;

/// A share of a full fine-tune's gain, with its 95% interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    pub value: f64,
    pub low: f64,
    pub high: f64,
}

/// What is known of one form.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Quality {
    pub recovery: Recovery,
    pub learning_rate: f64,
    /// Tokens of the runs behind it; the fewest where they differ.
    pub tokens: usize,
    pub known: Known,
}

/// How it is known.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Known {
    /// It was run.
    Measured { arm: String },
    /// It lies on a straight line between two that were run.
    Interpolated { between: [usize; 2] },
}

/// A text that is no curve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CurveError {
    #[error("it is no curve: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it is of version {0}, and this program reads {VERSION}")]
    Version(u32),
    #[error("its point `{arm}` {problem}")]
    Point { arm: String, problem: &'static str },
}

impl Curve {
    #[must_use]
    pub fn new(task: String, base_model: &str, layers: usize, metric: String) -> Self {
        Self {
            version: VERSION,
            task,
            base_model: last_part(base_model).into(),
            layers,
            metric,
            rows: 0,
            seeds: 0,
            points: Vec::new(),
        }
    }

    /// # Errors
    /// [`CurveError`] for anything but a curve of this version whose points make sense.
    pub fn parse(text: &str) -> Result<Self, CurveError> {
        let value: Value = serde_json::from_str(text)?;
        let version = value.get("version").and_then(Value::as_u64);
        match version {
            Some(version) if version != u64::from(VERSION) => {
                let version = u32::try_from(version).unwrap_or(u32::MAX);
                return Err(CurveError::Version(version));
            }
            _ => {}
        }
        let curve: Self = serde_json::from_value(value)?;
        for point in &curve.points {
            let refuse = |problem| {
                let arm = point.arm.clone();
                Err(CurveError::Point { arm, problem })
            };
            let Recovery { value, low, high } = point.recovery;
            if !(low <= value && value <= high) {
                return refuse("has a recovery outside its interval");
            }
            if point.frozen >= curve.layers {
                return refuse("freezes more layers than the model has");
            }
        }
        Ok(curve)
    }

    /// The curve of a task on a base model that comes with this version.
    #[must_use]
    pub fn shipped(task: &str, base_model: &str, layers: usize) -> Option<Self> {
        Self::all_shipped().find(|curve| {
            curve.task == task
                && curve.layers == layers
                && curve.base_model == last_part(base_model)
        })
    }

    /// Every curve that comes with this version.
    ///
    /// # Panics
    /// Never: a test parses them.
    pub fn all_shipped() -> impl Iterator<Item = Self> {
        SHIPPED
            .iter()
            .map(|text| Self::parse(text).expect("a shipped curve is one"))
    }

    /// Whether it was measured on this base model.
    #[must_use]
    pub fn is_of(&self, base_model: &str) -> bool {
        self.base_model == last_part(base_model)
    }

    /// The file.
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("texts and numbers serialize") + "\n"
    }

    /// Points that differ in nothing but how much is frozen, the least frozen first.
    #[must_use]
    pub fn families(&self) -> Vec<Family<'_>> {
        let mut families: Vec<Family<'_>> = Vec::new();
        for point in &self.points {
            let family = families.iter_mut().find(|f| f.tables() == &point.tables);
            match family {
                Some(family) => family.0.push(point),
                None => families.push(Family(vec![point])),
            }
        }
        for family in &mut families {
            family.0.sort_by_key(|point| point.frozen);
        }
        families
    }
}

/// The name of a model without where it lies.
fn last_part(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

/// Points of the same tables.
#[derive(Debug, Clone)]
pub struct Family<'a>(Vec<&'a Point>);

impl<'a> Family<'a> {
    #[must_use]
    pub fn tables(&self) -> &'a Tables {
        &self.0[0].tables
    }

    /// From the least to the most frozen layers that were measured.
    #[must_use]
    pub fn range(&self) -> RangeInclusive<usize> {
        self.0[0].frozen..=self.0[self.0.len() - 1].frozen
    }

    /// What is known with so many frozen layers; nothing outside what was measured.
    #[must_use]
    pub fn at(&self, frozen: usize) -> Option<Quality> {
        if let Some(point) = self.0.iter().find(|point| point.frozen == frozen) {
            return Some(Quality {
                recovery: point.recovery,
                learning_rate: point.learning_rate,
                tokens: point.tokens,
                known: Known::Measured {
                    arm: point.arm.clone(),
                },
            });
        }
        let [below, above] = self
            .0
            .windows(2)
            .find(|pair| pair[0].frozen < frozen && frozen < pair[1].frozen)
            .map(|pair| [pair[0], pair[1]])?;
        let share = (frozen - below.frozen) as f64 / (above.frozen - below.frozen) as f64;
        let between = |of: fn(&Recovery) -> f64| {
            of(&below.recovery) * (1.0 - share) + of(&above.recovery) * share
        };
        // Of the nearer point: what lies between two rates was not tried.
        let nearer = if share <= 0.5 { below } else { above };
        Some(Quality {
            recovery: Recovery {
                value: between(|r| r.value),
                low: between(|r| r.low),
                high: between(|r| r.high),
            },
            learning_rate: nearer.learning_rate,
            tokens: below.tokens.min(above.tokens),
            known: Known::Interpolated {
                between: [below.frozen, above.frozen],
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(arm: &str, frozen: usize, rank: usize, value: f64) -> Point {
        let lora = serde_json::json!({ "rank": rank });
        Point {
            arm: arm.into(),
            frozen,
            tables: Tables::from_iter([("lora".to_owned(), lora)]),
            learning_rate: 1e-3,
            tokens: 100,
            recovery: Recovery {
                value,
                low: value - 0.1,
                high: value + 0.1,
            },
            cells: Vec::new(),
        }
    }

    fn curve(points: Vec<Point>) -> Curve {
        let mut curve = Curve::new("task".into(), "models/base.gguf", 30, "acc".into());
        curve.points = points;
        curve
    }

    #[test]
    fn between_two_points_lies_a_straight_line() {
        let curve = curve(vec![point("b", 20, 8, 0.8), point("a", 10, 8, 1.0)]);
        let families = curve.families();
        let [family] = &families[..] else {
            panic!("one family: {families:?}")
        };
        let known = family.at(10).unwrap().known;
        assert_eq!(known, Known::Measured { arm: "a".into() });
        let found = family.at(15).unwrap();
        // Halfway, but for the last bits.
        assert!((found.recovery.value - 0.9).abs() < 1e-12, "{found:?}");
        assert!((found.recovery.low - 0.8).abs() < 1e-12, "{found:?}");
        let between = [10, 20];
        assert_eq!(found.known, Known::Interpolated { between });
    }

    #[test]
    fn nothing_is_said_beyond_the_points() {
        let curve = curve(vec![point("a", 10, 8, 1.0), point("b", 20, 8, 0.8)]);
        let families = curve.families();
        assert_eq!(families[0].range(), 10..=20);
        assert!(families[0].at(9).is_none() && families[0].at(21).is_none());
    }

    #[test]
    fn another_rank_is_another_family() {
        let curve = curve(vec![point("a", 10, 8, 1.0), point("b", 20, 16, 0.8)]);
        assert_eq!(curve.families().len(), 2);
        assert!(curve.families().iter().all(|f| f.at(15).is_none()));
    }

    #[test]
    fn a_file_says_what_is_wrong_with_it() {
        let good = curve(vec![point("a", 10, 8, 1.0)]);
        assert_eq!(Curve::parse(&good.to_json()).unwrap(), good);
        let wrong = |from: &str, to: &str| {
            let text = good.to_json().replacen(from, to, 1);
            Curve::parse(&text).unwrap_err().to_string()
        };
        assert!(wrong("\"version\": 1", "\"version\": 2").contains("version 2"));
        assert!(wrong("\"frozen\": 10", "\"frozen\": 30").contains("more layers"));
        assert!(wrong("\"value\": 1.0", "\"value\": 1.2").contains("outside its interval"));
        assert!(wrong("\"task\"", "\"tusk\"").contains("tusk"));
    }

    #[test]
    fn a_shipped_curve_is_of_its_task_and_model() {
        assert!(Curve::all_shipped().count() > 0);
        for curve in Curve::all_shipped() {
            let Curve { task, layers, .. } = &curve;
            let found = Curve::shipped(task, &curve.base_model, *layers);
            assert_eq!(found, Some(curve.clone()));
            assert!(Curve::shipped("another", &curve.base_model, *layers).is_none());
            assert!(Curve::shipped(task, "another.gguf", *layers).is_none());
            assert!(Curve::shipped(task, &curve.base_model, layers + 1).is_none());
        }
    }
}
