//! Networks by name, settings, and what a step waits for its links.

use std::time::Duration;

use marill_mpc::{Comparison, cost::Cost};
use serde::{Deserialize, Serialize};

/// A network between the parties.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Network {
    pub one_way_delay: Duration,
    pub bits_per_second: f64,
}

/// A text that names no network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no network\nhint: none, lan, wan, or RTTms/Mbps such as 10/500")]
pub struct UnknownNetwork(String);

/// Who makes the correlations, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Setting {
    /// Before the first step.
    #[serde(rename = "dealer")]
    Dealer,
    /// While the steps run.
    #[serde(rename = "3pc")]
    ThreeParties,
    /// Nobody: client and server compute alone.
    #[serde(rename = "2pc")]
    TwoParties,
}

impl Setting {
    /// Those with a dealer.
    pub const DEALT: [Self; 2] = [Self::Dealer, Self::ThreeParties];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Dealer => "dealer",
            Self::ThreeParties => "3pc",
            Self::TwoParties => "2pc",
        }
    }
}

/// Setting, and comparison protocol where a dealer makes correlations of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Side {
    pub setting: Setting,
    pub comparison: Comparison,
}

impl Side {
    /// Client and server alone, whose comparisons are of another kind.
    pub const ALONE: Self = Self::new(Setting::TwoParties, Comparison::OneHot);

    /// Every setting with every comparison protocol.
    pub const ALL: [Self; 5] = [
        Self::new(Setting::Dealer, Comparison::OneHot),
        Self::new(Setting::Dealer, Comparison::Dcf),
        Self::new(Setting::ThreeParties, Comparison::OneHot),
        Self::new(Setting::ThreeParties, Comparison::Dcf),
        Self::ALONE,
    ];

    #[must_use]
    pub const fn new(setting: Setting, comparison: Comparison) -> Self {
        Self {
            setting,
            comparison,
        }
    }

    /// What comparisons are made of, where a dealer makes that.
    #[must_use]
    pub fn dealt_comparison(self) -> Option<Comparison> {
        (self != Self::ALONE).then_some(self.comparison)
    }

    /// Whether the correlations are there before the first step. Keys of DCF never are: client and
    /// server refuse preprocessed ones, and the dealer streams them in either setting.
    #[must_use]
    pub fn is_preprocessed(self) -> bool {
        self == Self::new(Setting::Dealer, Comparison::OneHot)
    }

    /// The side that this one takes the time of: with DCF the same bytes travel at the same moments
    /// in both settings.
    #[must_use]
    pub fn timed_as(self) -> Self {
        match self.comparison {
            Comparison::OneHot => self,
            Comparison::Dcf => Self::new(Setting::ThreeParties, Comparison::Dcf),
        }
    }

    /// Those that have times of their own.
    pub fn timed() -> impl Iterator<Item = Self> {
        Self::ALL
            .into_iter()
            .filter(|side| side.timed_as() == *side)
    }
}

impl std::fmt::Display for Side {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.setting.name())?;
        match self.dealt_comparison() {
            Some(comparison) => write!(f, " {comparison}"),
            None => Ok(()),
        }
    }
}

impl Network {
    /// A network by name, or `RTTms/Mbps`; none for `none`.
    ///
    /// # Errors
    /// [`UnknownNetwork`] for anything else.
    pub fn named(text: &str) -> Result<Option<Self>, UnknownNetwork> {
        let shaped = |round_trip_ms: f64, mbps: f64| Self {
            one_way_delay: Duration::from_secs_f64(round_trip_ms / 2e3),
            bits_per_second: mbps * 1e6,
        };
        match text {
            "none" => return Ok(None),
            "lan" => return Ok(Some(shaped(0.2, 10_000.0))),
            "wan" => return Ok(Some(shaped(40.0, 200.0))),
            _ => {}
        }
        let parts = text
            .split_once('/')
            .and_then(|(rtt, mbps)| Some((rtt.parse().ok()?, mbps.parse().ok()?)));
        match parts {
            Some((rtt, mbps)) if (0.0..=1e5).contains(&rtt) && (1e-3..=1e6).contains(&mbps) => {
                Ok(Some(shaped(rtt, mbps)))
            }
            _ => Err(UnknownNetwork(text.into())),
        }
    }

    /// What a step of a cost waits for it, in seconds, when nothing overlaps and the dealer is as
    /// near as the peer.
    #[must_use]
    pub fn seconds(&self, cost: &Cost) -> f64 {
        let received = (cost.e1_to_e0_bytes + cost.dealer_to_e0_bytes)
            .max(cost.e0_to_e1_bytes + cost.dealer_to_e1_bytes);
        cost.rounds as f64 * self.one_way_delay.as_secs_f64()
            + received as f64 * 8.0 / self.bits_per_second
    }

    /// Seconds that a step waits for its links: every round for the delay, every byte of the busier
    /// direction for the bandwidth; without preprocessing the dealer's bytes travel beside on
    /// links of their own, and the longer of both counts.
    #[must_use]
    pub fn waiting(&self, cost: &Cost, side: Side) -> f64 {
        let delay = self.one_way_delay.as_secs_f64();
        let transmission = |bytes: u64| bytes as f64 * 8.0 / self.bits_per_second;
        let between = cost.e0_to_e1_bytes.max(cost.e1_to_e0_bytes);
        let evaluators = cost.rounds as f64 * delay + transmission(between);
        let dealt = cost.dealer_to_e0_bytes.max(cost.dealer_to_e1_bytes);
        if side.is_preprocessed() || side == Side::ALONE {
            evaluators
        } else {
            evaluators.max(delay + transmission(dealt))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_wait_and_the_slower_stream_decides() {
        let network = Network {
            one_way_delay: Duration::from_millis(20),
            bits_per_second: 8e6,
        };
        let cost = Cost {
            rounds: 10,
            e0_to_e1_bytes: 1_000_000,
            e1_to_e0_bytes: 500_000,
            dealer_to_e1_bytes: 3_000_000,
            ..Cost::default()
        };
        // 10 x 20 ms and one second; the dealer's three seconds and one delay.
        let of = |setting, comparison| network.waiting(&cost, Side::new(setting, comparison));
        assert!((of(Setting::Dealer, Comparison::OneHot) - 1.2).abs() < 1e-9);
        assert!((of(Setting::ThreeParties, Comparison::OneHot) - 3.02).abs() < 1e-9);
        assert!((of(Setting::ThreeParties, Comparison::Dcf) - 3.02).abs() < 1e-9);
        // Nobody deals.
        assert!((of(Setting::TwoParties, Comparison::OneHot) - 1.2).abs() < 1e-9);
        // DCF is never preprocessed.
        assert!((of(Setting::Dealer, Comparison::Dcf) - 3.02).abs() < 1e-9);
    }

    #[test]
    fn a_network_has_a_name_or_two_numbers() {
        let wan = Network::named("wan").unwrap().unwrap();
        assert_eq!(wan, Network::named("40/200").unwrap().unwrap());
        assert_eq!(Network::named("none"), Ok(None));
        for wrong in ["", "wam", "10", "-1/5", "10/0", "a/b"] {
            assert!(Network::named(wrong).is_err(), "{wrong}");
        }
    }
}
