//! A first look at a GGUF file, before the reader takes its word for anything.

use std::{
    collections::BTreeSet,
    io::{self, BufReader, Read, Seek},
};

/// Walks the metadata and says what the reader would not survive, or pass over: an alignment of 0,
/// a key that stands twice, lengths that the file does not have.
///
/// # Errors
/// A sentence without the file's name.
pub(super) fn check(file: &mut BufReader<impl Read + Seek>, bytes: u64) -> Result<(), String> {
    let mut header = Header { file, bytes, at: 0 };
    header.walk().map_err(|problem| match problem {
        Problem::Says(text) => text,
        Problem::File(e) if e.kind() == io::ErrorKind::UnexpectedEof => {
            "the file is cut short".into()
        }
        Problem::File(e) => e.to_string(),
    })
}

struct Header<'a, F> {
    file: &'a mut BufReader<F>,
    bytes: u64,
    /// Where it stands: asking the file each time would empty the buffer.
    at: u64,
}

enum Problem {
    Says(String),
    File(io::Error),
}

impl From<io::Error> for Problem {
    fn from(error: io::Error) -> Self {
        Self::File(error)
    }
}

/// Bytes of a number, by the format's code of its type; 8 is text and 9 a list.
const SIZES: [u64; 13] = [1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8];
const TEXT: usize = 8;
const LIST: usize = 9;
const U32: usize = 4;

impl<F: Read + Seek> Header<'_, F> {
    fn walk(&mut self) -> Result<(), Problem> {
        if &self.take::<4>()? != b"GGUF" {
            return Err(Problem::Says("does not begin as a GGUF file".into()));
        }
        let version = u32::from_le_bytes(self.take()?);
        if !(2..=3).contains(&version) {
            return Err(Problem::Says(format!(
                "is GGUF of version {version}; 2 and 3 are read"
            )));
        }
        let tensors = self.number()?;
        let keys = self.number()?;
        // A key takes 13 bytes at least and a tensor 24.
        if keys
            .saturating_mul(13)
            .saturating_add(tensors.saturating_mul(24))
            > self.bytes
        {
            return Err(Problem::Says(format!(
                "has no room for {keys} keys and {tensors} tensors"
            )));
        }
        let mut seen = BTreeSet::new();
        for _ in 0..keys {
            let key = self.text()?;
            let kind = u32::from_le_bytes(self.take()?) as usize;
            if key == "general.alignment" {
                let alignment = if kind == U32 {
                    u32::from_le_bytes(self.take()?)
                } else {
                    0
                };
                if !alignment.is_power_of_two() {
                    let problem =
                        "`general.alignment` must be a power of two, stored as a 32-bit number";
                    return Err(Problem::Says(problem.into()));
                }
            } else {
                self.skip_value(kind, 0)?;
            }
            if !seen.insert(key.clone()) {
                return Err(Problem::Says(format!("metadata key `{key}` stands twice")));
            }
        }
        let mut seen = BTreeSet::new();
        for _ in 0..tensors {
            let name = self.text()?;
            let dims = u32::from_le_bytes(self.take()?);
            if dims > 4 {
                return Err(Problem::Says(format!(
                    "tensor `{name}` has {dims} dimensions"
                )));
            }
            let mut elements = 1u64;
            for _ in 0..dims {
                let dim = self.number()?;
                let product = elements.checked_mul(dim).filter(|n| *n <= 1 << 48);
                elements = product
                    .ok_or_else(|| Problem::Says(format!("tensor `{name}` has a size of {dim}")))?;
            }
            self.take::<12>()?;
            if !seen.insert(name.clone()) {
                return Err(Problem::Says(format!("tensor `{name}` stands twice")));
            }
        }
        Ok(())
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.at += N as u64;
        Ok(bytes)
    }

    fn number(&mut self) -> Result<u64, Problem> {
        Ok(u64::from_le_bytes(self.take()?))
    }

    /// A length that the rest of the file has room for.
    fn length(&mut self, width: u64) -> Result<u64, Problem> {
        let length = self.number()?;
        let left = self.bytes.saturating_sub(self.at);
        match length.checked_mul(width) {
            Some(needed) if needed <= left => Ok(length),
            _ => Err(Problem::Says(format!(
                "the file is cut short or damaged: a length of {length} leaves it"
            ))),
        }
    }

    fn text(&mut self) -> Result<String, Problem> {
        const LONGEST_NAME: u64 = 1 << 16;
        let length = self.length(1)?;
        if length > LONGEST_NAME {
            return Err(Problem::Says(format!("a name of {length} bytes")));
        }
        let mut bytes = vec![0; length as usize];
        self.file.read_exact(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| Problem::Says("a name is no UTF-8 text".into()))
    }

    fn skip(&mut self, bytes: u64) -> Result<(), Problem> {
        self.file.seek_relative(bytes as i64)?;
        self.at += bytes;
        Ok(())
    }

    fn skip_value(&mut self, kind: usize, depth: usize) -> Result<(), Problem> {
        match kind {
            TEXT => {
                let length = self.length(1)?;
                self.skip(length)
            }
            LIST if depth > 4 => Err(Problem::Says("lists inside lists without end".into())),
            LIST => {
                let kind = u32::from_le_bytes(self.take()?) as usize;
                let least = match kind {
                    TEXT => 8,
                    LIST => 12,
                    _ => SIZES.get(kind).copied().unwrap_or(1),
                };
                let length = self.length(least)?;
                if kind != TEXT && kind != LIST && kind < SIZES.len() {
                    return self.skip(length * least);
                }
                (0..length).try_for_each(|_| self.skip_value(kind, depth + 1))
            }
            _ => match SIZES.get(kind) {
                Some(&size) => self.skip(size),
                None => Err(Problem::Says(format!("a value of the unknown type {kind}"))),
            },
        }
    }
}
