//! What a line of a conversation asks for: words for the model, or a command of this program.

use std::path::PathBuf;

/// What `/help` prints.
pub const HELP: &str = "\
/help         this list
/reset        start over; the instructions stay
/system TEXT  instructions from the next question on; alone, say which they are
/save FILE    write the conversation to a new file, a row of the recipe format `chat`
/quit         leave, as the end of input does (Ctrl-D)
//TEXT        a question that begins with a slash

Ctrl-C stops an answer; at the prompt it clears the line. Arrow up and down go through the
questions of this conversation, which are written nowhere.";

/// One line.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    Nothing,
    Question(String),
    Help,
    Reset,
    System(Option<String>),
    Save(PathBuf),
    Quit,
}

impl Said {
    /// # Errors
    /// What is wrong with a line that begins with a slash and is no command; it is not for the
    /// model.
    pub fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let Some(command) = line.strip_prefix('/') else {
            return Ok(match line {
                "" => Self::Nothing,
                text => Self::Question(text.into()),
            });
        };
        if command.starts_with('/') {
            return Ok(Self::Question(command.into()));
        }
        let (word, rest) = command
            .split_once(char::is_whitespace)
            .unwrap_or((command, ""));
        let rest = rest.trim();
        let alone = |said: Self| match rest {
            "" => Ok(said),
            _ => Err(format!(
                "`/{word}` takes nothing behind it; the line was not sent"
            )),
        };
        match word {
            "help" => alone(Self::Help),
            "reset" => alone(Self::Reset),
            "quit" => alone(Self::Quit),
            "system" => Ok(Self::System((!rest.is_empty()).then(|| rest.into()))),
            "save" if rest.is_empty() => Err("`/save` needs the name of a file".into()),
            "save" => Ok(Self::Save(rest.into())),
            _ => Err(format!(
                "`/{word}` is no command; the line was not sent\n\
                 hint: `/help` lists the commands, and `//` begins a question with a slash"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Said {
        Said::parse(line).unwrap()
    }

    #[test]
    fn commands_are_told_from_questions() {
        assert_eq!(parse("  "), Said::Nothing);
        assert_eq!(parse(" a/b? "), Said::Question("a/b?".into()));
        assert_eq!(parse("/help"), Said::Help);
        assert_eq!(parse("/reset "), Said::Reset);
        assert_eq!(parse("/quit"), Said::Quit);
        assert_eq!(parse("/system"), Said::System(None));
        assert_eq!(
            parse("/system\tBe brief. "),
            Said::System(Some("Be brief.".into()))
        );
        assert_eq!(parse("/save a b.json"), Said::Save("a b.json".into()));
        assert_eq!(parse("//etc?"), Said::Question("/etc?".into()));
    }

    #[test]
    fn what_is_no_command_is_refused_by_name() {
        for (line, name) in [
            ("/rest", "`/rest`"),
            ("/usr/bin is what?", "`/usr/bin`"),
            ("/", "`/`"),
            ("/reset now", "`/reset`"),
            ("/save", "`/save`"),
        ] {
            let refused = Said::parse(line).unwrap_err();
            assert!(refused.contains(name), "{refused}");
        }
    }
}
