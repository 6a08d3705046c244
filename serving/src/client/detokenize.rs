//! From tokens to text as it becomes certain: whole characters only, no special tokens, and nothing
//! that may turn out to be a stop text.

use marill_model::{ModelError, Tokenizer};

pub(super) struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a [String],
    ids: Vec<u32>,
    /// Everything said so far, without special tokens, cut at a stop text.
    text: String,
    emitted: usize,
    stopped: bool,
    /// A stop text may spell a special token, so it is looked for among these too.
    whole: Whole,
}

/// The text with special tokens.
#[derive(Default)]
struct Whole {
    /// Behind each token: where this text and the one that is said end.
    ends: Vec<[usize; 2]>,
    /// What later tokens cannot make a stop text.
    certain: usize,
}

impl Whole {
    /// Where the text that is said stands at this place of the whole one; a special token has no
    /// place of its own.
    fn said(&self, at: usize) -> usize {
        let next = self.ends.partition_point(|[end, _]| *end <= at);
        let [start, said] = if next == 0 {
            [0, 0]
        } else {
            self.ends[next - 1]
        };
        self.ends
            .get(next)
            .map_or(said, |[_, said_then]| (said + (at - start)).min(*said_then))
    }
}

/// What a token made certain.
pub(super) struct Piece {
    pub(super) text: String,
    pub(super) stopped: bool,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Self {
        let whole = Whole::default();
        Self {
            tokenizer,
            stops,
            ids: Vec::new(),
            text: String::new(),
            emitted: 0,
            stopped: false,
            whole,
        }
    }

    /// `may_stop`: whether a stop text ends the answer here. What was given out before is not
    /// searched again.
    pub(super) fn push(&mut self, token: u32, may_stop: bool) -> Result<Piece, ModelError> {
        self.ids.push(token);
        self.text = self.tokenizer.decode_said(&self.ids)?;
        let stops: &[String] = if may_stop { self.stops } else { &[] };
        let from = self.emitted.min(self.text.len());
        let in_said = self
            .text
            .get(from..)
            .and_then(|rest| first_stop(rest, stops))
            .map(|at| from + at);
        let (in_whole, held) = self.search_whole(stops)?;
        let stop = [in_said, in_whole].into_iter().flatten().min();
        let certain = match stop {
            Some(at) => {
                let at = self.text.floor_char_boundary(at.max(from));
                self.text.truncate(at);
                self.stopped = true;
                at
            }
            None => self
                .text
                .floor_char_boundary(certain_end(&self.text, stops).min(held))
                .max(from),
        };
        Ok(Piece {
            text: self.emit(certain),
            stopped: self.stopped,
        })
    }

    /// In the text with special tokens: the first stop text, and up to where none can begin any
    /// more, both as places of the text that is said.
    fn search_whole(&mut self, stops: &[String]) -> Result<(Option<usize>, usize), ModelError> {
        if self.stops.is_empty() {
            return Ok((None, self.text.len()));
        }
        let text = self.tokenizer.decode(&self.ids)?;
        // An unfinished character belongs to the token that finishes it.
        self.whole
            .ends
            .push([&text, &self.text].map(|text| text.trim_end_matches('\u{fffd}').len()));
        let from = self.whole.certain.min(text.len());
        let stop = text
            .get(from..)
            .and_then(|rest| first_stop(rest, stops))
            .map(|at| self.whole.said(from + at));
        self.whole.certain = certain_end(&text, stops).max(from);
        Ok((stop, self.whole.said(self.whole.certain)))
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
        let piece = self
            .text
            .get(self.emitted..end)
            .unwrap_or_default()
            .to_string();
        self.emitted += piece.len();
        piece
    }
}

fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    stops
        .iter()
        .filter(|stop| !stop.is_empty())
        .filter_map(|stop| text.find(stop.as_str()))
        .min()
}

/// Up to where later tokens cannot change the text or make it a stop text.
fn certain_end(text: &str, stops: &[String]) -> usize {
    // The decoder shows an unfinished character as U+FFFD.
    let whole = text.trim_end_matches('\u{fffd}').len();
    let may_start_a_stop = |start: &usize| {
        stops
            .iter()
            .any(|stop| stop.starts_with(&text[*start..whole]))
    };
    text[..whole]
        .char_indices()
        .map(|(start, _)| start)
        .find(may_start_a_stop)
        .unwrap_or(whole)
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
        let tokenizer = marill_testkit::models::tiny_base(dir.path(), 1)
            .unwrap()
            .tokenizer;
        let said = |bytes: &[u8]| {
            let mut stream = TextStream::new(&tokenizer, &[]);
            let mut pieces: Vec<String> = bytes
                .iter()
                .map(|&byte| stream.push(u32::from(byte), true).unwrap().text)
                .collect();
            pieces.push(stream.finish());
            assert_eq!(pieces.concat(), stream.into_text());
            pieces
        };
        let bytes = "aé你\u{1F600}".as_bytes();
        assert_eq!(said(bytes).concat(), "aé你\u{1F600}");
        for len in 0..bytes.len() {
            assert!(
                !said(&bytes[..len]).concat().contains('\u{fffd}'),
                "after {len} bytes"
            );
        }
        assert_eq!(said(&bytes[..2]), ["a", "", ""]);
        assert_eq!(
            said(b"a\xc3b"),
            ["a", "", "\u{fffd}b", ""],
            "bytes that are no character stay visible"
        );
    }

    #[test]
    fn special_tokens_are_no_text_and_a_stop_text_may_spell_one() {
        let dir = tempfile::tempdir().unwrap();
        let tokenizer = marill_testkit::models::tiny_base(dir.path(), 1)
            .unwrap()
            .tokenizer;
        let said = |text: &str, stops: &[&str]| {
            let stops: Vec<String> = stops.iter().map(ToString::to_string).collect();
            let mut stream = TextStream::new(&tokenizer, &stops);
            let mut pieces = Vec::new();
            let mut stopped = false;
            for id in tokenizer.encode(text).unwrap() {
                let piece = stream.push(id, true).unwrap();
                pieces.push(piece.text);
                stopped = piece.stopped;
                if stopped {
                    break;
                }
            }
            pieces.push(stream.finish());
            assert_eq!(pieces.concat(), stream.into_text());
            (pieces.concat(), stopped)
        };
        let turn = "<|im_start|>hé<|im_end|>\nyou<|im_end|>";
        assert_eq!(said(turn, &[]), ("hé\nyou".into(), false));
        assert_eq!(said(turn, &["none"]), ("hé\nyou".into(), false));
        assert_eq!(said(turn, &["<|im_end|>"]), ("hé".into(), true));
        assert_eq!(said(turn, &["é<|im_end|>\ny"]), ("h".into(), true));
        assert_eq!(said(turn, &["é<|im_end|>\nx"]), ("hé\nyou".into(), false));
        assert_eq!(
            said(turn, &["é\n"]),
            ("h".into(), true),
            "what is said never holds a stop text"
        );
        assert_eq!(said(turn, &["<|im_start|>"]), (String::new(), true));
        assert_eq!(said(turn, &["you"]), ("hé\n".into(), true));
    }
}
