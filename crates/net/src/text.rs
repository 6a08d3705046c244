//! What a peer says about itself, on its way to a person.

/// Characters of a peer's text that are shown.
const MAX_CHARS: usize = 300;

/// A peer's text for a terminal, a log or a page: one line without control characters (escape
/// codes, line feeds, marks that turn the direction of writing), cut to 300 characters. It says
/// where it was cut.
#[must_use]
pub fn peer_text(text: &str) -> String {
    let mut shown: String = text
        .chars()
        .take(MAX_CHARS)
        .map(|c| if is_shown(c) { c } else { ' ' })
        .collect();
    let left = text.chars().skip(MAX_CHARS).take(1).count();
    if left > 0 {
        shown.push_str(" ... (cut)");
    }
    shown
}

/// Not a control character, a separator of lines, or a mark that is invisible and changes how its
/// neighbors look.
fn is_shown(c: char) -> bool {
    let hidden = matches!(c,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
        | '\u{e0000}'..='\u{e007f}');
    !c.is_control() && !hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escape_codes_and_endless_texts_do_not_pass() {
        assert_eq!(peer_text("no slot \u{fc}ber `x`"), "no slot \u{fc}ber `x`");
        assert_eq!(
            peer_text("a\u{1b}[2J\nb\u{202e}c\u{9b}d\r\u{7f}"),
            "a [2J b c d  "
        );
        let long = peer_text(&"\u{e4}".repeat(100_000));
        // The limit is 300 characters and the mark of a cut.
        assert!(
            long.chars().count() < 320 && long.ends_with("(cut)"),
            "{long}"
        );
        assert!(!peer_text(&"x".repeat(300)).contains("cut"));
    }
}
