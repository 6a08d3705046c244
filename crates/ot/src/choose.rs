//! How a session makes its transfers, chosen for its link and machines.
//!
//! Each party either names an [`Extension`] or says what it knows ([`Conditions`]); one round
//! exchanges that, both compute the same choice, and both can report it ([`Chosen`]). A name binds:
//! two different names are an error, a name and conditions follow the name.
//!
//! What is minimized is the time of a session's transfers: their bytes over the slower link, and
//! the processor time of the machine with the smaller cache. Processor times are this crate's own
//! on one machine (`tests/speed.rs`, with vectors of AES); only their ratios matter. An expansion
//! gathers ten entries of the secret a row, so a set whose secrets, one a direction, do not fit the
//! cache takes three times as long: emp-ot's sets of 8 MB against 2 MB measured with a cache that
//! others use too.
//!
//! Everything here is public: nothing is said about inputs or keys.

use std::{
    fmt, fs,
    time::{Duration, Instant},
};

use marill_net::Channel;

use crate::{error::OtError, link::Link, plan::Extension, silent::LpnSet, softspoken::GroupBits};

/// Version of the message.
const VERSION: u8 = 1;

const STEP: &str = "choice of transfers";
const MESSAGE_BYTES: usize = 2 + 4 * 8;

/// Of a link that nobody has measured: one gigabit, as between machines of one site.
const BITS_PER_SECOND: u64 = 1_000_000_000;

/// Of a machine that does not say: what the smallest set takes in both directions.
const CACHE_BYTES: u64 = 2 << 20;

/// Of a session that does not say: some hundred thousand comparisons.
const TRANSFERS: u64 = 10_000_000;

/// How much longer a gather takes from memory than from a cache.
const BEYOND_CACHE: u64 = 3;

/// Bytes of each message that measure the link.
const PROBE_BYTES: usize = 256 << 10;

/// What a party knows; zero stands for what it does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Conditions {
    /// Of one direction.
    pub bits_per_second: u64,
    /// From a message to its answer.
    pub round_trip_micros: u64,
    /// Of the cache that one core may fill.
    pub cache_bytes: u64,
    /// That the session will make, in each direction.
    pub transfers: u64,
}

/// A cache size as Linux writes it: `32768K`.
fn size(text: &str) -> Option<u64> {
    let text = text.trim();
    let (number, unit) = match text.strip_suffix(['K', 'M']) {
        Some(number) if text.ends_with('K') => (number, 1 << 10),
        Some(number) => (number, 1 << 20),
        None => (text, 1),
    };
    number.parse::<u64>().ok().map(|n| n * unit)
}

/// How many processors a list such as `0-3,8` names.
fn processors(list: &str) -> Option<u64> {
    let ranges = list.trim().split(',').map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let [first, last] = [first, last].map(|end| end.parse::<u64>().ok());
        last?.checked_sub(first?).map(|more| more + 1)
    });
    ranges.sum()
}

/// The largest of a core's caches, each divided by the processors that share it.
fn cache_bytes() -> u64 {
    let folder = "/sys/devices/system/cpu/cpu0/cache";
    let caches = fs::read_dir(folder).into_iter().flatten().flatten();
    let shares = caches.filter_map(|cache| {
        let read = |name: &str| fs::read_to_string(cache.path().join(name)).ok();
        let whole = size(&read("size")?)?;
        Some(whole / processors(&read("shared_cpu_list")?)?.max(1))
    });
    shares.max().unwrap_or_default()
}

impl Conditions {
    /// Of this machine: its cache, where the system tells.
    #[must_use]
    pub fn of_machine() -> Self {
        Self {
            cache_bytes: cache_bytes(),
            ..Self::default()
        }
    }

    /// Measures the link, with the peer that does the same: four small rounds, and 256 KiB in each
    /// direction.
    ///
    /// # Errors
    /// Those of [`Link`].
    pub fn measured<C: Channel>(mut self, link: &mut Link<C>) -> Result<Self, OtError> {
        let mut shortest = Duration::MAX;
        // The first waits for the slower party to get here.
        link.exchange(STEP, &[0], 1)?;
        for _ in 0..3 {
            let began = Instant::now();
            link.exchange(STEP, &[0], 1)?;
            shortest = shortest.min(began.elapsed());
        }
        let began = Instant::now();
        link.exchange(STEP, &vec![0; PROBE_BYTES], PROBE_BYTES)?;
        let took = began.elapsed().saturating_sub(shortest / 2);
        let micros = took.as_micros().max(1) as u64;
        self.bits_per_second = (PROBE_BYTES as u64 * 8 * 1_000_000 / micros).max(1);
        self.round_trip_micros = shortest.as_micros() as u64;
        Ok(self)
    }

    /// What holds for both parties: the slower link, the smaller cache, the longer session.
    fn with(self, peer: Self) -> Self {
        let least = |own: u64, peer: u64| match (own, peer) {
            (0, known) | (known, 0) => known,
            _ => own.min(peer),
        };
        Self {
            bits_per_second: least(self.bits_per_second, peer.bits_per_second),
            round_trip_micros: self.round_trip_micros.max(peer.round_trip_micros),
            cache_bytes: least(self.cache_bytes, peer.cache_bytes),
            transfers: self.transfers.max(peer.transfers),
        }
    }

    fn fields(self) -> [u64; 4] {
        [
            self.bits_per_second,
            self.round_trip_micros,
            self.cache_bytes,
            self.transfers,
        ]
    }

    fn of_fields(fields: [u64; 4]) -> Self {
        Self {
            bits_per_second: fields[0],
            round_trip_micros: fields[1],
            cache_bytes: fields[2],
            transfers: fields[3],
        }
    }

    /// The extension that takes least time, and the first of equals. In whole picoseconds, so that
    /// both parties get one answer.
    #[must_use]
    pub fn best(self) -> Extension {
        let groups = [GroupBits::Four, GroupBits::Two, GroupBits::Eight];
        let groups = groups.into_iter().map(Extension::SoftSpoken);
        let all = groups.chain(LpnSet::ALL.map(Extension::Silent));
        let least = all.min_by_key(|extension| self.picoseconds(*extension));
        least.expect("there are seven")
    }

    fn picoseconds(self, extension: Extension) -> u128 {
        let known = |value: u64, otherwise: u64| if value == 0 { otherwise } else { value };
        let transfers = known(self.transfers, TRANSFERS);
        // A peer may say any numbers: nothing here wraps.
        let bits = 8 * (u128::from(setup_bytes(extension)) + bytes(extension, transfers));
        let speed = u128::from(known(self.bits_per_second, BITS_PER_SECOND));
        let on_link = bits * 1_000_000_000_000 / speed;
        let waiting =
            u128::from(rounds(extension)) * u128::from(self.round_trip_micros) * 1_000_000;
        let fits = secrets(extension) <= known(self.cache_bytes, CACHE_BYTES);
        let slower = if fits { 1 } else { BEYOND_CACHE };
        let working =
            u128::from(transfers) * u128::from(slower) * u128::from(picoseconds_each(extension));
        on_link + waiting + working
    }
}

impl fmt::Display for Conditions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [
            (self.bits_per_second, "bits/s", "an unknown link"),
            (
                self.round_trip_micros,
                "µs there and back",
                "an unknown delay",
            ),
            (self.cache_bytes, "bytes of cache", "an unknown cache"),
            (
                self.transfers,
                "transfers",
                "an unknown number of transfers",
            ),
        ];
        for (i, (value, unit, unknown)) in parts.into_iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            match value {
                0 => write!(f, "{comma}{unknown}")?,
                value => write!(f, "{comma}{value} {unit}")?,
            }
        }
        Ok(())
    }
}

/// Bytes of a direction before its first transfer.
fn setup_bytes(extension: Extension) -> u64 {
    let Extension::Silent(set) = extension else {
        return 0;
    };
    let first = LpnSet::B10;
    let bootstrap = bytes(Extension::SoftSpoken(GroupBits::Four), first.seeds() as u64) as u64;
    if set == first {
        return bootstrap;
    }
    let trees = set.seeds().div_ceil(first.leaves());
    bootstrap + (trees * first.tree_bytes()) as u64
}

/// Bytes of so many transfers of a direction.
fn bytes(extension: Extension, transfers: u64) -> u128 {
    let milli_bits = match extension {
        Extension::SoftSpoken(k) => 1000 * (128 / k as u64 - 1),
        Extension::Silent(set) => {
            let bits = 8 * set.trees() * set.tree_bytes();
            (1000 * bits / (set.usable() * set.leaves())) as u64
        }
    };
    u128::from(transfers) * u128::from(milli_bits) / 8000
}

/// Rounds before the first transfer, beside those of all sources.
fn rounds(extension: Extension) -> u64 {
    match extension {
        Extension::SoftSpoken(_) => 0,
        Extension::Silent(LpnSet::B10) => 1,
        Extension::Silent(_) => 2,
    }
}

/// Bytes of the secrets of both directions.
fn secrets(extension: Extension) -> u64 {
    match extension {
        Extension::SoftSpoken(_) => 0,
        Extension::Silent(set) => 2 * 16 * set.secret() as u64,
    }
}

/// Processor time of a transfer, as sender of one and chooser of another.
fn picoseconds_each(extension: Extension) -> u64 {
    match extension {
        Extension::SoftSpoken(GroupBits::Two) => 28_000,
        Extension::SoftSpoken(GroupBits::Four) => 25_000,
        Extension::SoftSpoken(GroupBits::Eight) => 98_000,
        Extension::Silent(LpnSet::B10) => 14_000,
        Extension::Silent(LpnSet::B11) => 14_000,
        Extension::Silent(LpnSet::B12) => 15_000,
        Extension::Silent(LpnSet::B13) => 17_000,
    }
}

/// What a party brings to the choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    /// This one, or none.
    Exactly(Extension),
    /// Whatever is best under both parties' conditions.
    Auto(Conditions),
}

/// What both parties chose, and from what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    pub extension: Extension,
    /// Of both parties; none where one of them named the extension.
    pub conditions: Option<Conditions>,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.conditions {
            None => write!(f, "{}, as it was asked for", self.extension),
            Some(conditions) => write!(f, "{}, for {conditions}", self.extension),
        }
    }
}

impl Choice {
    /// Exchanges what both bring, in one round of 34 bytes each; the result goes to
    /// [`crate::Session::begin`], which compares it again.
    ///
    /// # Errors
    /// [`OtError::Sources`] when the parties name different extensions, [`OtError::Parameters`] for
    /// another version, [`OtError::Malformed`] for an extension that is not known here; those of
    /// [`Link`].
    pub fn agree<C: Channel>(self, link: &mut Link<C>) -> Result<Chosen, OtError> {
        let (code, own) = match self {
            Self::Exactly(extension) => (extension.code(), Conditions::default()),
            Self::Auto(conditions) => (0, conditions),
        };
        let mut message = vec![VERSION, code];
        own.fields()
            .iter()
            .for_each(|field| message.extend(field.to_le_bytes()));
        let answer = link.exchange(STEP, &message, MESSAGE_BYTES)?;
        if answer[0] != VERSION {
            return Err(OtError::Parameters {
                what: "the version of the choice of transfers",
                own: VERSION.into(),
                peer: answer[0].into(),
            });
        }
        let named = match answer[1] {
            0 => None,
            code => Some(Extension::of_code(code).ok_or(OtError::Malformed {
                step: STEP,
                reason: "transfers that are not known here",
            })?),
        };
        let of_name = |extension| Chosen {
            extension,
            conditions: None,
        };
        match (self, named) {
            (Self::Exactly(own), Some(peer)) if own != peer => Err(OtError::Sources {
                own: own.to_string(),
                peer: peer.to_string(),
            }),
            (Self::Exactly(name), _) | (Self::Auto(_), Some(name)) => Ok(of_name(name)),
            (Self::Auto(own), None) => {
                let (fields, _) = answer[2..].as_chunks::<8>();
                let peer =
                    Conditions::of_fields([0, 1, 2, 3].map(|i| u64::from_le_bytes(fields[i])));
                let both = own.with(peer);
                Ok(Chosen {
                    extension: both.best(),
                    conditions: Some(both),
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_numbers_of_a_peer_give_a_choice() {
        for value in [0, 1, u64::MAX / 2, u64::MAX] {
            let conditions = Conditions {
                bits_per_second: value,
                round_trip_micros: value,
                cache_bytes: value,
                transfers: value,
            };
            let _ = conditions.best();
        }
    }

    #[test]
    fn sizes_and_lists_of_processors_are_read() {
        let sizes = ["48K", "32768K\n", "4M", "512", "", "KK"].map(size);
        let expected = [
            Some(48 << 10),
            Some(32 << 20),
            Some(4 << 20),
            Some(512),
            None,
            None,
        ];
        assert_eq!(sizes, expected);
        let lists = ["0", "0-1\n", "0-3,8,10-11", "", "3-1"].map(processors);
        assert_eq!(lists, [Some(1), Some(2), Some(7), None, None]);
    }

    #[test]
    fn a_larger_set_is_taken_as_link_and_cache_say() {
        let conditions = |bits_per_second, cache_bytes, transfers| Conditions {
            bits_per_second,
            round_trip_micros: 1000,
            cache_bytes,
            transfers,
        };
        let many = 100_000_000;
        let softspoken = Extension::SoftSpoken(GroupBits::Four);
        let silent = Extension::Silent;
        for (conditions, best) in [
            // A few transfers do not pay for a set-up of 300 kB.
            (conditions(1_000_000_000, 32 << 20, 10_000), softspoken),
            (
                conditions(10_000_000, 32 << 20, 20_000),
                Extension::SoftSpoken(GroupBits::Eight),
            ),
            // The link is slow: the fewest bytes whose secret is in the cache, or out of it.
            (conditions(10_000_000, 32 << 20, many), silent(LpnSet::B13)),
            (conditions(10_000_000, 2 << 20, many), silent(LpnSet::B13)),
            // The link is fast: the largest set whose secrets fit.
            (
                conditions(10_000_000_000, 2 << 20, many),
                silent(LpnSet::B10),
            ),
            (
                conditions(1_000_000_000, 4 << 20, many),
                silent(LpnSet::B11),
            ),
            (conditions(100_000_000, 8 << 20, many), silent(LpnSet::B12)),
        ] {
            assert_eq!(conditions.best(), best, "{conditions}");
        }
    }

    #[test]
    fn the_worse_of_both_conditions_holds() {
        let own = Conditions::of_fields([5, 0, 9, 1]);
        let peer = Conditions::of_fields([0, 7, 4, 2]);
        assert_eq!(own.with(peer), Conditions::of_fields([5, 7, 4, 2]));
        assert_eq!(own.with(peer), peer.with(own));
    }
}
