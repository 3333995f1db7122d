//! Continues two prompts at once, prints the text of each as it becomes certain, and cancels the second one after its
//! first words.
//!
//! `cargo run --manifest-path examples/two-requests/Cargo.toml [MODEL]`: a folder or a `.gguf` file; without one a random
//! model of 230 000 weights that ships with the tests, which writes noise.

use lacuna_engine::{Engine, EngineOptions, Event, GenerateOptions, Model, OpenOptions, Resolved};
use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let shipped = "../../fixtures/golden/models/tiny_untied";
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join(shipped);
    let path = std::env::args_os().nth(1).map_or(shipped, Into::into);
    let model = Model::open(&path, &OpenOptions::default())?;

    let mut engine = Engine::new(&model, EngineOptions::default());
    let options = GenerateOptions { max_new_tokens: 32, ..GenerateOptions::default() };
    let first = engine.push(Resolved::new(&model, "def fibonacci(n):\n", &options)?)?;
    let second = engine.push(Resolved::new(&model, "class Stack:\n", &options)?)?;

    // One pass over both at a time. More could be pushed, or cancelled, between any two of them.
    let mut second_speaks = false;
    while !engine.is_empty() {
        for event in engine.step() {
            match event {
                Event::Text { id, piece } => {
                    println!("{id}: {piece:?}");
                    second_speaks |= id == second;
                }
                Event::Finished { id, completion } => println!("{id} wrote {:?}", completion.text),
                Event::Failed { id, error } => println!("{id} failed: {error}"),
                Event::Refinement { .. } | Event::Block { .. } => {} // not asked for
            }
        }
        if std::mem::take(&mut second_speaks) {
            println!("{second} is cancelled after {:?}", engine.cancel(second)?.text);
        }
    }
    println!("{first} and {second}: {} passes", engine.passes());
    Ok(())
}
