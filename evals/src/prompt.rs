//! From rendered rows to what an engine is asked, in the format that training used.

mod frame;

use marill_model::{ChatTemplate, Tokenizer};
use marill_recipe::{Example, Prompt, Turn};
use marill_training::{end_token, prompt_text, prompt_tokens};

pub use self::frame::Frame;
use crate::EvalError;

/// How a checkpoint is spoken to.
pub struct PromptFormatter<'a> {
    pub tokenizer: &'a Tokenizer,
    pub chat_template: Option<&'a ChatTemplate>,
}

/// One prompt, as text and as tokens.
#[derive(Debug, Clone)]
pub struct Question {
    pub text: String,
    pub tokens: Vec<u32>,
}

impl PromptFormatter<'_> {
    /// The prompt of an example behind `shots` few-shot examples.
    ///
    /// # Errors
    /// [`EvalError::Train`] or [`EvalError::Model`] when the chat template or the tokenizer refuses
    /// the text.
    pub fn question(&self, shots: &[Example], example: &Example) -> Result<Question, EvalError> {
        let prompt = with_shots(shots, example);
        let text = prompt_text(&prompt, self.chat_template)?;
        let tokens = prompt_tokens(self.tokenizer, &prompt, self.chat_template, &text)?;
        Ok(Question { text, tokens })
    }

    /// The tokens of an answer.
    ///
    /// # Errors
    /// [`EvalError::Model`] when the tokenizer refuses the text.
    pub fn words(&self, text: &str) -> Result<Vec<u32>, EvalError> {
        Ok(self.tokenizer.encode_continuing(text)?)
    }

    /// The tokens of a whole answer to `prompt` with the token that ends it, as training learns it.
    ///
    /// # Errors
    /// As [`PromptFormatter::words`].
    pub fn answer(&self, prompt: &Prompt, text: &str) -> Result<Vec<u32>, EvalError> {
        let mut tokens = self.words(text)?;
        tokens.extend(end_token(self.tokenizer, prompt, self.chat_template));
        Ok(tokens)
    }
}

/// Few-shot examples become earlier turns of a conversation, or earlier paragraphs of a plain
/// prompt.
fn with_shots(shots: &[Example], example: &Example) -> Prompt {
    match &example.prompt {
        Prompt::Plain(prompt) => {
            let mut text = String::new();
            for shot in shots {
                if let Prompt::Plain(question) = &shot.prompt {
                    text += &format!("{question}{}\n\n", shot.completion);
                }
            }
            Prompt::Plain(text + prompt)
        }
        Prompt::Chat(turns) => {
            let (system, asked): (Vec<Turn>, Vec<Turn>) =
                turns.iter().cloned().partition(|t| t.role == "system");
            let mut all = system;
            for shot in shots {
                if let Prompt::Chat(question) = &shot.prompt {
                    all.extend(question.iter().filter(|t| t.role != "system").cloned());
                    all.push(Turn {
                        role: "assistant".into(),
                        content: shot.completion.clone(),
                    });
                }
            }
            all.extend(asked);
            Prompt::Chat(all)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chat(text: &str, completion: &str) -> Example {
        let turn = |role: &str, content: &str| Turn {
            role: role.into(),
            content: content.into(),
        };
        let prompt = Prompt::Chat(vec![turn("system", "Be brief."), turn("user", text)]);
        Example {
            prompt,
            completion: completion.into(),
            label: None,
        }
    }

    #[test]
    fn few_shot_examples_stand_before_the_question() {
        let Prompt::Chat(turns) = with_shots(&[chat("1+1", "2")], &chat("2+2", "4")) else {
            panic!()
        };
        let said: Vec<_> = turns
            .iter()
            .map(|t| format!("{}: {}", t.role, t.content))
            .collect();
        assert_eq!(
            said,
            [
                "system: Be brief.",
                "user: 1+1",
                "assistant: 2",
                "user: 2+2"
            ]
        );
    }

    #[test]
    fn plain_few_shot_examples_are_paragraphs() {
        let plain = |text: &str, completion: &str| Example {
            prompt: Prompt::Plain(text.into()),
            completion: completion.into(),
            label: None,
        };
        let prompt = with_shots(&[plain("1+1=", "2")], &plain("2+2=", "4"));
        assert_eq!(prompt, Prompt::Plain("1+1=2\n\n2+2=".into()));
    }
}
