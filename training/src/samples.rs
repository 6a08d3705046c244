use crate::{DataNotes, Rng, TrainError};
use marill_model::{Checkpoint, Message, Tokenizer, render_chat};
use marill_recipe::{Dataset, Example, Format, Prompt, Recipe, Rows};
use std::path::Path;

/// Token ids of one row; tokens from `loss_from` on are learnt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub tokens: Vec<u32>,
    pub loss_from: usize,
}

impl Sample {
    /// Rows of the hidden state that predict a token to be learnt, and those tokens.
    pub fn targets(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        (self.loss_from.max(1)..self.tokens.len()).map(|i| (i - 1, self.tokens[i]))
    }
}

/// The text that stands before an answer: the chat template's rendering, or the prompt as it is.
///
/// # Errors
/// [`TrainError::Model`] when the template refuses the turns.
pub fn prompt_text(prompt: &Prompt, template: Option<&str>) -> Result<String, TrainError> {
    match (prompt, template) {
        (Prompt::Plain(text), _) => Ok(text.clone()),
        (Prompt::Chat(turns), Some(template)) => {
            let message = |t: &marill_recipe::Turn| Message { role: t.role.clone(), content: t.content.clone() };
            Ok(render_chat(template, &turns.iter().map(message).collect::<Vec<_>>(), true)?)
        }
        (Prompt::Chat(turns), None) => {
            let text: Vec<&str> = turns.iter().map(|t| t.content.as_str()).collect();
            Ok(text.join("\n") + "\n")
        }
    }
}

/// The token that ends an answer: the turn's end for a chat prompt, the text's end otherwise.
pub fn end_token(tokenizer: &Tokenizer, prompt: &Prompt, template: Option<&str>) -> Option<u32> {
    let turn = matches!(prompt, Prompt::Chat(_)) && template.is_some();
    let order = if turn { ["<|im_end|>", "<|eot_id|>"] } else { ["<|endoftext|>", "</s>"] };
    order.iter().find_map(|t| tokenizer.token_id(t)).or_else(|| tokenizer.eos_ids().next())
}

/// All training rows and the ones kept aside.
pub(crate) struct Samples {
    pub train: Vec<Sample>,
    pub validation: Vec<Sample>,
    pub notes: DataNotes,
}

/// Reads, draws and tokenises the data sets of a recipe.
pub(crate) fn load(recipe: &Recipe, dir: &Path, model: &Checkpoint) -> Result<Samples, TrainError> {
    let limit = recipe.data.max_seq_len.min(model.config.max_position_embeddings);
    let (mut train, mut validation, mut notes) = (Vec::new(), Vec::new(), DataNotes::default());
    for (nth, dataset) in recipe.dataset.iter().enumerate() {
        let rows = Rows::read(dataset, dir)?;
        notes.rows += rows.excluded;
        notes.excluded += rows.excluded;
        let mut rng = Rng::new(recipe.train.seed, &format!("dataset {nth}"));
        let examples = draw(rows.examples, dataset, &mut rng);
        let mut samples = if dataset.format == Format::Text {
            windows(&examples, model, limit)?
        } else {
            let mut tokenise = |e| tokenise(e, model, limit, recipe.data.train_on_input, &mut notes);
            examples.iter().map(&mut tokenise).collect::<Result<Vec<_>, _>>()?
        };
        notes.rows += samples.len();
        let all = samples.len();
        samples.retain(|s| s.targets().next().is_some());
        notes.without_answer += all - samples.len();
        rng.shuffle(&mut samples);
        let kept = (samples.len() as f64 * recipe.data.val_fraction) as usize;
        validation.extend(samples.drain(..kept));
        repeat(&mut samples, dataset.weight);
        train.extend(samples);
    }
    if train.is_empty() {
        return Err(TrainError::NoData { max_seq_len: limit });
    }
    let asked_for = recipe.data.val_fraction > 0.0 || recipe.eval.as_ref().is_some_and(|e| e.every_steps.is_some());
    notes.no_validation = asked_for && validation.is_empty();
    Ok(Samples { train, validation, notes })
}

fn draw(mut examples: Vec<Example>, dataset: &Dataset, rng: &mut Rng) -> Vec<Example> {
    if let Some(limit) = dataset.limit {
        rng.shuffle(&mut examples);
        examples.truncate(limit);
    }
    examples
}

/// A weight of 2.5 gives every row twice and every other row a third time.
fn repeat(samples: &mut Vec<Sample>, weight: f64) {
    let base = samples.clone();
    samples.clear();
    let mut due = weight;
    while due > 0.0 {
        let count = (base.len() as f64 * due.min(1.0)).round() as usize;
        samples.extend_from_slice(&base[..count]);
        due -= 1.0;
    }
}

fn tokenise(
    example: &Example,
    model: &Checkpoint,
    limit: usize,
    train_on_input: bool,
    notes: &mut DataNotes,
) -> Result<Sample, TrainError> {
    if example.completion.trim().is_empty() {
        // The end mark alone would teach to say nothing.
        return Ok(Sample { tokens: Vec::new(), loss_from: 0 });
    }
    let template = model.chat_template.as_deref();
    let prompt = model.tokenizer.encode(&prompt_text(&example.prompt, template)?)?;
    let mut answer = model.tokenizer.encode(&example.completion)?;
    answer.extend(end_token(&model.tokenizer, &example.prompt, template));
    notes.shortened_answers += usize::from(answer.len() > limit.saturating_sub(1));
    answer.truncate(limit.saturating_sub(1));
    // The end of a prompt matters more than its beginning: there stands what is asked for.
    let room = limit - answer.len();
    let cut = prompt.len().saturating_sub(room);
    notes.shortened_prompts += usize::from(cut > 0);
    let prompt = &prompt[cut..];
    let loss_from = if train_on_input { 0 } else { prompt.len() };
    Ok(Sample { tokens: [prompt, &answer].concat(), loss_from })
}

/// Running text, document after document, cut into pieces of `limit` tokens.
fn windows(examples: &[Example], model: &Checkpoint, limit: usize) -> Result<Vec<Sample>, TrainError> {
    let mut stream = Vec::new();
    for example in examples {
        stream.extend(model.tokenizer.encode(&example.completion)?);
        stream.extend(end_token(&model.tokenizer, &example.prompt, None));
    }
    Ok(stream.chunks(limit).map(|tokens| Sample { tokens: tokens.to_vec(), loss_from: 0 }).collect())
}

/// Rows that predict, counted over the batch, and the tokens that they should predict.
pub(crate) fn targets(samples: &[Sample], batch: &[usize]) -> (Vec<u32>, Vec<u32>) {
    let (mut rows, mut labels, mut start) = (Vec::new(), Vec::new(), 0);
    for &i in batch {
        for (row, label) in samples[i].targets() {
            rows.push((start + row) as u32);
            labels.push(label);
        }
        start += samples[i].tokens.len();
    }
    (rows, labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_the_next_tokens_from_the_answer_on() {
        let sample = Sample { tokens: vec![5, 6, 7, 8], loss_from: 2 };
        assert_eq!(sample.targets().collect::<Vec<_>>(), [(1, 7), (2, 8)]);
        let sample = Sample { tokens: vec![5, 6], loss_from: 0 };
        assert_eq!(sample.targets().collect::<Vec<_>>(), [(0, 6)]);
    }

    #[test]
    fn weights_repeat_rows() {
        let row = |t| Sample { tokens: vec![t; 2], loss_from: 0 };
        let mut rows = vec![row(1), row(2)];
        repeat(&mut rows, 2.5);
        assert_eq!(rows.iter().map(|r| r.tokens[0]).collect::<Vec<_>>(), [1, 2, 1, 2, 1]);
        repeat(&mut rows, 0.4);
        assert_eq!(rows.len(), 2);
    }
}
