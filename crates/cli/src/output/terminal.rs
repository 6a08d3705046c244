//! Words of a model on a terminal: whoever runs the server chooses them, so nothing among them
//! moves the cursor, changes colors or sends keys.

use std::{
    borrow::Cow,
    io::{IsTerminal, Write},
};

/// Writes a piece of an answer to standard output at once: as it is into a file or a pipe, without
/// control characters to a terminal.
pub fn show(piece: &str) {
    let mut out = std::io::stdout();
    let piece = if out.is_terminal() {
        plain(piece)
    } else {
        Cow::Borrowed(piece)
    };
    // A reader that has seen enough ends the command elsewhere.
    let _ = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
}

/// Line feeds and tabs stay; other control characters become U+FFFD.
fn plain(text: &str) -> Cow<'_, str> {
    let is_bad = |c: char| c.is_control() && c != '\n' && c != '\t';
    match text.contains(is_bad) {
        true => Cow::Owned(text.replace(is_bad, "\u{fffd}")),
        false => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_of_a_model_do_not_reach_a_terminal() {
        assert_eq!(plain("a\tb\nc \u{e4}"), "a\tb\nc \u{e4}");
        assert_eq!(
            plain("\u{1b}]0;title\u{7}\r\u{9b}2J"),
            "\u{fffd}]0;title\u{fffd}\u{fffd}\u{fffd}2J"
        );
    }
}
