//! What is measured, cell by cell: one JSON file each, named by the digest of what decides it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use marill_mpc::cost::Cost;
use marill_numeric::hex;
use marill_plan::Setting;
use marill_serving::terms::{STEP_VERSION, spec_sha256};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::forms::{FORMS, ModelForm, Step, Weights};
use crate::commands::bench::clock::Spent;

/// What decides a cell.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Key {
    pub weights: Weights,
    pub setting: Setting,
    /// As `--network` names it; it shapes every link of the parties.
    pub network: String,
    pub form: String,
    pub frozen: usize,
    pub step: Step,
    pub spec_sha256: String,
    pub protocol: u32,
    /// Raised when what is timed changes.
    pub version: u32,
}

const VERSION: u32 = 1;

impl Key {
    /// # Errors
    /// None of the forms is refused.
    pub fn new(
        weights: Weights,
        setting: Setting,
        network: &str,
        form: &ModelForm,
        step: Step,
    ) -> anyhow::Result<Self> {
        let (cached, rows) = step.shape();
        Ok(Self {
            weights,
            setting,
            network: network.to_string(),
            form: form.name.to_string(),
            frozen: form.frozen,
            step,
            spec_sha256: spec_sha256(&form.spec(cached + rows + 16)?),
            protocol: STEP_VERSION,
            version: VERSION,
        })
    }

    /// As a person reads it.
    pub fn title(&self) -> String {
        let Self {
            weights,
            setting,
            network,
            form,
            step,
            ..
        } = self;
        let setting = setting.name();
        format!("{form}, {step}, weights {weights}, setting {setting}, network {network}")
    }

    /// The first 16 hexadecimal digits of the SHA-256 of its JSON.
    fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("a key has string keys only");
        hex(&Sha256::digest(json))[..16].to_string()
    }

    fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.json", self.digest()))
    }

    /// The cell, if it was measured.
    ///
    /// # Errors
    /// A file that is no cell, or another one's.
    pub fn read(&self, folder: &Path) -> anyhow::Result<Option<Cell>> {
        let path = self.path(folder);
        if !path.exists() {
            return Ok(None);
        }
        let text = fs::read(&path).with_context(|| format!("cannot read `{}`", path.display()))?;
        let cell: Cell = serde_json::from_slice(&text)
            .with_context(|| format!("`{}` is no cell", path.display()))?;
        anyhow::ensure!(
            cell.key == *self,
            "`{}` is another cell's\nhint: remove it, and it is measured again",
            path.display()
        );
        Ok(Some(cell))
    }
}

/// What was measured, per token or for the prompt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// The client's wall time of the step.
    pub step_seconds: f64,
    /// What the client multiplies before the step.
    pub ahead_seconds: f64,
    /// The client's public layers.
    pub prefix_seconds: f64,
    /// The dealer's wall time: before the steps in setting `dealer`, beside them in `3pc`.
    pub dealer_seconds: f64,
    pub cpu: Cpu,
    pub rounds: u64,
    pub e0_to_e1_bytes: u64,
    pub e1_to_e0_bytes: u64,
    pub dealer_to_e1_bytes: u64,
    /// Tokens that the step was averaged over.
    pub tokens: usize,
    /// Load average of the last minute before and after.
    pub load: [Option<f64>; 2],
    pub machine: String,
    /// `release`, or `dev`.
    pub profile: String,
}

/// CPU seconds of each party.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cpu {
    /// Step and what is made before it.
    pub client: f64,
    pub prefix: f64,
    pub server: f64,
    pub dealer: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cell {
    pub key: Key,
    pub measured: Measured,
}

impl Cell {
    /// # Errors
    /// A folder that cannot be written.
    pub fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let path = self.key.path(folder);
        fs::create_dir_all(folder)
            .and_then(|()| {
                let mut text = serde_json::to_string_pretty(self)?;
                text.push('\n');
                fs::write(&path, text)
            })
            .with_context(|| format!("cannot write `{}`", path.display()))
    }
}

impl Measured {
    /// What a user waits for the step, the public layers included. In `3pc` nothing is made before.
    pub fn seconds(&self, setting: Setting) -> f64 {
        let ahead = match setting {
            Setting::Dealer | Setting::TwoParties => 0.0,
            Setting::ThreeParties => self.ahead_seconds,
        };
        self.prefix_seconds + ahead + self.step_seconds
    }

    /// CPU seconds of the client, the public layers included.
    pub fn client_seconds(&self) -> f64 {
        self.cpu.client + self.cpu.prefix
    }

    pub fn cost(&self) -> Cost {
        Cost {
            rounds: self.rounds,
            e0_to_e1_bytes: self.e0_to_e1_bytes,
            e1_to_e0_bytes: self.e1_to_e0_bytes,
            dealer_to_e1_bytes: self.dealer_to_e1_bytes,
            ..Cost::default()
        }
    }
}

/// CPU or wall time, added.
pub fn plus(a: Spent, b: Spent) -> Spent {
    Spent {
        cpu: a.cpu + b.cpu,
        wall: a.wall + b.wall,
    }
}

/// All cells, in the order in which they are measured: what is compared most runs side by side and
/// first.
///
/// # Errors
/// None of the forms is refused.
pub fn all() -> anyhow::Result<Vec<Key>> {
    let (main, others): (Vec<_>, Vec<_>) = FORMS
        .iter()
        .partition(|form| ["full", "marill-15"].contains(&form.name));
    let mut keys = Vec::new();
    keys.extend(over_loopback(Setting::Dealer, &main)?);
    // Shaped links, beside the same cell without.
    for network in ["lan", "wan"] {
        keys.push(shaped(Setting::Dealer, network)?);
    }
    keys.extend(over_loopback(Setting::ThreeParties, &main)?);
    for network in ["lan", "wan"] {
        keys.push(shaped(Setting::ThreeParties, network)?);
    }
    for setting in Setting::DEALT {
        keys.extend(over_loopback(setting, &others)?);
    }
    Ok(keys)
}

/// Every step of some forms, both ways of multiplying.
fn over_loopback(setting: Setting, forms: &[&ModelForm]) -> anyhow::Result<Vec<Key>> {
    let mut keys = Vec::new();
    for step in [Step::ALL[2], Step::ALL[0], Step::ALL[1]] {
        for weights in Weights::ALL {
            for form in forms {
                keys.push(Key::new(weights, setting, "none", form, step)?);
            }
        }
    }
    Ok(keys)
}

/// The cell of a setting that is run over a network and compared with what is computed.
///
/// # Errors
/// None of the forms is refused.
pub fn shaped(setting: Setting, network: &str) -> anyhow::Result<Key> {
    let marill = &FORMS[4];
    Key::new(Weights::MaskedOnce, setting, network, marill, Step::ALL[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_has_a_name_of_its_own() {
        let keys = all().unwrap();
        let names: std::collections::BTreeSet<String> = keys.iter().map(Key::digest).collect();
        // Two settings, two protocols, three steps, seven forms; two shaped links a setting.
        assert_eq!(names.len(), 2 * 2 * 3 * 7 + 2 * 2);
        assert_eq!(names.len(), keys.len());
    }

    #[test]
    fn a_cell_of_another_key_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let keys = all().unwrap();
        let measured = Measured {
            step_seconds: 1.0,
            ahead_seconds: 0.25,
            prefix_seconds: 0.5,
            dealer_seconds: 0.0,
            cpu: Cpu {
                client: 0.0,
                prefix: 0.0,
                server: 0.0,
                dealer: 0.0,
            },
            rounds: 1,
            e0_to_e1_bytes: 1,
            e1_to_e0_bytes: 1,
            dealer_to_e1_bytes: 1,
            tokens: 1,
            load: [None; 2],
            machine: String::new(),
            profile: String::new(),
        };
        assert_eq!(measured.seconds(Setting::Dealer), 1.5);
        assert_eq!(measured.seconds(Setting::ThreeParties), 1.75);
        let cell = Cell {
            key: keys[0].clone(),
            measured,
        };
        assert_eq!(keys[0].read(folder.path()).unwrap(), None);
        cell.write(folder.path()).unwrap();
        assert_eq!(keys[0].read(folder.path()).unwrap(), Some(cell));
        fs::copy(keys[0].path(folder.path()), keys[1].path(folder.path())).unwrap();
        let error = keys[1].read(folder.path()).unwrap_err().to_string();
        assert!(error.contains("another cell's"), "{error}");
    }
}
