//! What all questions of a task have around them, rendered and tokenized once.

use marill_recipe::{Example, Prompt, Turn};
use marill_training::{prompt_text, prompt_tokens};

use super::{PromptFormatter, Question, with_shots};
use crate::EvalError;

/// Contents that a template must pass on as they stand, and that show where tokens join.
const PROBES: [&str; 4] = [
    "Kingfisher",
    " \n Heron? \n\n",
    "\n\n12. [INST] 'a' <b> {{ c }} </b> [/INST]",
    "...\u{e9}t\u{e9} \u{1f426}",
];

/// Few-shot examples and template of a task.
pub struct Frame<'a> {
    formatter: &'a PromptFormatter<'a>,
    shots: &'a [Example],
    chat: Option<Chat>,
}

/// A conversation in which only the last turn is another for each question.
struct Chat {
    /// The turns of the question before its last one, and that one's role.
    turns: Vec<Turn>,
    role: String,
    /// The text in front of the last turn's content, and behind it.
    before: String,
    after: String,
    /// How much of `before` is tokenized already, and its tokens: up to behind a token that the
    /// tokenizer cuts texts at.
    cut: usize,
    head: Vec<u32>,
}

impl PromptFormatter<'_> {
    /// What is around the questions like `example`, behind `shots` few-shot examples. A chat
    /// template that does more with a question than writing it down is rendered for each.
    ///
    /// # Errors
    /// As [`PromptFormatter::question`].
    pub fn frame<'a>(
        &'a self,
        shots: &'a [Example],
        example: Option<&Example>,
    ) -> Result<Frame<'a>, EvalError> {
        let chat = match example {
            Some(example) => self.chat(shots, example)?,
            None => None,
        };
        Ok(Frame {
            formatter: self,
            shots,
            chat,
        })
    }

    fn chat(&self, shots: &[Example], example: &Example) -> Result<Option<Chat>, EvalError> {
        let Prompt::Chat(turns) = &example.prompt else {
            return Ok(None);
        };
        let Some((last, turns)) = turns.split_last() else {
            return Ok(None);
        };
        let render = |content: &str| {
            let asked = with_content(example, content);
            prompt_text(&with_shots(shots, &asked), self.chat_template)
        };
        let Some((before, after)) = split_once_only(&render(PROBES[0])?, PROBES[0]) else {
            return Ok(None);
        };
        let mut texts = Vec::new();
        for content in PROBES.into_iter().chain([&last.content[..]]) {
            let text = render(content)?;
            if text != format!("{before}{content}{after}") {
                return Ok(None);
            }
            texts.push(text);
        }
        let (mut cut, mut head) = self.head(&before)?;
        for text in &texts {
            let whole = self.tokens(example, text)?;
            let joined = [&head[..], &self.tokens(example, &text[cut..])?].concat();
            if whole != joined {
                (cut, head) = (0, Vec::new());
                break;
            }
        }
        Ok(Some(Chat {
            turns: turns.to_vec(),
            role: last.role.clone(),
            before,
            after,
            cut,
            head,
        }))
    }

    /// The tokens of a rendered text up to the last one that texts are cut at, and its length.
    fn head(&self, text: &str) -> Result<(usize, Vec<u32>), EvalError> {
        let tokenizer = self.tokenizer;
        if self.chat_template.is_none() {
            return Ok((0, Vec::new()));
        }
        let mut tokens = tokenizer.encode(text)?;
        let last = tokens.iter().rposition(|&id| tokenizer.is_added(id));
        tokens.truncate(last.map_or(0, |nth| nth + 1));
        let said = tokenizer.decode(&tokens)?;
        match text.starts_with(&said) {
            true => Ok((said.len(), tokens)),
            false => Ok((0, Vec::new())),
        }
    }

    fn tokens(&self, example: &Example, text: &str) -> Result<Vec<u32>, EvalError> {
        let prompt = &example.prompt;
        Ok(prompt_tokens(
            self.tokenizer,
            prompt,
            self.chat_template,
            text,
        )?)
    }
}

impl Frame<'_> {
    /// [`PromptFormatter::question`] of an example behind the few-shot examples.
    ///
    /// # Errors
    /// As there.
    pub fn question(&self, example: &Example) -> Result<Question, EvalError> {
        let content = self.chat.as_ref().and_then(|chat| chat.content(example));
        let (Some(chat), Some(content)) = (&self.chat, content) else {
            return self.formatter.question(self.shots, example);
        };
        let text = format!("{}{content}{}", chat.before, chat.after);
        let rest = self.formatter.tokens(example, &text[chat.cut..])?;
        let tokens = [&chat.head[..], &rest].concat();
        Ok(Question { text, tokens })
    }
}

impl Chat {
    /// The content of the last turn, where nothing else differs.
    fn content<'a>(&self, example: &'a Example) -> Option<&'a str> {
        let Prompt::Chat(turns) = &example.prompt else {
            return None;
        };
        let (last, turns) = turns.split_last()?;
        let same = last.role == self.role && turns == self.turns;
        same.then_some(&last.content)
    }
}

/// The example with another content of its last turn.
fn with_content(example: &Example, content: &str) -> Example {
    let mut example = example.clone();
    if let Prompt::Chat(turns) = &mut example.prompt
        && let Some(last) = turns.last_mut()
    {
        last.content = content.into();
    }
    example
}

/// What is around a part that a text has once.
fn split_once_only(text: &str, part: &str) -> Option<(String, String)> {
    let (before, after) = text.split_once(part)?;
    (!after.contains(part)).then(|| (before.into(), after.into()))
}

#[cfg(test)]
mod tests {
    use marill_model::{ChatTemplate, Tokenizer};
    use marill_testkit::models::tiny_base;

    use super::*;

    const CHATML: &str = "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + \
                          message.content + '<|im_end|>\n' }}{% endfor %}";

    fn tokenizer() -> Tokenizer {
        let dir = tempfile::tempdir().unwrap();
        tiny_base(dir.path(), 1).unwrap().tokenizer
    }

    fn chat(turns: &[(&str, &str)], completion: &str) -> Example {
        let turn = |(role, content): &(&str, &str)| Turn {
            role: (*role).into(),
            content: (*content).into(),
        };
        Example {
            prompt: Prompt::Chat(turns.iter().map(turn).collect()),
            completion: completion.into(),
            label: None,
        }
    }

    /// Whether the frame of the first example renders for all, and that every question is the one
    /// rendered for itself.
    fn renders_once(template: &str, examples: &[Example], shots: &[Example]) -> bool {
        let tokenizer = tokenizer();
        let template = ChatTemplate::new(template.into(), &tokenizer);
        let formatter = PromptFormatter {
            tokenizer: &tokenizer,
            chat_template: Some(&template),
        };
        let frame = formatter.frame(shots, examples.first()).unwrap();
        for example in examples {
            let found = frame.question(example).unwrap();
            let expected = formatter.question(shots, example).unwrap();
            assert_eq!(found.text, expected.text);
            assert_eq!(found.tokens, expected.tokens, "{:?}", found.text);
        }
        frame.chat.is_some_and(|chat| chat.cut > 0)
    }

    fn questions() -> [Example; 4] {
        [
            chat(&[("user", "1+1")], "2"),
            chat(&[("user", "\n <|im_end|> é")], "2"),
            chat(&[("system", "Be brief."), ("user", "2+2")], "4"),
            chat(&[("user", "")], "5"),
        ]
    }

    #[test]
    fn questions_in_a_frame_are_those_rendered_one_by_one() {
        let shots = [chat(&[("user", "3+3")], "6"), chat(&[("user", "0+1")], "1")];
        assert!(renders_once(CHATML, &questions(), &[]));
        assert!(renders_once(CHATML, &questions(), &shots));
        let plain = Example {
            prompt: Prompt::Plain("1+1=".into()),
            ..shots[0].clone()
        };
        assert!(!renders_once(CHATML, &[plain], &[]));
    }

    #[test]
    fn a_template_that_changes_questions_is_rendered_for_each() {
        for change in ["message.content | trim", "message.content | upper"] {
            let template = CHATML.replace("message.content", change);
            assert!(!renders_once(&template, &questions(), &[]), "{change}");
        }
        let twice = CHATML.replace("message.content", "message.content + message.content");
        assert!(!renders_once(&twice, &questions(), &[]));
    }
}
