//! What an answer says in Python.

/// The program within an answer: its first fenced block, where there is one, otherwise all of it.
pub fn program_of(answer: &str) -> String {
    let Some((_, behind)) = answer.split_once("```") else {
        return answer.to_owned();
    };
    // The rest of the fence's line names the language.
    let body = behind.split_once('\n').map_or("", |(_, body)| body);
    body.split("```").next().unwrap_or_default().to_owned()
}

/// Whether a program defines a function: a `def` with a name, parameters, a colon, and an indented
/// line behind it.
pub fn defines_function(program: &str) -> bool {
    let mut lines = program
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .peekable();
    while let Some(line) = lines.next() {
        let Some(signature) = line.strip_prefix("def ") else {
            continue;
        };
        let named = signature
            .split_once('(')
            .is_some_and(|(name, _)| is_identifier(name.trim()));
        let complete = named && signature.contains(')') && signature.contains(':');
        let inline = signature
            .rsplit_once(':')
            .is_some_and(|(_, body)| !body.trim().is_empty());
        let indented = lines
            .peek()
            .is_some_and(|next| next.starts_with([' ', '\t']));
        if complete && (inline || indented) {
            return true;
        }
    }
    false
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_')
        && chars.all(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_fenced_block_is_the_program() {
        let answer = "Here it is:\n```python\ndef f(x):\n    return x\n```\nand\n```\nno\n```";
        assert_eq!(program_of(answer), "def f(x):\n    return x\n");
        assert_eq!(
            program_of("def f(x):\n    return x"),
            "def f(x):\n    return x"
        );
        assert_eq!(
            program_of("```python\ndef f(x):\n    return 1"),
            "def f(x):\n    return 1"
        );
    }

    #[test]
    fn a_function_has_a_name_and_a_body() {
        assert!(defines_function(
            "import re\ndef f(x, y = 1):\n\n\treturn x"
        ));
        assert!(defines_function("def f(x): return x"));
        assert!(!defines_function("def f(x):"));
        assert!(!defines_function("def f(x):\nreturn x"));
        assert!(!defines_function("def (x):\n    return x"));
        assert!(!defines_function("  def f(x):\n    return x"));
        assert!(!defines_function("I would define a function"));
    }
}
