//! From tokens to text as it becomes certain: whole characters only, and nothing that may turn out to be a stop text.

use marill_model::{ModelError, Tokenizer};

pub(super) struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a [String],
    ids: Vec<u32>,
    /// Everything decoded so far, cut at a stop text.
    text: String,
    emitted: usize,
    stopped: bool,
}

/// What a token made certain.
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) stopped: bool,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Self {
        Self { tokenizer, stops, ids: Vec::new(), text: String::new(), emitted: 0, stopped: false }
    }

    /// `may_stop`: whether a stop text ends the answer here. What was given out before is not searched again.
    pub(super) fn push(&mut self, token: u32, may_stop: bool) -> Result<Piece, ModelError> {
        self.ids.push(token);
        self.text = self.tokenizer.decode(&self.ids)?;
        let stops: &[String] = if may_stop { self.stops } else { &[] };
        let from = self.emitted.min(self.text.len());
        let certain = match self.text.get(from..).and_then(|rest| first_stop(rest, stops)) {
            Some(at) => {
                self.text.truncate(from + at);
                self.stopped = true;
                from + at
            }
            None => certain_end(&self.text, stops).max(from),
        };
        Ok(Piece { text: self.emit(certain), stopped: self.stopped })
    }

    /// What was held back. A character whose last bytes never came is no text.
    pub(super) fn finish(&mut self) -> String {
        let whole = self.text.trim_end_matches('\u{fffd}').len();
        self.text.truncate(whole.max(self.emitted));
        self.emit(self.text.len())
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn emit(&mut self, end: usize) -> String {
        let piece = self.text.get(self.emitted..end).unwrap_or_default().to_string();
        self.emitted += piece.len();
        piece
    }
}

fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min()
}

/// Up to where later tokens cannot change the text or make it a stop text.
fn certain_end(text: &str, stops: &[String]) -> usize {
    // The decoder shows an unfinished character as U+FFFD.
    let whole = text.trim_end_matches('\u{fffd}').len();
    let may_start_a_stop = |start: &usize| stops.iter().any(|stop| stop.starts_with(&text[*start..whole]));
    text[..whole].char_indices().map(|(start, _)| start).find(may_start_a_stop).unwrap_or(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfinished_characters_and_possible_stops_are_held_back() {
        let stops = ["END".to_string(), "\n\n".to_string()];
        assert_eq!(certain_end("abc", &stops), 3);
        assert_eq!(certain_end("abc\u{fffd}", &stops), 3);
        assert_eq!(certain_end("abcEN", &stops), 3);
        assert_eq!(certain_end("abc\n", &stops), 3);
        assert_eq!(certain_end("ENabc", &stops), 5);
        assert_eq!(first_stop("abcENDx", &stops), Some(3));
        assert_eq!(first_stop("abc", &["".to_string()]), None);
    }

    #[test]
    fn half_a_character_is_never_text() {
        let dir = tempfile::tempdir().unwrap();
        // Every byte is a token of its own number.
        let tokenizer = marill_partition::testing::tiny_base(dir.path(), 1).unwrap().tokenizer;
        let said = |bytes: &[u8]| {
            let mut stream = TextStream::new(&tokenizer, &[]);
            let mut pieces: Vec<String> =
                bytes.iter().map(|&byte| stream.push(u32::from(byte), true).unwrap().text).collect();
            pieces.push(stream.finish());
            assert_eq!(pieces.concat(), stream.into_text());
            pieces
        };
        let bytes = "aé你\u{1F600}".as_bytes();
        assert_eq!(said(bytes).concat(), "aé你\u{1F600}");
        for len in 0..bytes.len() {
            assert!(!said(&bytes[..len]).concat().contains('\u{fffd}'), "after {len} bytes");
        }
        assert_eq!(said(&bytes[..2]), ["a", "", ""]);
        assert_eq!(said(b"a\xc3b"), ["a", "", "\u{fffd}b", ""], "bytes that are no character stay visible");
    }
}
