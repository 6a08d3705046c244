//! Event files of TensorBoard: records of protocol buffers, each with its length and check sums.
//!
//! A record is its length (u64), the masked CRC-32C of the length, the bytes, and the masked
//! CRC-32C of the bytes (`tensorflow/core/lib/io/record_writer.h`). The bytes are an `Event`
//! (`tensorflow/core/util/event.proto`). `training/read_events.py` reads what is written here with
//! TensorBoard's own reader.

use std::{
    fs::File,
    io::{self, Write},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::Progress;

/// How every event file's name begins.
const PREFIX: &str = "events.out.tfevents.";
/// The version of the format, in the first record.
const VERSION: &str = "brain.Event:2";

/// An event file that grows with a run.
pub(crate) struct Events(File);

impl Events {
    /// Begins a file in `dir`. Where a run goes on behind `step`, readers forget what earlier files
    /// say of later steps; a run from the beginning removes earlier files.
    ///
    /// # Errors
    /// Anything that writing a file reports.
    pub fn create(dir: &Path, step: usize) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        if step == 0 {
            Self::clear(dir)?;
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = since.map_or(0, |time| time.as_secs());
        // A second run within the second has a name of its own.
        let name = |nth: usize| dir.join(format!("{PREFIX}{seconds:010}.marill.{nth}"));
        let path = (0..).map(name).find(|path| !path.exists());
        let mut events = Self(File::create_new(path.unwrap_or_else(|| name(0)))?);
        let mut first = event(0);
        put_bytes(&mut first, 3, VERSION.as_bytes());
        events.write(&first)?;
        if step > 0 {
            // SessionLog { status: START }.
            let mut started = event(step as u64 + 1);
            put_bytes(&mut started, 7, &[1 << 3, 1]);
            events.write(&started)?;
        }
        Ok(events)
    }

    /// Removes the event files of a folder, where there is one.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn clear(dir: &Path) -> io::Result<()> {
        if dir.is_dir() {
            files(dir)?.into_iter().try_for_each(std::fs::remove_file)?;
        }
        Ok(())
    }

    /// Adds what a step has to say.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn add(&mut self, at: &Progress) -> io::Result<()> {
        let values = [
            ("train/loss", Some(at.loss)),
            ("train/learning_rate", Some(at.learning_rate)),
            ("train/grad_norm", Some(at.grad_norm)),
            ("train/tokens", Some(at.tokens as f64)),
            ("train/tokens_per_second", Some(at.tokens_per_second)),
            ("validation/loss", at.val_loss),
        ];
        let mut summary = Vec::new();
        for (tag, value) in values {
            let Some(value) = value else { continue };
            let mut one = Vec::new();
            put_bytes(&mut one, 1, tag.as_bytes());
            one.push(2 << 3 | 5);
            one.extend((value as f32).to_le_bytes());
            put_bytes(&mut summary, 1, &one);
        }
        let mut event = event(at.step as u64);
        put_bytes(&mut event, 5, &summary);
        self.write(&event)
    }

    fn write(&mut self, data: &[u8]) -> io::Result<()> {
        let length = (data.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(data.len() + 16);
        record.extend(length);
        record.extend(masked_crc(&length).to_le_bytes());
        record.extend(data);
        record.extend(masked_crc(data).to_le_bytes());
        // Whole at once: a reader sees no half of it.
        self.0.write_all(&record)
    }
}

/// Event files in a folder.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let is_event = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(PREFIX))
    };
    let paths = std::fs::read_dir(dir)?.map(|entry| Ok(entry?.path()));
    let paths: io::Result<Vec<_>> = paths.collect();
    Ok(paths?.into_iter().filter(is_event).collect())
}

/// An `Event` of this step, at this moment.
fn event(step: u64) -> Vec<u8> {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let mut bytes = vec![1 << 3 | 1];
    bytes.extend(since.map_or(0.0, |time| time.as_secs_f64()).to_le_bytes());
    bytes.push(2 << 3);
    put_number(&mut bytes, step);
    bytes
}

fn put_number(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A field of bytes, text or another message.
fn put_bytes(bytes: &mut Vec<u8>, field: u8, value: &[u8]) {
    bytes.push(field << 3 | 2);
    put_number(bytes, value.len() as u64);
    bytes.extend(value);
}

/// CRC-32C, turned and moved so that a sum of data with sums in it is no weaker.
fn masked_crc(data: &[u8]) -> u32 {
    crc32c(data).rotate_right(15).wrapping_add(0xa282_ead8)
}

/// Castagnoli's polynomial, reflected.
const POLYNOMIAL: u32 = 0x82f6_3b78;

const TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ (if crc & 1 == 1 { POLYNOMIAL } else { 0 });
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

fn crc32c(data: &[u8]) -> u32 {
    !data.iter().fold(!0, |crc, byte| {
        (crc >> 8) ^ TABLE[((crc as u8) ^ byte) as usize]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 3720, appendix B.4, and the check value of the polynomial.
    #[test]
    fn check_sums_are_those_of_the_standard() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    /// The records of a file, with their sums checked.
    fn records(path: &Path) -> Vec<Vec<u8>> {
        let bytes = std::fs::read(path).unwrap();
        let mut rest = bytes.as_slice();
        let mut all = Vec::new();
        while !rest.is_empty() {
            let (length, behind) = rest.split_at(8);
            let (sum, behind) = behind.split_at(4);
            assert_eq!(masked_crc(length).to_le_bytes(), sum);
            let length = u64::from_le_bytes(length.try_into().unwrap()) as usize;
            let (data, behind) = behind.split_at(length);
            let (sum, behind) = behind.split_at(4);
            assert_eq!(masked_crc(data).to_le_bytes(), sum);
            all.push(data.to_vec());
            rest = behind;
        }
        all
    }

    fn step(step: usize) -> Progress {
        Progress {
            step,
            steps: 300,
            loss: 0.5,
            val_loss: (step == 2).then_some(0.25),
            learning_rate: 1e-3,
            grad_norm: 1.0,
            tokens: 10,
            tokens_per_second: 5.0,
            of_teacher: false,
        }
    }

    fn contains(data: &[u8], part: &[u8]) -> bool {
        data.windows(part.len()).any(|window| window == part)
    }

    #[test]
    fn every_step_is_a_record_as_soon_as_it_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let mut events = Events::create(folder.path(), 0).unwrap();
        let path = files(folder.path()).unwrap().remove(0);
        assert!(contains(&records(&path)[0], b"brain.Event:2"));
        for nth in 1..=2 {
            events.add(&step(nth)).unwrap();
            let all = records(&path);
            assert_eq!(all.len(), nth + 1);
            let mut loss = b"train/loss\x15".to_vec();
            loss.extend(0.5f32.to_le_bytes());
            assert!(contains(&all[nth], &loss));
            assert_eq!(contains(&all[nth], b"validation/loss"), nth == 2);
        }
        // 300 in two bytes.
        events.add(&step(300)).unwrap();
        assert!(contains(&records(&path)[3][9..12], &[2 << 3, 0xac, 0x02]));
    }

    #[test]
    fn a_run_that_goes_on_says_where() {
        let folder = tempfile::tempdir().unwrap();
        drop(Events::create(folder.path(), 0).unwrap());
        drop(Events::create(folder.path(), 7).unwrap());
        let mut all = files(folder.path()).unwrap();
        all.sort();
        assert_eq!(all.len(), 2, "another file");
        let started = &records(&all[1])[1];
        assert_eq!(started[9..], [2 << 3, 8, 7 << 3 | 2, 2, 1 << 3, 1]);
        drop(Events::create(folder.path(), 0).unwrap());
        assert_eq!(
            files(folder.path()).unwrap().len(),
            1,
            "a run from the beginning"
        );
    }
}
