//! Files packed by Zstandard: frames one after another, each with its checksum.

use std::io::{self, BufRead, Chain, Cursor, Read};

use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

/// What the number at the beginning of a frame without content is, but for its last four bits.
const SKIPPED: u32 = 0x184D_2A50;

/// Largest window of a frame in bytes: what the `zstd` program takes without being told more.
const LARGEST_WINDOW: u64 = 128 << 20;

type Source<R> = Chain<Cursor<[u8; 4]>, R>;

enum State<R: Read> {
    Between(R),
    Inside(Box<StreamingDecoder<Source<R>, FrameDecoder>>),
    Ended,
}

/// The content of all frames, as one stream.
pub(super) struct Frames<R: BufRead>(State<R>);

fn damaged(error: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("Zstandard: {error}"))
}

impl<R: BufRead> Frames<R> {
    pub fn new(source: R) -> Self {
        Self(State::Between(source))
    }

    /// The next frame that has content, or the end.
    fn next_frame(mut source: R) -> io::Result<State<R>> {
        loop {
            if source.fill_buf()?.is_empty() {
                return Ok(State::Ended);
            }
            let mut magic = [0; 4];
            source.read_exact(&mut magic)?;
            if u32::from_le_bytes(magic) & !0xF != SKIPPED {
                let source = Cursor::new(magic).chain(source);
                let decoder = StreamingDecoder::new_with_max_window_size(source, LARGEST_WINDOW);
                return Ok(State::Inside(Box::new(decoder.map_err(damaged)?)));
            }
            let mut length = [0; 4];
            source.read_exact(&mut length)?;
            let length = u64::from(u32::from_le_bytes(length));
            let skipped = io::copy(&mut source.by_ref().take(length), &mut io::sink())?;
            if skipped < length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() {
            return Ok(0);
        }
        loop {
            match std::mem::replace(&mut self.0, State::Ended) {
                State::Ended => return Ok(0),
                State::Between(source) => self.0 = Self::next_frame(source)?,
                State::Inside(mut frame) => {
                    let read = frame.read(into)?;
                    if read > 0 {
                        self.0 = State::Inside(frame);
                        return Ok(read);
                    }
                    let told = frame.decoder.get_checksum_from_data();
                    if told.is_some() && told != frame.decoder.get_calculated_checksum() {
                        return Err(damaged("a frame's checksum is not its content's"));
                    }
                    self.0 = State::Between(frame.into_inner().into_inner().1);
                }
            }
        }
    }
}
