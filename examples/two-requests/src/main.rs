//! Two requests on one model, decoded together, each streamed as soon as its text is certain.
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
    for prompt in ["def fibonacci(n):\n", "def is_prime(n):\n"] {
        let id = engine.push(Resolved::new(&model, prompt, &options)?)?;
        println!("request {id} continues {prompt:?}");
    }

    // One pass over both at a time. More could be pushed, or cancelled, between any two of them.
    while !engine.is_empty() {
        for event in engine.step() {
            match event {
                Event::Text { id, piece } => println!("request {id} writes {piece:?}"),
                Event::Finished { id, written } => {
                    println!(
                        "request {id} wrote {} tokens: {:?}",
                        written.tokens.len(),
                        written.finish
                    );
                }
                Event::Failed { id, error } => return Err(format!("request {id}: {error}").into()),
                Event::Refinement { .. } | Event::Block { .. } => {} // not asked for
            }
        }
    }
    println!("{} passes for both", engine.passes());
    Ok(())
}
