//! Writes a JSON line for each text: on stdout, or into a file that a later run goes on with.

use anyhow::Result;
use serde_json::{Value, json};
use std::io::IsTerminal;

use super::super::answers::{Answers, Asked, key, place, with_id};
use super::plan::{Named, Plan};
use super::tokens::Prepared;
use super::{Args, orders};

/// The lines that texts get: on stdout, in a file that is gone on with, or none.
pub(super) struct Lined {
    to: To,
    ids: Vec<Value>,
    keys: Vec<String>,
    /// Texts that are done, of earlier runs too, and those of them that failed.
    pub(super) known: usize,
    pub(super) failed: usize,
    first_failure: Option<String>,
}

enum To {
    Nowhere,
    Stdout,
    File(Answers),
}

impl Lined {
    /// Hands the lines of an earlier run to `take`.
    pub(super) fn open(
        args: &Args,
        plan: &Plan<'_>,
        texts: &[Prepared],
        take: &mut dyn FnMut(&Value),
    ) -> Result<Self> {
        let keys: Vec<String> = texts.iter().map(|text| request(args, plan, text)).collect();
        let ids: Vec<Value> = texts.iter().map(|text| text.id.clone()).collect();
        let (mut known, mut failed) = (0, 0);
        let to = match (&args.out, &args.jsonl) {
            (None, None) => To::Nowhere,
            (None, Some(_)) => To::Stdout,
            (Some(out), _) => {
                let asked =
                    Asked { noun: "text", ids: &ids, key: &|at: usize| Ok(keys[at].clone()) };
                let answers = Answers::open(out, &asked, &mut |_, line| {
                    if line.get("error").is_none() {
                        take(line);
                    }
                })?;
                (known, failed) = (answers.known.done, answers.known.failed);
                To::File(answers)
            }
        };
        Ok(Self { to, ids, keys, known, failed, first_failure: None })
    }

    /// True if somebody watches the lines come: progress on the same terminal would be in their way.
    pub(super) fn are_seen(&self) -> bool {
        matches!(self.to, To::Stdout) && std::io::stdout().is_terminal()
    }

    pub(super) fn append(&mut self, number: usize, line: Result<Value, String>) -> Result<()> {
        let id = &self.ids[number];
        self.known += 1;
        let line = match line {
            Ok(mut line) => {
                if matches!(self.to, To::File(_)) {
                    line["request"] = self.keys[number].as_str().into();
                }
                line
            }
            Err(reason) => {
                self.failed += 1;
                self.first_failure.get_or_insert_with(|| format!("{id}: {reason}"));
                json!({ "error": reason })
            }
        };
        match &mut self.to {
            To::Nowhere => {}
            To::Stdout => out!("{}", with_id(id, &line).trim_end()),
            To::File(answers) => answers.append(id, &line)?,
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) -> Result<()> {
        match &mut self.to {
            To::File(answers) => answers.sync(),
            To::Nowhere | To::Stdout => Ok(()),
        }
    }

    /// An error if some texts could not be scored.
    pub(super) fn failures(&self, all: usize) -> Result<()> {
        match (self.failed, &self.first_failure) {
            (0, _) => Ok(()),
            (failed, Some(first)) => {
                anyhow::bail!("{failed} of {all} texts failed; the first: {first}")
            }
            (failed, None) => anyhow::bail!("{failed} of {all} texts failed; their lines say why"),
        }
    }
}

/// A name for everything that a text's line depends on.
fn request(args: &Args, plan: &Plan<'_>, text: &Prepared) -> String {
    let Ok(text) = &text.tokens else { return String::new() };
    let methods: Vec<_> = plan.methods.iter().map(|method| method.name()).collect();
    let blocks = plan.blocks(Named::Exact, text.tokens.len());
    let strides = plan.windows(text).ok().filter(|windows| windows.len() > 1);
    let strides = strides.and_then(|_| plan.strides().ok());
    let how = json!({
        "methods": methods,
        "block_size": blocks.map(|blocks| blocks.block_size),
        "mask": blocks.map(|blocks| blocks.mask_id),
        "attention": plan.attention.name(),
        "samples": args.how.samples,
        "seed": args.how.seed,
        "strides": strides.map(|strides| (strides.window(), strides.stride())),
        "dtype": args.model.dtype.map(|dtype| dtype.name()),
    });
    let place = place(plan.model);
    let scored: Vec<usize> = (0..text.tokens.len()).filter(|at| text.eligible[*at]).collect();
    key(vec![
        json!(place.to_string_lossy()),
        json!(text.tokens),
        json!(scored),
        how,
        orders::settings(args),
    ])
}
