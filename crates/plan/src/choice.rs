//! Which form, and which setting, a budget calls for.

use std::{cmp::Ordering, str::FromStr};

use marill_mpc::cost::Cost;
use serde::{Serialize, Serializer, ser::SerializeStruct};

use crate::{
    calibration::Time,
    curve::{Quality, Tables},
    network::Side,
};

const MEBI: f64 = 1_048_576.0;

/// What a token may cost.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// The client's wait.
    Seconds(f64),
    /// What the client sends and receives.
    MebiBytes(f64),
}

/// A text that is no budget.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no budget\nhint: 0.5s/token, or 4MiB/token")]
pub struct NoBudget(String);

impl FromStr for Budget {
    type Err = NoBudget;

    fn from_str(text: &str) -> Result<Self, NoBudget> {
        let refuse = || NoBudget(text.into());
        let amount = text.strip_suffix("/token").ok_or_else(refuse)?.trim();
        let number = |unit: &str| -> Option<f64> {
            let number: f64 = amount.strip_suffix(unit)?.trim().parse().ok()?;
            (number > 0.0 && number.is_finite()).then_some(number)
        };
        let bytes = number("MiB").map(Self::MebiBytes);
        bytes
            .or_else(|| number("s").map(Self::Seconds))
            .ok_or_else(refuse)
    }
}

impl std::fmt::Display for Budget {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Seconds(most) => write!(f, "{most} s/token"),
            Self::MebiBytes(most) => write!(f, "{most} MiB/token"),
        }
    }
}

impl Budget {
    /// Whether an amount keeps it.
    #[must_use]
    pub fn allows(self, amount: f64) -> bool {
        amount <= self.most()
    }

    fn most(self) -> f64 {
        match self {
            Self::Seconds(most) | Self::MebiBytes(most) => most,
        }
    }

    /// What a setting takes of it; `None` for seconds that nobody has calibrated.
    #[must_use]
    pub fn amount(self, priced: &Priced) -> Option<f64> {
        match self {
            Self::Seconds(_) => Some(priced.time?.total()),
            Self::MebiBytes(_) => Some(priced.client_bytes() as f64 / MEBI),
        }
    }
}

/// A form of the model, and what it costs in each setting.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Candidate {
    /// First layers that are public.
    pub frozen: usize,
    /// The recipe's tables that it is trained with.
    pub tables: Tables,
    /// Rank of the private updates; none where whole weights are private.
    pub rank: Option<usize>,
    /// Of each private layer.
    pub softmaxes: Vec<usize>,
    pub quality: Option<Quality>,
    pub settings: Vec<Priced>,
}

/// What a token costs in one setting.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Priced {
    pub side: Side,
    pub cost: Cost,
    pub time: Option<Time>,
}

impl Priced {
    /// What the client sends and receives.
    #[must_use]
    pub fn client_bytes(&self) -> u64 {
        let cost = &self.cost;
        cost.e0_to_e1_bytes + cost.e1_to_e0_bytes + cost.dealer_to_e0_bytes
    }
}

impl Serialize for Priced {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("Priced", 6)?;
        fields.serialize_field("setting", self.side.setting.name())?;
        let comparison = self.side.dealt_comparison();
        let comparison = comparison.map(|comparison| comparison.to_string());
        fields.serialize_field("comparison", &comparison)?;
        fields.serialize_field("rounds", &self.cost.rounds)?;
        fields.serialize_field("client_bytes", &self.client_bytes())?;
        fields.serialize_field("dealer_to_server_bytes", &self.cost.dealer_to_e1_bytes)?;
        fields.serialize_field("seconds", &self.time)?;
        fields.end()
    }
}

/// A form in one setting.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Pick<'a> {
    #[serde(flatten)]
    pub form: &'a Candidate,
    pub chosen: &'a Priced,
}

/// What came of a budget.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome<'a> {
    /// The best that fits, and the next form.
    Fits {
        choice: Pick<'a>,
        runner_up: Option<Pick<'a>>,
    },
    /// Nothing is so cheap; the cheapest that has the quality.
    TooDear(Pick<'a>),
    /// Nothing is so good; the best that there is.
    TooPoor(Pick<'a>),
}

/// The best form within a budget whose recovery is at least a floor.
///
/// With qualities the highest recovery wins, the cheaper one among equals. Without them nothing
/// says what a change costs, so the form that changes least wins: the fewest frozen layers, then
/// the most softmaxes.
///
/// `None` where there is no candidate, or seconds are asked for and not known.
#[must_use]
pub fn choose(candidates: &[Candidate], budget: Budget, floor: Option<f64>) -> Option<Outcome<'_>> {
    let cheapest = |form| cheapest(form, budget);
    let is_good = |pick: &(Pick<'_>, f64)| match (floor, &pick.0.form.quality) {
        (None, _) => true,
        (Some(floor), Some(quality)) => quality.recovery.value >= floor,
        (Some(_), None) => false,
    };
    let all: Vec<(Pick<'_>, f64)> = candidates.iter().filter_map(cheapest).collect();
    let good: Vec<&(Pick<'_>, f64)> = all.iter().filter(|pick| is_good(pick)).collect();
    let mut fit: Vec<&(Pick<'_>, f64)> = good.clone();
    fit.retain(|(_, amount)| budget.allows(*amount));
    fit.sort_by(|a, b| order(a, b));
    if let [choice, rest @ ..] = &fit[..] {
        return Some(Outcome::Fits {
            choice: choice.0,
            runner_up: rest.first().map(|next| next.0),
        });
    }
    let by_amount = |a: &&&(Pick<'_>, f64), b: &&&(Pick<'_>, f64)| a.1.total_cmp(&b.1);
    if let Some(nearest) = good.iter().min_by(by_amount) {
        return Some(Outcome::TooDear(nearest.0));
    }
    let best = all.iter().min_by(|a, b| order(a, b))?;
    Some(Outcome::TooPoor(best.0))
}

/// The setting in which a form takes least of a budget.
fn cheapest(form: &Candidate, budget: Budget) -> Option<(Pick<'_>, f64)> {
    let amount = |priced| budget.amount(priced).map(|amount| (priced, amount));
    let priced = form.settings.iter().filter_map(amount);
    let (chosen, amount) = priced.min_by(|a, b| a.1.total_cmp(&b.1))?;
    Some((Pick { form, chosen }, amount))
}

/// The better one first.
fn order(a: &(Pick<'_>, f64), b: &(Pick<'_>, f64)) -> Ordering {
    let softmaxes = |pick: &Pick<'_>| pick.form.softmaxes.iter().sum::<usize>();
    let by_quality = match (&a.0.form.quality, &b.0.form.quality) {
        (Some(a), Some(b)) => b.recovery.value.total_cmp(&a.recovery.value),
        _ => (a.0.form.frozen.cmp(&b.0.form.frozen))
            .then_with(|| softmaxes(&b.0).cmp(&softmaxes(&a.0))),
    };
    by_quality.then_with(|| a.1.total_cmp(&b.1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curve::{Known, Recovery};

    fn candidate(frozen: usize, recovery: Option<f64>, seconds: &[f64]) -> Candidate {
        let known = Known::Measured { arm: "a".into() };
        let quality = |value| Quality {
            recovery: Recovery {
                value,
                low: value,
                high: value,
            },
            learning_rate: 1e-3,
            tokens: 1,
            known: known.clone(),
        };
        let priced = |(side, &local): (Side, &f64)| Priced {
            side,
            cost: Cost {
                e0_to_e1_bytes: (local * 10.0 * MEBI) as u64,
                ..Cost::default()
            },
            time: Some(Time {
                prefix: 0.0,
                local,
                waiting: 0.0,
            }),
        };
        Candidate {
            frozen,
            tables: Tables::new(),
            rank: Some(8),
            softmaxes: vec![3],
            quality: recovery.map(quality),
            settings: Side::ALL.into_iter().zip(seconds).map(priced).collect(),
        }
    }

    fn fits(outcome: Option<Outcome<'_>>) -> (usize, Option<usize>) {
        match outcome {
            Some(Outcome::Fits { choice, runner_up }) => {
                (choice.form.frozen, runner_up.map(|pick| pick.form.frozen))
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_best_quality_that_fits_is_chosen() {
        let all = [
            candidate(10, Some(1.0), &[0.9, 0.8]),
            candidate(15, Some(0.9), &[0.4]),
            candidate(20, Some(0.8), &[0.3]),
        ];
        let of = |most| fits(choose(&all, Budget::Seconds(most), None));
        assert_eq!(of(1.0), (10, Some(15)));
        // Its second setting fits where the first does not.
        assert_eq!(of(0.8), (10, Some(15)));
        assert_eq!(of(0.5), (15, Some(20)));
        assert_eq!(of(0.3), (20, None));
        // 4 MiB are what 0.4 seconds send here.
        assert_eq!(
            fits(choose(&all, Budget::MebiBytes(4.0), None)),
            (15, Some(20))
        );
    }

    #[test]
    fn without_a_curve_the_least_change_is_chosen() {
        let all = [
            candidate(20, None, &[0.1]),
            candidate(12, None, &[0.5]),
            candidate(10, None, &[0.9]),
        ];
        assert_eq!(
            fits(choose(&all, Budget::Seconds(0.6), None)),
            (12, Some(20))
        );
    }

    #[test]
    fn what_is_impossible_is_said_with_the_nearest() {
        let all = [
            candidate(10, Some(1.0), &[0.9]),
            candidate(20, Some(0.8), &[0.3]),
        ];
        let nearest = |most, floor| match choose(&all, Budget::Seconds(most), floor) {
            Some(Outcome::TooDear(pick)) => ("dear", pick.form.frozen),
            Some(Outcome::TooPoor(pick)) => ("poor", pick.form.frozen),
            other => panic!("{other:?}"),
        };
        assert_eq!(nearest(0.1, None), ("dear", 20));
        assert_eq!(nearest(0.5, Some(0.9)), ("dear", 10));
        assert_eq!(nearest(2.0, Some(1.1)), ("poor", 10));
    }

    #[test]
    fn seconds_need_a_calibration_and_bytes_none() {
        let mut unknown = candidate(10, None, &[0.9]);
        unknown.settings[0].time = None;
        let all = [unknown];
        assert_eq!(choose(&all, Budget::Seconds(1.0), None), None);
        assert_eq!(
            fits(choose(&all, Budget::MebiBytes(10.0), None)),
            (10, None)
        );
    }

    #[test]
    fn a_budget_is_an_amount_per_token() {
        assert_eq!("0.5s/token".parse(), Ok(Budget::Seconds(0.5)));
        assert_eq!("4 MiB/token".parse(), Ok(Budget::MebiBytes(4.0)));
        for wrong in [
            "0.5",
            "0.5s",
            "-1s/token",
            "0s/token",
            "4MB/token",
            "s/token",
        ] {
            assert!(wrong.parse::<Budget>().is_err(), "{wrong}");
        }
    }
}
