//! What a machine takes for the local part of a step: measured on a few shapes, kept as they were
//! measured, and priced by amount of work.

use marill_mpc::{Comparison, cost::Cost};
use serde::{Deserialize, Serialize};

use crate::{
    fit::{dot, prices},
    network::{Network, Setting, Side},
    work::{AMOUNTS, Work},
};

/// The version of the file.
const VERSION: u32 = 1;

/// Times of one machine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calibration {
    version: u32,
    /// Processor and cores.
    pub machine: String,
    /// `release`, or `dev`.
    pub profile: String,
    /// Load averages of the last minute before and after.
    pub load: [Option<f64>; 2],
    /// Seconds per weight of the client's public layers, for one row.
    pub prefix_seconds_per_weight: f64,
    pub points: Vec<Point>,
}

/// A shape that was timed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Point {
    /// As a person reads it.
    pub shape: String,
    pub setting: Setting,
    pub comparison: Comparison,
    pub work: Work,
    /// The client's wait over loopback, the least of several.
    pub seconds: f64,
}

/// A file that is no calibration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CalibrationError {
    #[error("it is no calibration: {0}")]
    Json(#[from] serde_json::Error),
    #[error("it is of version {0}, and this program reads {VERSION}")]
    Version(u32),
    #[error("it has no times of {0}")]
    Missing(Side),
}

/// Prices of one way to work together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Prices([f64; AMOUNTS]);

/// What a step will take, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Time {
    /// The client's public layers.
    pub prefix: f64,
    /// What the parties compute.
    pub local: f64,
    /// What they wait for the network.
    pub waiting: f64,
}

impl Time {
    #[must_use]
    pub fn total(&self) -> f64 {
        self.prefix + self.local + self.waiting
    }
}

impl Calibration {
    #[must_use]
    pub fn new(
        machine: String,
        profile: String,
        load: [Option<f64>; 2],
        prefix_seconds_per_weight: f64,
        points: Vec<Point>,
    ) -> Self {
        Self {
            version: VERSION,
            machine,
            profile,
            load,
            prefix_seconds_per_weight,
            points,
        }
    }

    /// # Errors
    /// [`CalibrationError`] for anything but a calibration of this version with times of every side
    /// that has a dealer. Older files have none of two parties.
    pub fn parse(text: &str) -> Result<Self, CalibrationError> {
        let value: serde_json::Value = serde_json::from_str(text)?;
        let version = value.get("version").and_then(serde_json::Value::as_u64);
        match version {
            Some(version) if version != u64::from(VERSION) => {
                let version = u32::try_from(version).unwrap_or(u32::MAX);
                return Err(CalibrationError::Version(version));
            }
            _ => {}
        }
        let found: Self = serde_json::from_value(value)?;
        for side in Side::timed().filter(|side| *side != Side::ALONE) {
            found.prices(side)?;
        }
        Ok(found)
    }

    /// The file.
    #[must_use]
    pub fn to_json(&self) -> String {
        let text = serde_json::to_string_pretty(self);
        text.expect("texts and numbers serialize") + "\n"
    }

    /// Points that give the times of a side. A file may have more, of `dealer` with DCF keys that
    /// were there beforehand: no session has such.
    fn of(&self, side: Side) -> impl Iterator<Item = &Point> {
        let side = side.timed_as();
        let is = move |point: &&Point| {
            (point.setting, point.comparison) == (side.setting, side.comparison)
        };
        self.points.iter().filter(is)
    }

    /// The prices of one way to work together.
    ///
    /// # Errors
    /// [`CalibrationError::Missing`].
    pub fn prices(&self, side: Side) -> Result<Prices, CalibrationError> {
        let measured: Vec<_> = self
            .of(side)
            .map(|point| (point.work.amounts(), point.seconds))
            .collect();
        let found = prices(&measured).ok_or(CalibrationError::Missing(side))?;
        Ok(Prices(found))
    }

    /// The largest deviation of a point from its prices, as a share of the point.
    ///
    /// # Errors
    /// [`CalibrationError::Missing`].
    pub fn deviation(&self, side: Side) -> Result<f64, CalibrationError> {
        let prices = self.prices(side)?;
        let of = |point: &Point| (prices.seconds(&point.work) / point.seconds - 1.0).abs();
        Ok(self.of(side).map(of).fold(0.0, f64::max))
    }

    /// What a step takes: `public_weights` are those of the layers that the client runs in clear,
    /// for one row.
    ///
    /// # Errors
    /// [`CalibrationError::Missing`].
    pub fn time(
        &self,
        side: Side,
        network: Option<&Network>,
        (work, cost): &(Work, Cost),
        public_weights: usize,
    ) -> Result<Time, CalibrationError> {
        Ok(Time {
            prefix: public_weights as f64 * self.prefix_seconds_per_weight,
            local: self.prices(side)?.seconds(work),
            waiting: network.map_or(0.0, |network| network.waiting(cost, side)),
        })
    }
}

impl Prices {
    /// Seconds of an amount of work.
    #[must_use]
    pub fn seconds(&self, work: &Work) -> f64 {
        dot(&self.0, &work.amounts())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times of one round, in seconds.
    fn calibration(times: &[(Side, f64)]) -> String {
        let point = |&(side, seconds): &(Side, f64)| Point {
            shape: "made up".into(),
            setting: side.setting,
            comparison: side.comparison,
            work: one_round(),
            seconds,
        };
        let points = times.iter().map(point).collect();
        Calibration::new("made up".into(), "dev".into(), [None; 2], 0.0, points).to_json()
    }

    fn one_round() -> Work {
        Work {
            rounds: 1.0,
            public_products: 0.0,
            private_products: 0.0,
            bytes: 0.0,
        }
    }

    #[test]
    fn dcf_takes_the_same_time_in_both_settings() {
        let [dealer, preprocessed_dcf, three, dcf, alone] = Side::ALL;
        let mut times = vec![(dealer, 1.0), (three, 2.0), (dcf, 3.0)];
        let without = Calibration::parse(&calibration(&times)).unwrap();
        // What an older file has beside them is no session's time.
        times.push((preprocessed_dcf, 0.5));
        let with = Calibration::parse(&calibration(&times)).unwrap();
        for found in [without, with] {
            // An older file: nothing is known of two parties.
            assert!(found.prices(alone).is_err());
            for (side, seconds) in Side::ALL.into_iter().zip([1.0, 3.0, 2.0, 3.0]) {
                let time = found.prices(side).unwrap().seconds(&one_round());
                // One amount that one point prices: exact but for rounding.
                assert!((time - seconds).abs() < 1e-9, "{side}: {time}");
            }
        }
    }

    #[test]
    fn a_file_without_some_times_is_refused() {
        let [dealer, preprocessed_dcf, three, ..] = Side::ALL;
        let times = [(dealer, 1.0), (preprocessed_dcf, 0.5), (three, 2.0)];
        let error = Calibration::parse(&calibration(&times)).unwrap_err();
        assert_eq!(error.to_string(), "it has no times of 3pc dcf");
    }
}
