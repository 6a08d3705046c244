//! What an evaluator reads from the dealer.

use marill_net::Channel;

use crate::error::ProtocolError;

/// What the dealer sends, as bytes: where its frames end says nothing.
pub(super) struct Stream {
    channel: Box<dyn Channel>,
    buffer: Vec<u8>,
    at: usize,
}

impl Stream {
    pub(super) fn new(channel: Box<dyn Channel>) -> Self {
        Self {
            channel,
            buffer: Vec::new(),
            at: 0,
        }
    }

    pub(super) fn read(&mut self, bytes: usize) -> Result<&[u8], ProtocolError> {
        while self.buffer.len() - self.at < bytes {
            let frame = self.channel.recv().map_err(ProtocolError::Dealer)?;
            // What was read is dropped first, so that the buffer holds a frame and a rest at most.
            if self.at > 0 {
                self.buffer.drain(..self.at);
                self.at = 0;
            }
            self.buffer.extend_from_slice(&frame);
        }
        self.at += bytes;
        Ok(&self.buffer[self.at - bytes..self.at])
    }
}
