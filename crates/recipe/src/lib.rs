//! Recipes: the TOML file that says what to train on what, and how rows of data become prompts and
//! answers.
//!
//! [`Recipe::read`] reports every problem of a file at once, with line and caret. [`Rows::read`]
//! turns a `[[dataset]]` table into [`Example`]s; training and evaluation share that rendering.

mod chat;
mod compat;
mod data;
mod error;
mod files;
mod layout;
mod locate;
mod open;
mod read;
mod recipe;
mod schema;

pub use chat::Turn;
pub use data::{Example, Prompt, Rows, questions};
pub use error::{Place, Problem, RecipeError};
pub use files::locate_data;
pub use locate::locate;
pub use read::{Numbered, Record, read_records, read_text};
pub use recipe::{
    Architecture, Checkpointing, Data, Dataset, Distill, Eval, Export, FINE_TUNED, FineTune,
    Format, Freeze, Grouping, Heads, Init, KeepLogits, Lora, LoraInit, Method, Model, Optimizer,
    Output, Recipe, Schedule, Stage, Style, TokenizerSpec, Train, TrainOn,
};
pub use schema::about::{Key, keys};
