//! A file of lines, each of which is on disk before it counts.
//!
//! A line that cannot be written in full, on a full disk for example, is cut off again: whoever asked for it hears of the
//! failure, nothing that was recorded before is touched, and the next line is not glued to a torn one.

use std::fs::File;
use std::io::{BufRead, BufReader, Result, Write};
use std::path::{Path, PathBuf};

use crate::ServingError;

/// What a record is kept on.
pub(crate) trait Medium: Write {
    fn sync(&self) -> Result<()>;
    /// Keeps the first bytes only.
    fn cut(&self, bytes: u64) -> Result<()>;
}

impl Medium for File {
    fn sync(&self) -> Result<()> {
        self.sync_data()
    }

    fn cut(&self, bytes: u64) -> Result<()> {
        self.set_len(bytes)
    }
}

/// An open record.
pub(crate) struct Record<M = File> {
    path: PathBuf,
    medium: M,
    /// Of complete lines.
    bytes: u64,
    /// Whether something may stand behind them.
    torn: bool,
}

impl Record {
    /// Reads a file that was opened for appending; what a crash left of an unacknowledged line is cut off.
    ///
    /// # Errors
    /// [`ServingError::Io`].
    pub(crate) fn of(path: &Path, file: File, mut each: impl FnMut(&str)) -> std::result::Result<Self, ServingError> {
        let (mut reader, mut line, mut bytes) = (BufReader::new(&file), String::new(), 0);
        let torn = loop {
            line.clear();
            let read = reader.read_line(&mut line).map_err(ServingError::io(path))?;
            match line.strip_suffix('\n') {
                Some(line) => each(line),
                None => break read > 0,
            }
            bytes += read as u64;
        };
        let mut record = Self { path: path.into(), medium: file, bytes, torn };
        record.mend()?;
        Ok(record)
    }
}

impl<M: Medium> Record<M> {
    /// Writes a line, which ends in a line feed; on return it is on disk.
    ///
    /// # Errors
    /// [`ServingError::Io`]; the record is then as it was before.
    pub(crate) fn append(&mut self, line: &str) -> std::result::Result<(), ServingError> {
        self.mend()?;
        let written = self.medium.write_all(line.as_bytes()).and_then(|()| self.medium.sync());
        match written {
            Ok(()) => self.bytes += line.len() as u64,
            Err(_) => {
                self.torn = true;
                // The failure to write is what is reported; a cut that fails is tried again before the next line.
                let _ = self.mend();
            }
        }
        written.map_err(ServingError::io(&self.path))
    }

    fn mend(&mut self) -> std::result::Result<(), ServingError> {
        if self.torn {
            self.medium.cut(self.bytes).map_err(ServingError::io(&self.path))?;
            self.torn = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::io::Error;

    use super::*;

    /// A disk with room for so many bytes, and a way to cut files or none.
    struct Disk<'a> {
        content: &'a RefCell<Vec<u8>>,
        room: &'a Cell<usize>,
        cuts: &'a Cell<bool>,
    }

    impl Write for Disk<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            let mut content = self.content.borrow_mut();
            let fits = bytes.len().min(self.room.get() - content.len());
            if fits == 0 {
                return Err(Error::from(std::io::ErrorKind::StorageFull));
            }
            content.extend_from_slice(&bytes[..fits]);
            Ok(fits)
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    impl Medium for Disk<'_> {
        fn sync(&self) -> Result<()> {
            Ok(())
        }

        fn cut(&self, bytes: u64) -> Result<()> {
            if !self.cuts.get() {
                return Err(Error::other("read-only"));
            }
            self.content.borrow_mut().truncate(bytes as usize);
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_loses_the_new_line_and_no_other() {
        let (content, room, cuts) = (RefCell::new(Vec::new()), Cell::new(10), Cell::new(true));
        let disk = Disk { content: &content, room: &room, cuts: &cuts };
        let mut record = Record { path: "ledger".into(), medium: disk, bytes: 0, torn: false };
        record.append("e1 abc\n").unwrap();
        let error = record.append("e1 def\n").unwrap_err().to_string();
        assert!(error.contains("ledger") && error.contains("storage"), "{error}");
        assert_eq!(*content.borrow(), b"e1 abc\n", "half a line is cut off again");
        cuts.set(false);
        record.append("e1 def\n").unwrap_err();
        assert_eq!(*content.borrow(), b"e1 abc\ne1 ", "here it cannot be");
        room.set(100);
        record.append("e1 ghi\n").unwrap_err();
        assert_eq!(*content.borrow(), b"e1 abc\ne1 ", "nothing is glued to it");
        cuts.set(true);
        record.append("e1 ghi\n").unwrap();
        assert_eq!(*content.borrow(), b"e1 abc\ne1 ghi\n");
    }

    #[test]
    fn what_a_crash_left_of_a_line_is_cut_off_when_the_record_is_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record");
        std::fs::write(&path, "one\ntwo\nthr").unwrap();
        let file = || std::fs::OpenOptions::new().read(true).append(true).open(&path).unwrap();
        let mut lines = Vec::new();
        let mut record = Record::of(&path, file(), |line| lines.push(line.to_string())).unwrap();
        record.append("four\n").unwrap();
        assert_eq!(lines, ["one", "two"]);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "one\ntwo\nfour\n");
    }
}
