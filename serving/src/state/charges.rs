//! The record of what each key has used: appended and synced before a step runs, read again at the next start.

use std::collections::{HashMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use super::{KeyDigest, Record, WINDOW};
use crate::ServingError;
use crate::secret_files::replace_file;
use crate::wire::{hex, unhex};

/// A record longer than this is folded into one line a key when it is opened.
const FOLD_ABOVE_LINES: usize = 10_000;

/// What one key has used.
#[derive(Default)]
pub(super) struct Used {
    pub(super) tokens: u64,
    pub(super) sessions: u64,
    /// `(seconds, tokens, sessions)` within the window, oldest first.
    recent: VecDeque<(u64, u64, u64)>,
}

impl Used {
    fn add(&mut self, seconds: u64, tokens: u64, sessions: u64) {
        self.tokens += tokens;
        self.sessions += sessions;
        match self.recent.back_mut() {
            Some(last) if last.0 == seconds => {
                last.1 += tokens;
                last.2 += sessions;
            }
            _ => self.recent.push_back((seconds, tokens, sessions)),
        }
    }

    fn forget_before(&mut self, now: u64) {
        while self.recent.front().is_some_and(|(seconds, ..)| seconds + WINDOW.as_secs() <= now) {
            self.recent.pop_front();
        }
    }

    /// How long until less than `limit` of `amount` lies within the window; `None`: it does now.
    pub(super) fn wait(&mut self, now: u64, limit: u64, amount: fn(&(u64, u64, u64)) -> u64) -> Option<Duration> {
        self.forget_before(now);
        let mut within: u64 = self.recent.iter().map(amount).sum();
        if within < limit {
            return None;
        }
        let leaves = |seconds: u64| Duration::from_secs((seconds + WINDOW.as_secs()).saturating_sub(now).max(1));
        for entry in &self.recent {
            within -= amount(entry);
            if within < limit {
                return Some(leaves(entry.0));
            }
        }
        Some(WINDOW)
    }
}

/// Lines of `unix-seconds key-digest tokens sessions`.
pub(super) struct Charges {
    record: Record,
    pub(super) used: HashMap<KeyDigest, Used>,
}

impl Charges {
    pub(super) fn open(path: &Path) -> Result<Self, ServingError> {
        let (used, lines) = read(path)?;
        if lines > FOLD_ABOVE_LINES {
            fold(path, &used)?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let record = Record::of(path, file.map_err(ServingError::io(path))?, |_| {})?;
        Ok(Self { record, used })
    }

    /// On return the charge is on disk.
    pub(super) fn add(
        &mut self,
        key: &KeyDigest,
        seconds: u64,
        tokens: u64,
        sessions: u64,
    ) -> Result<(), ServingError> {
        let line = format!("{seconds} {} {tokens} {sessions}\n", hex(key));
        self.record.append(&line)?;
        let used = self.used.entry(*key).or_default();
        used.add(seconds, tokens, sessions);
        used.forget_before(seconds);
        Ok(())
    }
}

/// What each key has used, and the number of complete lines.
pub(super) fn read(path: &Path) -> Result<(HashMap<KeyDigest, Used>, usize), ServingError> {
    let mut used: HashMap<KeyDigest, Used> = HashMap::new();
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((used, 0)),
        Err(source) => return Err(ServingError::Io { path: path.into(), source }),
    };
    let (mut reader, mut text, mut lines) = (BufReader::new(file), String::new(), 0);
    loop {
        text.clear();
        reader.read_line(&mut text).map_err(ServingError::io(path))?;
        if !text.ends_with('\n') {
            return Ok((used, lines));
        }
        lines += 1;
        let bad = || std::io::Error::other(format!("line {lines} is no charge"));
        let words: Vec<&str> = text.split_whitespace().collect();
        let parsed = match words[..] {
            [seconds, key, tokens, sessions] => unhex::<32>(key)
                .and_then(|key| Some((key, seconds.parse().ok()?, tokens.parse().ok()?, sessions.parse().ok()?))),
            _ => None,
        };
        let (key, seconds, tokens, sessions) = parsed.ok_or_else(bad).map_err(ServingError::io(path))?;
        used.entry(key).or_default().add(seconds, tokens, sessions);
    }
}

/// Old lines become one a key; those within the window stay as they are.
fn fold(path: &Path, used: &HashMap<KeyDigest, Used>) -> Result<(), ServingError> {
    let mut text = String::new();
    for (key, used) in used {
        let recent: Vec<_> = used.recent.iter().rev().take(WINDOW.as_secs() as usize).rev().collect();
        let (tokens, sessions) = recent.iter().fold((0, 0), |sum, entry| (sum.0 + entry.1, sum.1 + entry.2));
        text.push_str(&format!("0 {} {} {}\n", hex(key), used.tokens - tokens, used.sessions - sessions));
        for (seconds, tokens, sessions) in recent {
            text.push_str(&format!("{seconds} {} {tokens} {sessions}\n", hex(key)));
        }
    }
    replace_file(path, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn charges_survive_a_restart_a_torn_line_and_folding() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("charges");
        let mut charges = Charges::open(&path).unwrap();
        charges.add(&[1; 32], 100, 16, 1).unwrap();
        charges.add(&[1; 32], 101, 1, 0).unwrap();
        charges.add(&[2; 32], 101, 5, 1).unwrap();
        drop(charges);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"102 0101").unwrap();
        let mut charges = Charges::open(&path).unwrap();
        assert_eq!((charges.used[&[1; 32]].tokens, charges.used[&[2; 32]].tokens), (17, 5));
        charges.add(&[2; 32], 103, 1, 0).unwrap();
        let (used, lines) = read(&path).unwrap();
        assert_eq!((lines, used[&[2; 32]].tokens), (4, 6), "the torn line is gone and none is glued to it");
        fold(&path, &used).unwrap();
        let (folded, ..) = read(&path).unwrap();
        assert_eq!((folded[&[1; 32]].tokens, folded[&[1; 32]].sessions, folded[&[2; 32]].tokens), (17, 1, 6));
    }

    #[test]
    fn a_rate_frees_up_as_the_window_moves_on() {
        let mut used = Used::default();
        used.add(100, 10, 1);
        used.add(130, 10, 1);
        assert_eq!(used.wait(131, 21, |entry| entry.1), None);
        assert_eq!(used.wait(131, 20, |entry| entry.1), Some(Duration::from_secs(29)));
        assert_eq!(used.wait(131, 1, |entry| entry.2), Some(Duration::from_secs(59)));
        assert_eq!(used.wait(160, 20, |entry| entry.1), None);
    }
}
