//! Writes the samples of a run: what its model completes the recipe's prompts with, and how.

use anyhow::Result;
use lacuna::model::Transformer;
use lacuna::samplers::trace::Line;
use lacuna::text::Tokenizer;
use lacuna::train::{EvaluationRecipe, RunData, Sample};
use lacuna::{Model, Resolved};
use std::sync::Arc;

use super::results::completion;

/// Decodes with a model that is being trained.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    tokenizer: Option<Arc<Tokenizer>>,
}

impl Sampler {
    /// Completes every prompt, as at the end of the run.
    ///
    /// # Errors
    /// Errors if the model can't be decoded with: a prompt is too long for it, say.
    pub(super) fn write(
        &mut self,
        model: &Transformer,
        data: &RunData,
        wanted: &EvaluationRecipe,
    ) -> Result<Vec<Sample>> {
        let tokenizer = match &self.tokenizer {
            Some(tokenizer) => Arc::clone(tokenizer),
            None => {
                let json = data.tokenizer.to_json();
                let rows = model.config().vocab_size;
                let read = Tokenizer::of_model(json.as_bytes(), rows, "tokenizer.json".as_ref())?;
                Arc::clone(self.tokenizer.insert(Arc::new(read)))
            }
        };
        let model = Model::in_memory(model.frozen()?, tokenizer);
        let prompts = wanted.prompts.iter().enumerate();
        prompts.map(|(request, prompt)| sample(&model, wanted, (request, prompt))).collect()
    }
}

fn sample(
    model: &Model,
    wanted: &EvaluationRecipe,
    (number, prompt): (usize, &String),
) -> Result<Sample> {
    let options = completion(model, wanted, prompt)?;
    let resolved = Resolved::new(model, prompt.as_str(), &options)?;
    let mut lines = vec![resolved.trace_header()?];
    let written = lacuna::generate(model, prompt.as_str(), &options, |event| {
        lines.push(Line::from(event));
    })?;
    lines.push(written.trace_end());
    let mut trace = String::new();
    for mut line in lines {
        match &mut line {
            Line::Header { request, .. } | Line::Block { request, .. } => *request = number,
            Line::End { request, .. } => *request = number,
            Line::Refinement(refinement) => refinement.request = number,
        }
        trace.push_str(&line.to_json());
        trace.push('\n');
    }
    let (tokens, forwards) = (written.tokens.len(), written.forwards);
    Ok(Sample { prompt: prompt.clone(), text: written.text, tokens, forwards, trace })
}
