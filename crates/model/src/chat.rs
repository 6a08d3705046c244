use crate::ModelError;
use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::{Deserialize, Serialize};

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    pub content: String,
}

/// Renders a Hugging Face chat template (Jinja with Python's string methods).
///
/// # Errors
/// [`ModelError::Template`] with the template's own message, for example from `raise_exception`.
pub fn render_chat(template: &str, messages: &[Message], add_generation_prompt: bool) -> Result<String, ModelError> {
    let mut env = Environment::new();
    // As Hugging Face sets them.
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("plain Jinja"));
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |message: String| -> Result<String, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    let fail = |e: Error| ModelError::Template(e.to_string());
    env.add_template("chat", template).map_err(fail)?;
    let turns = messages.iter().map(|m| context! { role => m.role.as_str(), content => m.content.as_str() });
    let messages: Vec<Value> = turns.collect();
    env.get_template("chat")
        .and_then(|t| t.render(context! { messages, add_generation_prompt, bos_token => "", eos_token => "" }))
        .map_err(fail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHATML: &str = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + \
        message['content'].strip() + '<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}\
        {{ '<|im_start|>assistant\n' }}{% endif %}";

    #[test]
    fn chatml_renders_turns_and_the_generation_prompt() {
        let messages = [Message { role: "user".into(), content: " hi ".into() }];
        let text = render_chat(CHATML, &messages, true).unwrap();
        assert_eq!(text, "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
    }

    #[test]
    fn a_template_may_refuse_with_its_own_words() {
        let error = render_chat("{{ raise_exception('roles must alternate') }}", &[], false).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
    }
}
