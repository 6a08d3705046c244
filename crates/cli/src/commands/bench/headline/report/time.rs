//! Seconds over a link: those of loopback plus the waiting that counts give.

use marill_mpc::cost::Cost;
use marill_net::Link;
use marill_report::Table;

use super::NOT_RUN;
use crate::{
    args::network::link,
    commands::bench::headline::{
        cells::{Cell, Key, Setting, shaped},
        forms::{ModelForm, Step, Weights},
    },
};

/// Over which link a step is timed.
#[derive(Clone, Copy)]
pub enum Clock {
    Loopback,
    Lan,
    Wan,
}

impl Clock {
    pub const ALL: [Self; 3] = [Self::Loopback, Self::Lan, Self::Wan];

    fn network(self) -> &'static str {
        match self {
            Self::Loopback => "none",
            Self::Lan => "lan",
            Self::Wan => "wan",
        }
    }
}

/// Seconds that a step waits for its links: every round for the delay, every byte of the busier
/// direction for the bandwidth; in `3pc` the dealer's bytes travel beside on a link of their own.
pub fn waiting(cost: &Cost, link: &Link, setting: Setting) -> f64 {
    let delay = link.one_way_delay.as_secs_f64();
    let transmission = |bytes: u64| bytes as f64 * 8.0 / link.bits_per_second as f64;
    let between = cost.e0_to_e1_bytes.max(cost.e1_to_e0_bytes);
    let evaluators = cost.rounds as f64 * delay + transmission(between);
    match setting {
        Setting::Dealer => evaluators,
        Setting::ThreeParties => evaluators.max(delay + transmission(cost.dealer_to_e1_bytes)),
    }
}

/// The cells that are there.
#[derive(Clone, Copy)]
pub struct Cells<'a>(pub &'a [Cell]);

impl<'a> Cells<'a> {
    fn of(self, key: &Key) -> Option<&'a Cell> {
        self.0.iter().find(|cell| cell.key == *key)
    }

    /// The cell over plain loopback.
    pub fn find(
        self,
        (weights, setting): (Weights, Setting),
        form: &ModelForm,
        step: Step,
    ) -> Option<&'a Cell> {
        self.of(&Key::new(weights, setting, "none", form, step).ok()?)
    }

    /// Seconds of a step, if its cell was run.
    pub fn seconds(
        self,
        side: (Weights, Setting),
        form: &ModelForm,
        step: Step,
        clock: Clock,
    ) -> Option<f64> {
        let cell = self.find(side, form, step)?;
        let waiting = match link(clock.network()).ok()? {
            Some(link) => waiting(&cell.measured.cost(), &link, side.1),
            None => 0.0,
        };
        Some(cell.measured.seconds(side.1) + waiting)
    }

    /// Where the cells were measured.
    pub fn machines(self) -> String {
        let mut machines: Vec<String> = self
            .0
            .iter()
            .map(|cell| format!("{}, {} build", cell.measured.machine, cell.measured.profile))
            .collect();
        machines.sort();
        machines.dedup();
        match machines.as_slice() {
            [] => String::new(),
            machines => format!("Measured on: {}.\n\n", machines.join("; ")),
        }
    }
}

/// The cells over shaped links against what is computed.
///
/// # Errors
/// None of the forms is refused.
pub fn shaped_links(cells: Cells<'_>) -> anyhow::Result<String> {
    let mut table = Table::new([
        "setting",
        "network",
        "cell",
        "measured",
        "computed",
        "computed / measured",
    ])
    .right(&[3, 4, 5]);
    for setting in Setting::ALL {
        for network in ["lan", "wan"] {
            let key = shaped(setting, network)?;
            let plain = Key {
                network: "none".into(),
                ..key.clone()
            };
            let measured = cells.of(&key).map(|cell| cell.measured.seconds(setting));
            let computed = cells.of(&plain).zip(link(network)?).map(|(cell, link)| {
                cell.measured.seconds(setting) + waiting(&cell.measured.cost(), &link, setting)
            });
            let show = |seconds: Option<f64>| {
                seconds.map_or_else(|| NOT_RUN.into(), |s| format!("{s:.2} s"))
            };
            let ratio = computed.zip(measured);
            table.row([
                setting.name().to_string(),
                network.to_string(),
                format!("{}, {}", key.form, key.step),
                show(measured),
                show(computed),
                ratio.map_or_else(|| NOT_RUN.into(), |(c, m)| format!("{:.2}", c / m)),
            ]);
        }
    }
    Ok(format!("{}\n\n{}", super::text::LINKS, table.markdown()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn rounds_wait_and_the_slower_stream_decides() {
        let link = Link {
            one_way_delay: Duration::from_millis(20),
            bits_per_second: 8_000_000,
        };
        let cost = Cost {
            rounds: 10,
            e0_to_e1_bytes: 1_000_000,
            e1_to_e0_bytes: 500_000,
            dealer_to_e1_bytes: 3_000_000,
            ..Cost::default()
        };
        // 10 x 20 ms and one second; the dealer's three seconds and one delay.
        assert!((waiting(&cost, &link, Setting::Dealer) - 1.2).abs() < 1e-9);
        assert!((waiting(&cost, &link, Setting::ThreeParties) - 3.02).abs() < 1e-9);
    }
}
