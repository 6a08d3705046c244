//! The body of an answer: of a length that was announced, in chunks as proxies send it, or to the
//! end of the connection.

use std::{io::Write, time::Instant};

use super::read_some;
use crate::{NetError, socket::Socket};

const READ_BYTES: usize = 64 << 10;
/// Of a chunk's size with its extensions, and of what stands behind the last chunk.
const MAX_LINE_BYTES: usize = 8 << 10;

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(u64),
    Chunked,
    /// The connection ends with it.
    Open,
}

/// A body that is read from a connection.
pub(super) struct Body<'a> {
    pub(super) socket: &'a mut dyn Socket,
    /// What has arrived and is not used yet.
    pub(super) bytes: Vec<u8>,
    pub(super) sink: &'a mut dyn Write,
    /// Most bytes that it may have.
    pub(super) limit: u64,
    pub(super) deadline: Instant,
}

impl Body<'_> {
    /// Writes it to the sink.
    ///
    /// # Errors
    /// A lost connection, [`NetError::Protocol`] for a body that is longer than it may be or that
    /// is none, [`NetError::Local`] for what the sink reports.
    pub(super) fn read(mut self, length: Length) -> Result<(), NetError> {
        match length {
            Length::Bytes(length) => {
                if length > self.limit || self.bytes.len() as u64 > length {
                    return Err(self.too_long());
                }
                self.pass(length)
            }
            Length::Open => self.rest(),
            Length::Chunked => self.chunks(),
        }
    }

    fn too_long(&self) -> NetError {
        NetError::Protocol("the answer is longer than announced, or than it may be".into())
    }

    /// Waits for more bytes; `false` at the connection's end.
    fn more(&mut self) -> Result<bool, NetError> {
        let mut chunk = vec![0; READ_BYTES];
        let n = read_some(self.socket, &mut chunk, self.deadline)?;
        self.bytes.extend_from_slice(&chunk[..n]);
        Ok(n > 0)
    }

    /// Passes on so many bytes.
    fn pass(&mut self, count: u64) -> Result<(), NetError> {
        let mut left = count;
        while left > 0 {
            if self.bytes.is_empty() && !self.more()? {
                return Err(NetError::Closed);
            }
            let n = self
                .bytes
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            self.write(n)?;
            left -= n as u64;
        }
        Ok(())
    }

    fn write(&mut self, n: usize) -> Result<(), NetError> {
        let local = |source| NetError::Local { source };
        self.limit = self
            .limit
            .checked_sub(n as u64)
            .ok_or_else(|| self.too_long())?;
        self.sink.write_all(&self.bytes[..n]).map_err(local)?;
        self.bytes.drain(..n);
        Ok(())
    }

    fn rest(&mut self) -> Result<(), NetError> {
        loop {
            self.write(self.bytes.len())?;
            if !self.more()? {
                return Ok(());
            }
        }
    }

    /// RFC 9112, section 7.1.
    fn chunks(&mut self) -> Result<(), NetError> {
        let bad = |_| NetError::Protocol("the answer's chunks are not understood".into());
        loop {
            let (used, size) = match httparse::parse_chunk_size(&self.bytes).map_err(bad)? {
                httparse::Status::Complete(parsed) => parsed,
                httparse::Status::Partial => {
                    self.more_of_a_line()?;
                    continue;
                }
            };
            self.bytes.drain(..used);
            if size == 0 {
                return self.trailers();
            }
            if size > self.limit {
                return Err(self.too_long());
            }
            self.pass(size)?;
            while self.bytes.len() < 2 {
                self.more_of_a_line()?;
            }
            if !self.bytes.starts_with(b"\r\n") {
                return Err(NetError::Protocol(
                    "a chunk has another size than it says".into(),
                ));
            }
            self.bytes.drain(..2);
        }
    }

    fn more_of_a_line(&mut self) -> Result<(), NetError> {
        if self.bytes.len() > MAX_LINE_BYTES {
            let reason = "a line between the answer's chunks is too long";
            return Err(NetError::Protocol(reason.into()));
        }
        match self.more()? {
            true => Ok(()),
            false => Err(NetError::Closed),
        }
    }

    /// Headers behind the last chunk, which nobody reads, up to an empty line.
    fn trailers(&mut self) -> Result<(), NetError> {
        loop {
            let line = self.bytes.windows(2).position(|pair| pair == b"\r\n");
            match line {
                Some(0) => return Ok(()),
                Some(end) => drop(self.bytes.drain(..end + 2)),
                None => self.more_of_a_line()?,
            }
        }
    }
}
