//! Holds one short conversation, and what tests render it with.

use lacuna_text::{Message, RenderOptions, Tokenizer};

/// Two questions with their answers, the second of which ends in a line break.
pub const TALK: [(&str, &str); 5] = [
    ("system", "Be brief."),
    ("user", "One?"),
    ("assistant", "1"),
    ("user", "Two?"),
    ("assistant", "2\n"),
];

/// Messages from pairs of role and content.
pub fn turns(turns: &[(&str, &str)]) -> Vec<Message> {
    turns.iter().map(|(role, content)| Message::new(*role, *content)).collect()
}

/// Options for a text that the assistant goes on with.
pub fn prompt() -> RenderOptions {
    RenderOptions { add_generation_prompt: true, ..Default::default() }
}

/// The tokenizer of the fixtures.
pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_file(crate::fixture("tokenizer/tokenizer.json")).unwrap()
}
