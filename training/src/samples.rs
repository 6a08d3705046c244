//! The rows of all data sets as token ids with the parts that are learned, and the rows held out
//! for validation.

use std::{ops::Range, path::Path};

use marill_model::{
    ChatTemplate, Checkpoint, Message, ModelConfig, Tokenizer, plain_chat, render_chat,
};
use marill_recipe::{Dataset, Example, Format, Prompt, Recipe, Rows, TrainOn, Turn};

use crate::{DataNotes, Rng, TrainError};

/// Most tokens of a data set that `dataset.weight` may repeat: 1 GiB of them.
const REPEATED_TOKENS: f64 = (1u64 << 28) as f64;

/// Token ids of one row, and which of them are learned: ranges in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    pub tokens: Vec<u32>,
    pub learned: Vec<Range<usize>>,
}

impl Sample {
    /// Tokens of which all from the `from`th on are learned.
    pub fn learnt_from(tokens: Vec<u32>, from: usize) -> Self {
        let learned = std::iter::once(from..tokens.len()).collect();
        Self { tokens, learned }
    }

    /// Rows of the hidden state that predict a token to be learned, and those tokens.
    pub fn targets(&self) -> impl Iterator<Item = (usize, u32)> + '_ {
        let places = self
            .learned
            .iter()
            .flat_map(|range| range.start.max(1)..range.end);
        places.map(|i| (i - 1, self.tokens[i]))
    }
}

/// The text that stands before an answer: the chat template's rendering, or the prompt as it is.
///
/// # Errors
/// [`TrainError::Model`] when the template refuses the turns.
pub fn prompt_text(prompt: &Prompt, template: Option<&ChatTemplate>) -> Result<String, TrainError> {
    match (prompt, template) {
        (Prompt::Plain(text), _) => Ok(text.clone()),
        (Prompt::Chat(turns), Some(template)) => {
            let message = |t: &marill_recipe::Turn| Message {
                role: t.role.clone(),
                content: t.content.clone(),
            };
            Ok(render_chat(
                template,
                &turns.iter().map(message).collect::<Vec<_>>(),
                true,
            )?)
        }
        (Prompt::Chat(turns), None) => Ok(plain_chat(turns.iter().map(|t| t.content.as_str()))),
    }
}

/// Token ids of what [`prompt_text`] gave for a prompt: a template writes the token that begins a
/// text itself.
///
/// # Errors
/// [`TrainError::Model`] from the tokenizer.
pub fn prompt_tokens(
    tokenizer: &Tokenizer,
    prompt: &Prompt,
    template: Option<&ChatTemplate>,
    text: &str,
) -> Result<Vec<u32>, TrainError> {
    let rendered = matches!(prompt, Prompt::Chat(_)) && template.is_some();
    Ok(if rendered {
        tokenizer.encode(text)?
    } else {
        tokenizer.encode_plain(text)?
    })
}

/// The token that ends an answer: what the template writes behind an earlier one for a chat prompt,
/// the text's end otherwise.
pub fn end_token(
    tokenizer: &Tokenizer,
    prompt: &Prompt,
    template: Option<&ChatTemplate>,
) -> Option<u32> {
    let turn = template.filter(|_| matches!(prompt, Prompt::Chat(_)));
    let order = if turn.is_some() {
        ["<|im_end|>", "<|eot_id|>"]
    } else {
        ["<|endoftext|>", "</s>"]
    };
    let named = || order.iter().find_map(|t| tokenizer.token_id(t));
    let end = turn.and_then(ChatTemplate::turn_end).or_else(named);
    end.or_else(|| tokenizer.eos_token())
        .or_else(|| tokenizer.eos_ids().next())
}

/// All training rows and the ones held out.
pub(crate) struct Samples {
    pub train: Vec<Sample>,
    pub validation: Vec<Sample>,
    pub notes: DataNotes,
}

/// Reads, draws and tokenizes the data sets of a recipe.
pub(crate) fn load(recipe: &Recipe, dir: &Path, model: &Checkpoint) -> Result<Samples, TrainError> {
    let limit = recipe
        .data
        .max_seq_len
        .min(model.config.max_position_embeddings());
    let mut train = Vec::new();
    let mut validation = Vec::new();
    let mut notes = DataNotes::default();
    for (nth, dataset) in recipe.dataset.iter().enumerate() {
        let rows = Rows::read(dataset, dir)?;
        notes.rows += rows.excluded;
        notes.excluded += rows.excluded;
        let mut rng = Rng::new(recipe.train.seed, &format!("dataset {nth}"));
        let examples = draw(rows.examples, dataset, &mut rng);
        notes.unpaired += rows.unpaired;
        notes.rows += rows.unpaired;
        let how = How {
            model,
            limit,
            data: &recipe.data,
            turns: dataset.format == Format::Chat,
        };
        let mut rows = how.rows(dataset.format, &examples, &mut notes)?;
        if let Some(held_out) = Rows::read_validation(dataset, dir)? {
            notes.unpaired += held_out.unpaired;
            notes.rows += held_out.unpaired;
            let held_out = how.rows(dataset.format, &held_out.examples, &mut notes)?;
            if held_out.is_empty() {
                let reason = "none of its rows has something to measure".into();
                return Err(TrainError::Setting {
                    key: "dataset.val_path",
                    reason,
                });
            }
            validation.extend(held_out.into_iter().flatten());
        }
        rng.shuffle(&mut rows);
        let kept = (rows.len() as f64 * recipe.data.val_fraction) as usize;
        validation.extend(rows.drain(..kept).flatten());
        let mut samples: Vec<Sample> = rows.into_iter().flatten().collect();
        weigh(&mut samples, dataset.weight, nth)?;
        train.extend(samples);
    }
    if train.is_empty() {
        return Err(TrainError::NoData { max_seq_len: limit });
    }
    let asked_for = recipe.data.val_fraction > 0.0
        || recipe
            .eval
            .as_ref()
            .is_some_and(|e| e.every_steps.is_some());
    notes.no_validation = asked_for && validation.is_empty();
    Ok(Samples {
        train,
        validation,
        notes,
    })
}

/// Repeats or thins out the rows of the `nth` data set, within the memory for it and never to none.
fn weigh(samples: &mut Vec<Sample>, weight: f64, nth: usize) -> Result<(), TrainError> {
    let tokens: usize = samples.iter().map(|s| s.tokens.len()).sum();
    if weight > 1.0 && tokens as f64 * weight > REPEATED_TOKENS {
        let reason = format!(
            "{weight} times the {tokens} tokens of data set {nth} are more than fit into memory"
        );
        return Err(TrainError::Setting {
            key: "dataset.weight",
            reason,
        });
    }
    let whole = samples.len();
    repeat(samples, weight);
    if samples.is_empty() && whole > 0 {
        let reason = format!("{weight} of {whole} rows is none");
        return Err(TrainError::Setting {
            key: "dataset.weight",
            reason,
        });
    }
    Ok(())
}

/// Token ids of up to `count` of the rows that a recipe trains on, out of all its data sets.
///
/// # Errors
/// As for training: a file that is missing or damaged, a template that refuses a row.
pub fn some_rows(
    recipe: &Recipe,
    dir: &Path,
    model: &Checkpoint,
    count: usize,
) -> Result<Vec<Vec<u32>>, TrainError> {
    let limit = recipe
        .data
        .max_seq_len
        .min(model.config.max_position_embeddings());
    let each = count.div_ceil(recipe.dataset.len().max(1));
    let mut rows = Vec::new();
    let mut notes = DataNotes::default();
    for (nth, dataset) in recipe.dataset.iter().enumerate() {
        let mut rng = Rng::new(recipe.train.seed, &format!("dataset {nth}"));
        let examples = draw(Rows::read(dataset, dir)?.examples, dataset, &mut rng);
        // Files are often sorted.
        let step = (examples.len() / each).max(1);
        let some: Vec<Example> = examples.into_iter().step_by(step).take(each).collect();
        let samples = if dataset.format == Format::Text {
            windows(&some, model, limit)?
        } else {
            let how = How {
                model,
                limit,
                data: &recipe.data,
                turns: dataset.format == Format::Chat,
            };
            let samples = some.iter().map(|example| how.samples(example, &mut notes));
            samples
                .collect::<Result<Vec<_>, _>>()?
                .into_iter()
                .flatten()
                .collect()
        };
        rows.extend(
            samples
                .into_iter()
                .map(|sample| sample.tokens)
                .filter(|tokens| !tokens.is_empty())
                .take(each),
        );
    }
    Ok(rows)
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

/// How examples become samples.
struct How<'a> {
    model: &'a Checkpoint,
    /// Most tokens of a sample.
    limit: usize,
    data: &'a marill_recipe::Data,
    /// Whether earlier turns of the assistant are answers of a conversation.
    turns: bool,
}

impl How<'_> {
    /// What each example gives: it stays together, so that none of it is learned where another
    /// part is held out. Those with nothing to learn are left out and counted.
    fn rows(
        &self,
        format: Format,
        examples: &[Example],
        notes: &mut DataNotes,
    ) -> Result<Vec<Vec<Sample>>, TrainError> {
        let mut rows: Vec<Vec<Sample>> = if format == Format::Text {
            let windows = windows(examples, self.model, self.limit)?;
            windows.into_iter().map(|sample| vec![sample]).collect()
        } else {
            let samples = examples.iter().map(|e| self.samples(e, notes));
            samples.collect::<Result<_, _>>()?
        };
        notes.rows += rows.len();
        let all = rows.len();
        rows.iter_mut()
            .for_each(|samples| samples.retain(|s| s.targets().next().is_some()));
        rows.retain(|samples| !samples.is_empty());
        notes.without_answer += all - rows.len();
        Ok(rows)
    }

    /// One sample that learns all that is to be learned of an example, or one for each answer where
    /// one cannot hold them.
    fn samples(&self, example: &Example, notes: &mut DataNotes) -> Result<Vec<Sample>, TrainError> {
        let earlier = match &example.prompt {
            Prompt::Chat(turns) if self.turns && self.data.train_on == TrainOn::All => {
                answers(turns)
            }
            _ => Vec::new(),
        };
        if earlier.is_empty() {
            return Ok(vec![self.last_answer(example, notes)?]);
        }
        if let Some(whole) = self.conversation(example, &earlier)?
            && whole.tokens.len() <= self.limit
        {
            return Ok(vec![whole]);
        }
        // Each answer behind as much of what was said before as fits.
        notes.divided += 1;
        let mut samples = Vec::with_capacity(earlier.len() + 1);
        let Prompt::Chat(turns) = &example.prompt else {
            return Ok(samples);
        };
        for &nth in &earlier {
            let prompt = Prompt::Chat(turns[..nth].to_vec());
            samples.push(self.last_answer(
                &Example {
                    prompt,
                    completion: turns[nth].content.clone(),
                    label: None,
                },
                notes,
            )?);
        }
        samples.push(self.last_answer(example, notes)?);
        Ok(samples)
    }

    /// A whole conversation with every answer and its end mark learned; `None` where the chat
    /// template does not write an earlier answer as it stands, so that what was learned would not
    /// be what the model is asked for.
    fn conversation(
        &self,
        example: &Example,
        earlier: &[usize],
    ) -> Result<Option<Sample>, TrainError> {
        let tokenizer = &self.model.tokenizer;
        let template = self.model.chat_template.as_ref();
        let Prompt::Chat(turns) = &example.prompt else {
            return Ok(None);
        };
        let end = end_token(tokenizer, &example.prompt, template);
        let mut tokens = Vec::new();
        let mut learned = Vec::new();
        let mut written = String::new();
        for &nth in earlier.iter().chain([&turns.len()]) {
            let text = prompt_text(&Prompt::Chat(turns[..nth].to_vec()), template)?;
            let Some(new) = text.strip_prefix(written.as_str()) else {
                return Ok(None);
            };
            let new_tokens = match nth == earlier[0] {
                true => prompt_tokens(tokenizer, &example.prompt, template, new)?,
                false => tokenizer.encode_continuing(new)?,
            };
            // The mark that ends the answer before is learned with it.
            if let Some(before) = learned.last_mut() {
                let before: &mut Range<usize> = before;
                if end.is_none() || new_tokens.first() != end.as_ref() {
                    return Ok(None);
                }
                before.end += 1;
            }
            tokens.extend(new_tokens);
            let answer = turns
                .get(nth)
                .map_or(&example.completion, |turn| &turn.content);
            let from = tokens.len();
            tokens.extend(tokenizer.encode_continuing(answer)?);
            written = text + answer;
            learned.push(from..tokens.len());
        }
        if example.completion.trim().is_empty() {
            // The end mark alone would teach to say nothing.
            learned.pop();
        } else {
            tokens.extend(end);
            if let Some(last) = learned.last_mut() {
                last.end = tokens.len();
            }
        }
        if self.data.train_on_input {
            learned = std::iter::once(0..tokens.len()).collect();
        }
        Ok(Some(Sample { tokens, learned }))
    }

    /// The example's own answer behind its prompt.
    fn last_answer(&self, example: &Example, notes: &mut DataNotes) -> Result<Sample, TrainError> {
        if example.completion.trim().is_empty() {
            // The end mark alone would teach to say nothing.
            return Ok(Sample {
                tokens: Vec::new(),
                learned: Vec::new(),
            });
        }
        let tokenizer = &self.model.tokenizer;
        let template = self.model.chat_template.as_ref();
        notes.no_template |= template.is_none() && matches!(example.prompt, Prompt::Chat(_));
        let text = prompt_text(&example.prompt, template)?;
        let prompt = prompt_tokens(tokenizer, &example.prompt, template, &text)?;
        let mut answer = tokenizer.encode_continuing(&example.completion)?;
        answer.extend(end_token(tokenizer, &example.prompt, template));
        let most = self.limit.saturating_sub(1);
        notes.shortened_answers += usize::from(answer.len() > most);
        answer.truncate(most);
        // The end of a prompt matters more than its beginning: there stands what is asked for.
        let room = self.limit - answer.len();
        let cut = prompt.len().saturating_sub(room);
        notes.shortened_prompts += usize::from(cut > 0);
        let prompt = &prompt[cut..];
        let from = if self.data.train_on_input {
            0
        } else {
            prompt.len()
        };
        Ok(Sample::learnt_from([prompt, &answer].concat(), from))
    }
}

/// The places of the assistant's turns that say something.
fn answers(turns: &[Turn]) -> Vec<usize> {
    (0..turns.len())
        .filter(|&nth| turns[nth].role == "assistant" && !turns[nth].content.trim().is_empty())
        .collect()
}

/// Running text, document after document, cut into pieces of `limit` tokens.
fn windows(
    examples: &[Example],
    model: &Checkpoint,
    limit: usize,
) -> Result<Vec<Sample>, TrainError> {
    let mut stream = Vec::new();
    for example in examples {
        stream.extend(model.tokenizer.encode_plain(&example.completion)?);
        stream.extend(end_token(&model.tokenizer, &example.prompt, None));
    }
    Ok(stream
        .chunks(limit)
        .map(|tokens| Sample::learnt_from(tokens.to_vec(), 0))
        .collect())
}

/// Rows that predict, counted over the batch, and the tokens that they should predict.
pub(crate) fn targets(samples: &[Sample], batch: &[usize]) -> (Vec<u32>, Vec<u32>) {
    let mut rows = Vec::new();
    let mut labels = Vec::new();
    let mut start = 0;
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
mod tests;
