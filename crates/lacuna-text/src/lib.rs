//! Turns text to tokens and back, as a model wants its text written.
//!
//! ```
//! use lacuna_text::{ChatTemplate, Fim, Message, RenderOptions, TextStream, Tokenizer};
//! # let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/tokenizer/tokenizer.json");
//! let tokenizer = Tokenizer::from_file(file)?;
//! let turns = [Message::new("user", "Sort a list.")];
//! let options = RenderOptions { add_generation_prompt: true, ..Default::default() };
//! let prompt = ChatTemplate::seed_coder().encode(&tokenizer, &turns, &options)?;
//!
//! let mut answer = TextStream::after(&tokenizer, &prompt)?;
//! let mut text = String::new();
//! for id in tokenizer.encode("xs.sort()")? {
//!     text += &answer.push(&[id])?; // whole characters only
//! }
//! assert_eq!(text + &answer.finish()?, "xs.sort()");
//!
//! let hole = Fim::from_tokenizer(&tokenizer)?.prompt_text(&tokenizer, "fn main() {", "}\n")?;
//! assert!(!hole.is_empty());
//! # Ok::<(), lacuna_text::Error>(())
//! ```
//!
//! - A [`Tokenizer`] turns text into ids and back, as a `tokenizer.json` says; [`Tokenizer::train_bpe`] makes one, the
//!   same on every machine. A [`TextStream`] turns growing ids into text that only grows.
//! - A [`ChatTemplate`] writes conversations as a model expects them. It is a program of a stranger's, so it runs
//!   within bounds on time, memory and stack, and with what is known of its language, and nothing else.
//! - A [`Fim`] marks holes in the order that a family of models was trained on.
//! - [`ModelFiles`] and [`Settings`] are what the other files of a checkpoint say of tokens, template and sampling.
//!
//! Corpora, and what is supervised in a conversation, are the business of `lacuna-data`; models and downloads are that of
//! other crates.

#![forbid(unsafe_code)]

pub mod chat;
mod error;
pub mod fim;
mod side;
mod stream;
mod template;
mod tokenizer;

pub use chat::{ChatTemplate, Message, RenderOptions};
pub use error::{Error, Result};
pub use fim::{Fim, FimFormat, FimOrder};
pub use side::{Facts, Generation, ModelFiles, Settings};
pub use stream::TextStream;
pub use tokenizer::{SPECIAL_TOKENS, Tokenizer};
