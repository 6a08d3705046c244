//! Frames that came before they are needed, in a file.

use std::{
    fs::File,
    io::{BufReader, BufWriter, Read, Seek, Write},
};

use anyhow::Context;
use marill_net::{Channel, NetError};

/// What a channel brought until its first empty frame; afterwards the channel itself.
pub struct Spool {
    file: BufReader<File>,
    frames: usize,
    rest: Box<dyn Channel>,
}

impl Spool {
    /// Takes everything up to an empty frame.
    ///
    /// # Errors
    /// A lost party, or no room for the file.
    pub fn fill(mut channel: Box<dyn Channel>) -> anyhow::Result<Self> {
        let mut file = BufWriter::new(tempfile::tempfile().context("cannot keep correlations")?);
        let mut frames = 0;
        loop {
            let frame = channel.recv()?;
            if frame.is_empty() {
                break;
            }
            file.write_all(&(frame.len() as u64).to_le_bytes())?;
            file.write_all(&frame).context("cannot keep correlations")?;
            frames += 1;
        }
        let mut file = file.into_inner()?;
        file.rewind()?;
        Ok(Self {
            file: BufReader::new(file),
            frames,
            rest: channel,
        })
    }
}

impl Channel for Spool {
    fn send(&mut self, frame: Vec<u8>) -> Result<(), NetError> {
        self.rest.send(frame)
    }

    fn recv(&mut self) -> Result<Vec<u8>, NetError> {
        if self.frames == 0 {
            return self.rest.recv();
        }
        self.frames -= 1;
        let mut length = [0; 8];
        self.file.read_exact(&mut length)?;
        let mut frame = vec![0; u64::from_le_bytes(length) as usize];
        self.file.read_exact(&mut frame)?;
        Ok(frame)
    }
}

#[cfg(test)]
mod tests {
    use marill_net::memory_pair;

    use super::*;

    #[test]
    fn frames_come_back_in_order_then_the_channel() {
        let (mut near, far) = memory_pair();
        for frame in [vec![1; 3], vec![2; 70_000], Vec::new(), vec![3]] {
            near.send(frame).unwrap();
        }
        let mut spool = Spool::fill(Box::new(far)).unwrap();
        assert_eq!(spool.recv().unwrap(), vec![1; 3]);
        assert_eq!(spool.recv().unwrap(), vec![2; 70_000]);
        assert_eq!(spool.recv().unwrap(), vec![3]);
    }
}
